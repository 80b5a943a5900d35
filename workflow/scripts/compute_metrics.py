"""Accuracy, outcome rates, bias scores and the part of position, of every run."""

from pathlib import Path

import pandas as pd
from spillover.core.files import read_table, write_table
from spillover.core.logs import log_to
from spillover.data.samples import asked_items, heldout_for
from spillover.statistics import runs
from spillover.statistics.cloze_rules import cloze_rules
from spillover.statistics.metrics import metrics
from spillover.statistics.position import position
from spillover.statistics.tables import stack

with log_to(snakemake.log[0]):
    items = pd.concat(map(read_table, snakemake.input.item_tables), ignore_index=True)
    heldout = {Path(path).parent.name: read_table(path) for path in snakemake.input.heldout}
    scores, positions, rules = [], [], []
    for model, files_by_run in snakemake.params.runs.items():
        for run, files in files_by_run.items():
            asked = asked_items(items, heldout_for(run, heldout), snakemake.params.blocks)
            predictions = runs.read_run(files, items, asked)
            answered = runs.items_of(items, predictions)
            keys = {"model": model, "run": run}
            alpha = snakemake.params.statistics["alpha"]
            scores.append(metrics(answered, predictions, alpha).assign(**keys))
            positions.append(position(answered, predictions).assign(**keys))
            rules.append(cloze_rules(answered, predictions).assign(**keys))
    for tables, path in zip([scores, positions, rules], snakemake.output, strict=True):
        write_table(stack(tables, ["model", "run"]), path)
