"""Paired change of each attribute's fairness, with tests, corrections and verdicts."""

from pathlib import Path

import pandas as pd
from spillover.core.files import read_table, write_table
from spillover.core.logs import log_to
from spillover.data.samples import asked_items, heldout_for
from spillover.statistics import runs
from spillover.statistics.aggregate import aggregate
from spillover.statistics.changes import compare, correct
from spillover.statistics.movement import certainty
from spillover.statistics.tables import stack
from spillover.statistics.transitions import transitions

with log_to(snakemake.log[0]):
    settings = snakemake.params.statistics
    items = pd.concat(map(read_table, snakemake.input.item_tables), ignore_index=True)
    heldout = {Path(path).parent.name: read_table(path) for path in snakemake.input.heldout}
    changes, aggregates, states, thirds = [], [], [], []
    for model, files_by_run in snakemake.params.runs.items():
        for alignment, targets in snakemake.params.targets.items():
            asked = asked_items(items, heldout_for(alignment, heldout), snakemake.params.blocks)
            base = runs.read_run(files_by_run["base"], items, asked)
            aligned = runs.read_seeds(files_by_run, alignment, items, asked)
            answered = runs.items_of(items, next(iter(aligned.values())))
            compared = (answered, base, aligned)
            keys = {"model": model, "alignment": alignment}
            change = compare(*compared, settings).assign(**keys)
            changes.append(change.assign(targeted=change["attribute"].isin(targets)))
            pooled = aggregate(*compared, settings, targets)
            aggregates.append(pooled.assign(**keys))
            states.append(transitions(*compared).assign(**keys))
            thirds.append(certainty(*compared).assign(**keys))
    table = correct(pd.concat(changes, ignore_index=True), settings)
    write_table(table, snakemake.output.spillover)
    write_table(stack(aggregates, ["model", "alignment"]), snakemake.output.aggregate)
    write_table(stack(states, ["model", "alignment"]), snakemake.output.transitions)
    write_table(stack(thirds, ["model", "alignment"]), snakemake.output.certainty)
