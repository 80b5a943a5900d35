"""Arms against a reference: which does the same with less harm to other attributes."""

from pathlib import Path

import pandas as pd
from spillover.core.files import read_table, write_table
from spillover.core.logs import log_to
from spillover.statistics.ranking import ranking
from spillover.statistics.runs import read_change
from spillover.statistics.tables import stack

with log_to(snakemake.log[0]):
    params = snakemake.params
    items = pd.concat(map(read_table, snakemake.input.item_tables), ignore_index=True)
    heldout = {Path(path).parent.name: read_table(path) for path in snakemake.input.heldout}
    tables = [
        ranking(
            items,
            {
                arm: read_change(files_by_run, arm, None, items, heldout, params.blocks)
                for arm in params.arms
            },
            params.reference,
            params.targets,
            params.judged,
            params.statistics,
        ).assign(model=model)
        for model, files_by_run in params.runs.items()
    ]
    write_table(stack(tables, ["model"]), snakemake.output[0])
