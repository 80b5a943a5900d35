"""Score the items of a companion set with one run of one model."""

from pathlib import Path

from spillover import study
from spillover.core import finished
from spillover.core.files import read_table, write_table
from spillover.core.gpus import take_gpu
from spillover.core.logs import log_to
from spillover.core.provenance import provenance
from spillover.scoring import scored_blocks


def answer():
    """What the model answers, as a table."""
    # Before torch: with it come libraries that look at the GPUs when they are imported.
    take_gpu(snakemake.resources.get("gpu", 0))
    import torch
    from spillover.models.run import load_run
    from spillover.scoring.companions import score_companions

    torch.set_num_threads(snakemake.threads)
    # Settings of the machine change no result, so they stay out of params.
    machine = snakemake.config["machine"]
    model, tokenizer = load_run(
        files.model,
        params.model,
        study.forms(snakemake.config),
        machine["device"],
        base=base or None,
        adapter=adapter[0] if adapter else None,
        strength=params.strength,
    )
    return score_companions(
        read_table(files.companions),
        model,
        tokenizer,
        params.chat,
        tokens_per_batch=machine["tokens_per_batch"],
        partial=params.partial,
        fingerprint=made_of,
    )


with log_to(snakemake.log[0]):
    params, files = snakemake.params, snakemake.input
    adapter, base = (files.get(name, []) for name in ("adapter", "base"))
    made_of = provenance(
        [params.model, params.strength, params.code],
        [files.model, base] if base else [files.model],
        [files.companions, *adapter],
    )
    output = Path(snakemake.output[0])
    kept = Path(params.kept) / output.stem
    if not finished.take(kept, [output], made_of):
        write_table(answer(), output)
        finished.keep(kept, [output], made_of)
    scored_blocks.remove(params.partial)
