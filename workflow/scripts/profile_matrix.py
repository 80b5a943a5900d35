"""Which alignment spills most, which attribute suffers most, and which resemble each other."""

from pathlib import Path

import pandas as pd
from spillover.core.files import read_table, write_table
from spillover.core.logs import log_to
from spillover.data.samples import asked_items, heldout_for
from spillover.statistics import runs
from spillover.statistics.profiles import net_change, profiles
from spillover.statistics.tables import stack


def change_of(alignment: str, files_by_run: dict) -> pd.Series:
    """Each item's change by an alignment, net of its control if it has one."""
    asked = asked_items(items, heldout_for(alignment, heldout), params.blocks)
    base = runs.read_run(files_by_run["base"], items, asked)
    of, minus = (
        name and runs.read_seeds(files_by_run, name, items, asked)
        for name in (alignment, params.controls.get(alignment))
    )
    answered = runs.items_of(items, next(iter(of.values())))
    return net_change(answered, base, of, minus)


with log_to(snakemake.log[0]):
    params = snakemake.params
    items = pd.concat(map(read_table, snakemake.input.item_tables), ignore_index=True)
    heldout = {Path(path).parent.name: read_table(path) for path in snakemake.input.heldout}
    tables = [
        profiles(
            items,
            {name: change_of(name, files_by_run) for name in params.shown},
            params.targets,
            params.statistics,
        ).assign(model=model)
        for model, files_by_run in params.runs.items()
    ]
    write_table(stack(tables, ["model"]), snakemake.output[0])
