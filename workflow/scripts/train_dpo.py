"""Align a model on preference pairs: LoRA by DPO on the quantised base."""

import contextlib
import os
from pathlib import Path

from spillover import study
from spillover.alignment import checkpoints
from spillover.core import finished
from spillover.core.files import read_table, replacing, write_table
from spillover.core.gpus import take_gpu
from spillover.core.logs import log_to
from spillover.core.provenance import provenance
from spillover.data import other_prompts


def examples() -> dict:
    """What the terms of the objective are taken over, as far as it has them."""
    found = {}
    if files.anchor:
        read = other_prompts.read_texts if params.objective["anchor"]["texts"] else read_table
        found["anchor"] = read(str(files.anchor))
    if files.replay:
        found["replay"] = read_table(str(files.replay))
    return found


def align() -> None:
    """Train, and put adapter and tables in their places."""
    take_gpu(snakemake.resources.get("gpu", 0))
    # Only here: bitsandbytes looks at the GPUs when it is imported.
    import torch
    from spillover.alignment import plan
    from spillover.alignment.train import train
    from spillover.models.check_tokenizer import check_tokenizer

    torch.set_num_threads(snakemake.threads)
    params = snakemake.params
    # Settings of the machine change no result, so they stay out of params.
    machine = snakemake.config["machine"]
    keep = {key: machine[key] for key in ("checkpoint_steps", "checkpoint_minutes", "report_to")}
    # Whatever is asked of the model before and after must be possible before it is trained.
    check_tokenizer(
        snakemake.input.model, study.forms(snakemake.config), params.model.get("chat_template")
    )
    job = {
        "pairs": read_table(snakemake.input.pairs),
        **examples(),
        "model_folder": snakemake.input.model,
        "objective": params.objective,
        "lora": params.lora,
        "training": params.training | keep,
        **params.model,
    }
    # Where TensorBoard and wandb write, if they are asked for; wandb syncs when told to.
    tracking = Path(snakemake.output.training).with_name("tracking")
    os.environ["TENSORBOARD_LOGGING_DIR"] = os.environ["WANDB_DIR"] = str(tracking)
    os.environ.setdefault("WANDB_MODE", "offline")
    on_the_way = {
        float(folder.parent.name.rpartition("@")[2]): folder
        for folder in sorted({Path(path).parent for path in snakemake.output.get("on_the_way", [])})
    }
    with contextlib.ExitStack() as folders:
        adapter, *kept = (
            folders.enter_context(replacing(folder))
            for folder in (Path(snakemake.output.weights).parent, *on_the_way.values())
        )
        training = train(
            **job,
            device=machine["device"],
            seed=int(snakemake.wildcards.seed),
            checkpoints=params.checkpoints,
            code=params.code,
            output=adapter,
            **plan.passes(job, machine),
            data=params.data,
            results=f"results/{snakemake.wildcards.study}/spillover.tsv",
            speed=snakemake.output.speed,
            on_the_way=dict(zip(on_the_way, kept, strict=True)),
        )
        write_table(training, snakemake.output.training)


with log_to(snakemake.log[0]):
    params, files = snakemake.params, snakemake.input
    settings = (params.model, params.objective, params.lora, params.training, params.data)
    made_of = provenance(
        [*settings, params.code, snakemake.wildcards.seed],
        [snakemake.input.model],
        [str(path) for path in (files.pairs, files.anchor, files.replay) if path],
    )
    if not finished.take(params.finished, snakemake.output, made_of):
        align()
        finished.keep(params.finished, snakemake.output, made_of)
    checkpoints.discard(params.checkpoints)
