"""Score the items of every attribute with one run of one model."""

import logging
from pathlib import Path

import pandas as pd
from spillover import study
from spillover.core import finished
from spillover.core.files import read_table, sha256, write_table
from spillover.core.gpus import take_gpu
from spillover.core.logs import log_to
from spillover.core.provenance import provenance
from spillover.data.samples import asked_items, heldout_for
from spillover.scoring import scored_blocks

logger = logging.getLogger("spillover")

with log_to(snakemake.log[0]):
    params, wildcards = snakemake.params, snakemake.wildcards
    # Settings of the machine change no result, so they stay out of params.
    machine = snakemake.config["machine"]
    model_folder = Path(snakemake.input.model)
    adapter, base = (snakemake.input.get(name, []) for name in ("adapter", "base"))
    items = pd.concat(map(read_table, snakemake.input.item_tables), ignore_index=True)
    heldout = {Path(path).parent.name: read_table(path) for path in snakemake.input.heldout}
    asked = asked_items(items, heldout_for(wildcards.run, heldout), params.blocks)
    job = provenance(
        [params.model, params.strength, params.evaluation, params.code],
        [model_folder, base] if base else [model_folder],
        adapter,
    )
    todo = {}
    for output in map(Path, snakemake.output):
        of_attribute = asked[asked["attribute"] == output.stem]
        made_of = sha256((job + of_attribute.to_json(orient="records")).encode())
        kept = Path(params.kept) / output.stem
        if not finished.take(kept, [output], made_of):
            todo[output] = (of_attribute, made_of, kept)
    if todo:
        # Only here: what is there already needs no model, and no GPU. With torch come libraries
        # that look at the GPUs when they are imported, so one is taken first.
        take_gpu(snakemake.resources.get("gpu", 0))
        import torch
        from spillover.models.run import load_run
        from spillover.scoring.score import score
        from spillover.statistics import outcomes

        torch.set_num_threads(snakemake.threads)
        model, tokenizer = load_run(
            model_folder,
            params.model,
            study.forms(snakemake.config),
            machine["device"],
            base=base or None,
            adapter=adapter[0] if adapter else None,
            strength=params.strength,
        )
    for output, (of_attribute, made_of, kept) in todo.items():
        logger.info("%s", output.stem)
        predictions = score(
            of_attribute,
            model,
            tokenizer,
            **params.evaluation,
            tokens_per_batch=machine["tokens_per_batch"],
            partial=Path(params.partial) / output.stem,
            fingerprint=made_of,
        )
        predictions["outcome"] = outcomes.label_predictions(of_attribute, predictions)
        write_table(predictions, output)
        finished.keep(kept, [output], made_of)
    scored_blocks.remove(params.partial)
