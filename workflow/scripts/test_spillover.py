"""Paired change of each attribute's fairness, with tests, corrections and verdicts."""

from pathlib import Path

import pandas as pd
from spillover import runs, statistics
from spillover.files import read_table, write_table
from spillover.logs import log_to

with log_to(snakemake.log[0]):
    settings = snakemake.params.statistics
    items = pd.concat(map(read_table, snakemake.input.item_tables), ignore_index=True)
    heldout = {Path(path).parent.name: read_table(path) for path in snakemake.input.heldout}
    changes, aggregates, transitions = [], [], []
    for model, files_by_run in snakemake.params.runs.items():
        for alignment, targets in snakemake.params.targets.items():
            asked = runs.asked_items(
                items, runs.heldout_for(alignment, heldout), snakemake.params.blocks
            )
            base = runs.read_run(files_by_run["base"], items, asked)
            aligned = {
                run.rpartition("/")[2]: runs.read_run(files, items, asked)
                for run, files in files_by_run.items()
                if run.rpartition("/")[0] == alignment
            }
            answered = runs.items_of(items, next(iter(aligned.values())))
            compared = (answered, base, aligned)
            keys = {"model": model, "alignment": alignment}
            change = statistics.compare(*compared, settings).assign(**keys)
            changes.append(change.assign(targeted=change["attribute"].isin(targets)))
            aggregate = statistics.aggregate(*compared, settings, targets)
            aggregates.append(aggregate.assign(**keys))
            transitions.append(statistics.transitions(*compared).assign(**keys))
    changes = statistics.correct(pd.concat(changes, ignore_index=True), settings)
    write_table(changes, snakemake.output.spillover)
    write_table(runs.stack(aggregates, ["model", "alignment"]), snakemake.output.aggregate)
    write_table(runs.stack(transitions, ["model", "alignment"]), snakemake.output.transitions)
