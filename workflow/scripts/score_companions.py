"""Score the items of a companion set with one run of one model."""

from spillover import study
from spillover.core.files import read_table, write_table
from spillover.core.gpus import take_gpu
from spillover.core.logs import log_to
from spillover.core.provenance import provenance

with log_to(snakemake.log[0]):
    # Before torch: with it come libraries that look at the GPUs when they are imported.
    take_gpu(snakemake.resources.get("gpu", 0))
    import torch
    from spillover.models.run import load_run
    from spillover.scoring import scored_blocks
    from spillover.scoring.companions import score_companions

    torch.set_num_threads(snakemake.threads)
    params, files = snakemake.params, snakemake.input
    # Settings of the machine change no result, so they stay out of params.
    machine = snakemake.config["machine"]
    adapter, base = (files.get(name, []) for name in ("adapter", "base"))
    model, tokenizer = load_run(
        files.model,
        params.model,
        study.forms(snakemake.config),
        machine["device"],
        base=base or None,
        adapter=adapter[0] if adapter else None,
        strength=params.strength,
    )
    answers = score_companions(
        read_table(files.companions),
        model,
        tokenizer,
        params.chat,
        tokens_per_batch=machine["tokens_per_batch"],
        partial=params.partial,
        fingerprint=provenance(
            [params.model, params.strength, params.code],
            [files.model, base] if base else [files.model],
            [files.companions, *adapter],
        ),
    )
    write_table(answers, snakemake.output[0])
    scored_blocks.remove(params.partial)
