"""Do language, ability, stereotypes and fairness change together, over the runs of a study?"""

from pathlib import Path

import pandas as pd
from spillover.core.files import read_table, write_table
from spillover.core.logs import log_to
from spillover.statistics import tradeoff
from spillover.statistics.runs import read_change


def changes(model: str, runs: list[str]) -> list[pd.Series]:
    """Each item's change of correctness in each run."""
    base = {"base": params.predictions[model]["base"]}
    return [
        read_change(
            base | {run.partition("@")[0]: params.predictions[model][run]},
            run.rpartition("/")[0],
            None,
            items,
            heldout,
            params.blocks,
        )
        for run in runs
    ]


with log_to(snakemake.log[0]):
    params, settings = snakemake.params, snakemake.params.statistics
    items = pd.concat(map(read_table, snakemake.input.item_tables), ignore_index=True)
    heldout = {Path(path).parent.name: read_table(path) for path in snakemake.input.heldout}
    companions = {
        name: read_table(file)
        for name, file in zip(params.sets, snakemake.input.companions, strict=True)
    }
    tables, points = [], []
    for model, of_runs in params.answers.items():
        runs = [run for run in of_runs if run != "base"]
        alignments = [run.rpartition("/")[0] for run in runs]
        seeds = [run.rpartition("/")[2].partition("@")[0] for run in runs]
        read = {
            name: {run: read_table(files[name]) for run, files in of_runs.items()}
            for name in params.sets
        }
        drawn = tradeoff.of_sets(params.kinds, companions, read, runs, settings)
        drawn["fairness"] = tradeoff.of_items(items, changes(model, runs), settings)
        trainings = [params.origins[name] for name in alignments]
        found = tradeoff.correlations(drawn, trainings, seeds, settings)
        tables.append(found.assign(model=model))
        points.append(
            tradeoff.points(drawn, runs, alignments, settings["alpha"]).assign(model=model)
        )
    write_table(pd.concat(tables, ignore_index=True)[tradeoff.COLUMNS], snakemake.output.tradeoff)
    write_table(pd.concat(points, ignore_index=True)[tradeoff.RUN_COLUMNS], snakemake.output.runs)
