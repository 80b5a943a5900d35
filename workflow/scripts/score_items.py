"""Score one attribute's items with one run of one model."""

import json
from pathlib import Path

import torch
from spillover.core.files import file_sha256, read_table, sha256, write_table
from spillover.core.logs import log_to
from spillover.data import bbq
from spillover.models.load import load_model, load_tokenizer
from spillover.scoring import scored_blocks
from spillover.scoring.score import score
from spillover.statistics import outcomes

with log_to(snakemake.log[0]):
    torch.set_num_threads(snakemake.threads)
    # Settings of the machine change no result, so they stay out of params.
    machine = snakemake.config["machine"]
    params = snakemake.params
    model_folder = Path(snakemake.input.model)
    adapter = snakemake.input.get("adapter")
    items = bbq.evaluated_items(
        read_table(snakemake.input.item_table),
        [read_table(path) for path in snakemake.input.get("heldout", [])],
        params.blocks,
    )
    model = load_model(
        model_folder,
        **params.model,
        device=machine["device"],
        adapter=Path(adapter[0]).parent if adapter else None,
    )
    depends_on = [params.model, params.evaluation, params.code]
    depends_on += [(model_folder / "source.json").read_text()]
    depends_on += [file_sha256(path) for path in adapter or []]
    predictions = score(
        items,
        model,
        load_tokenizer(model_folder),
        **params.evaluation,
        tokens_per_batch=machine["tokens_per_batch"],
        partial=params.partial,
        fingerprint=sha256(json.dumps(depends_on, sort_keys=True).encode()),
    )
    predictions["outcome"] = outcomes.label_predictions(items, predictions)
    write_table(predictions, snakemake.output[0])
    scored_blocks.remove(params.partial)
