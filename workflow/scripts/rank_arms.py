"""Arms against a reference: which does the same with less harm to other attributes."""

from pathlib import Path

import pandas as pd
from spillover.core.files import read_table, write_table
from spillover.core.logs import log_to
from spillover.data.samples import asked_items, heldout_for
from spillover.statistics import runs
from spillover.statistics.profiles import net_change
from spillover.statistics.ranking import ranking
from spillover.statistics.tables import stack


def change_of(arm: str, files_by_run: dict) -> pd.Series:
    """Each item's change by an arm."""
    asked = asked_items(items, heldout_for(arm, heldout), params.blocks)
    base = runs.read_run(files_by_run["base"], items, asked)
    of = runs.read_seeds(files_by_run, arm, items, asked)
    return net_change(runs.items_of(items, next(iter(of.values()))), base, of)


with log_to(snakemake.log[0]):
    params = snakemake.params
    items = pd.concat(map(read_table, snakemake.input.item_tables), ignore_index=True)
    heldout = {Path(path).parent.name: read_table(path) for path in snakemake.input.heldout}
    tables = [
        ranking(
            items,
            {arm: change_of(arm, files_by_run) for arm in params.arms},
            params.reference,
            params.targets,
            params.judged,
            params.statistics,
        ).assign(model=model)
        for model, files_by_run in params.runs.items()
    ]
    write_table(stack(tables, ["model"]), snakemake.output[0])
