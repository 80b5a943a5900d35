"""Score one attribute's items with one run of one model."""

from pathlib import Path

import torch
from spillover import bbq, models, outcomes, scoring
from spillover.files import read_table, write_table
from spillover.logs import log_to

with log_to(snakemake.log[0]):
    torch.set_num_threads(snakemake.threads)
    # Settings of the machine change no result, so they stay out of params.
    machine = snakemake.config["machine"]
    adapter = snakemake.input.get("adapter")
    items = bbq.evaluated_items(
        read_table(snakemake.input.item_table),
        [read_table(path) for path in snakemake.input.get("heldout", [])],
        snakemake.params.blocks,
    )
    model = models.load(
        snakemake.input.model,
        **snakemake.params.model,
        device=machine["device"],
        adapter=Path(adapter[0]).parent if adapter else None,
    )
    predictions = scoring.score(
        items,
        model,
        models.load_tokenizer(snakemake.input.model),
        scoring=snakemake.params.scoring,
        option_orders=snakemake.params.option_orders,
        tokens_per_batch=machine["tokens_per_batch"],
    )
    predictions["outcome"] = outcomes.label_predictions(items, predictions)
    write_table(predictions, snakemake.output[0])
