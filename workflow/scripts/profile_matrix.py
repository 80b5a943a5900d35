"""Which alignment spills most, which attribute suffers most, and which resemble each other."""

from pathlib import Path

import pandas as pd
from spillover.core.files import read_table, write_table
from spillover.core.logs import log_to
from spillover.statistics.profiles import profiles
from spillover.statistics.runs import read_change
from spillover.statistics.tables import stack

with log_to(snakemake.log[0]):
    params = snakemake.params
    items = pd.concat(map(read_table, snakemake.input.item_tables), ignore_index=True)
    heldout = {Path(path).parent.name: read_table(path) for path in snakemake.input.heldout}
    tables = [
        profiles(
            items,
            {
                name: read_change(
                    files_by_run, name, params.controls.get(name), items, heldout, params.blocks
                )
                for name in params.shown
            },
            params.targets,
            params.statistics,
        ).assign(model=model)
        for model, files_by_run in params.runs.items()
    ]
    write_table(stack(tables, ["model"]), snakemake.output[0])
