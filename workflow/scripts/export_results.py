"""Every run's answers and scores in the forms of others: Every Eval Ever, model-index."""

from pathlib import Path

import pandas as pd
from spillover.core.files import read_table, replacing
from spillover.core.logs import log_to
from spillover.data.samples import asked_items, heldout_for
from spillover.report import export
from spillover.statistics import runs

with log_to(snakemake.log[0]):
    params = snakemake.params
    items = pd.concat(map(read_table, snakemake.input.item_tables), ignore_index=True)
    heldout = {Path(path).parent.name: read_table(path) for path in snakemake.input.heldout}
    metrics = read_table(snakemake.input.metrics)
    timestamp = str(int(Path(snakemake.input.metrics).stat().st_mtime))
    with replacing(snakemake.output[0]) as folder:
        for model, files_by_run in params.runs.items():
            source = params.models[model].get("source", {})
            for run, files in files_by_run.items():
                asked = asked_items(items, heldout_for(run, heldout), params.blocks)
                predictions = runs.read_run(files, items, asked)
                of_run = metrics[(metrics["model"] == model) & (metrics["run"] == run)]
                export.write_record(
                    folder,
                    runs.items_of(items, predictions),
                    predictions,
                    of_run,
                    model=model,
                    run=run,
                    source=source,
                    settings=params.evaluation if source else {},
                    version=params.version if source else "unknown",
                    timestamp=timestamp,
                    alpha=params.alpha,
                )
                if run != "base":
                    card = folder / model / run / "model-index.yaml"
                    card.parent.mkdir(parents=True)
                    card.write_text(export.model_index(f"{model} {run}", of_run))
