"""Arms against a reference: which does the same with less harm to other attributes."""

from pathlib import Path

import pandas as pd
from spillover.core.files import read_table, write_table
from spillover.core.logs import log_to
from spillover.statistics import tradeoff
from spillover.statistics.ranking import ranking
from spillover.statistics.runs import read_change
from spillover.statistics.tables import stack


def beside(model: str) -> pd.DataFrame:
    """What the companion sets say of each arm."""
    files = params.answers[model]
    runs = [f"{arm}/seed{seed}" for arm in params.arms for seed in params.seeds]
    answers = {
        name: {run: read_table(files[run][name]) for run in ("base", *runs)}
        for name in params.kinds
    }
    drawn = tradeoff.of_sets(params.kinds, companions, answers, runs, params.statistics)
    alignments = [run.rpartition("/")[0] for run in runs]
    alpha = params.statistics["alpha"]
    return tradeoff.by_alignment(drawn, alignments, params.reference, alpha)


with log_to(snakemake.log[0]):
    params = snakemake.params
    companions = {Path(path).stem: read_table(path) for path in snakemake.input.companions}
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
    tables = [
        table.join(beside(model), on="arm") if model in params.answers else table
        for table, model in zip(tables, params.runs, strict=True)
    ]
    write_table(stack(tables, ["model"]), snakemake.output[0])
