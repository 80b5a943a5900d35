"""Which alignment spills most, which attribute suffers most, and which resemble each other."""

from pathlib import Path

import pandas as pd
from spillover.core.files import read_table, write_table
from spillover.core.logs import log_to
from spillover.data.samples import asked_items, heldout_for
from spillover.statistics import runs
from spillover.statistics.changes import pair
from spillover.statistics.profiles import profiles
from spillover.statistics.tables import stack


def change_of(alignment: str, files_by_run: dict) -> pd.Series:
    """Each item's change of correctness, less that by the control if there is one."""
    params = snakemake.params
    asked = asked_items(items, heldout_for(alignment, heldout), params.blocks)
    base = runs.read_run(files_by_run["base"], items, asked)
    total = 0.0
    for sign, name in ((1, alignment), (-1, params.controls.get(alignment))):
        if name is not None:
            aligned = runs.read_seeds(files_by_run, name, items, asked)
            answered = runs.items_of(items, next(iter(aligned.values())))
            paired = pair(answered, base, aligned)
            total += sign * pd.Series(paired.change, index=paired.items["item_id"])
    return total


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
