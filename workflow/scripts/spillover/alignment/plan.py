"""What training will take: steps, tokens and memory, before anything is spent.

Nothing is estimated that can be counted: pairs and tokens here, by the trainer's own code, and
memory in :mod:`spillover.alignment.memory`.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch

from spillover.alignment import terms, trainer
from spillover.alignment.diagnostics import parts_of
from spillover.alignment.encoding import encode
from spillover.alignment.memory import GB, disk_bytes, memory, not_quantised
from spillover.alignment.settings import LORA, OBJECTIVE, TRAINING, complete
from spillover.alignment.shared_prefix_dpo import tree_of
from spillover.alignment.terms import Term, terms_of
from spillover.core.errors import InputError
from spillover.models.load import load_tokenizer, resolve_device

logger = logging.getLogger(__name__)

# Sizes of a forward pass to choose from.
TOKENS_PER_BATCH = (16384, 8192, 4096, 2048, 1024, 512)
# What the driver, the allocator's gaps and the libraries take of a GPU.
USABLE = 0.9
# Without gradient checkpointing a pass has at least so many tokens. Where it ends was not
# measured: with 1,100 activations kept are twice as fast, and a few hundred leave a GPU idle.
LEAST_WITHOUT_CHECKPOINTING = 2048


def count(
    pairs: pd.DataFrame,
    model_folder: str | Path,
    *,
    objective: Mapping,
    training: Mapping,
    tokens_per_batch: int,
    chat_template: Mapping | None = None,
) -> dict[str, int]:
    """Pairs, steps and tokens of a training run over prefix trees.

    Steps are divided by the trainer's own code, so that the numbers are those of
    ``training.tsv``: exactly for seed 0 and one epoch, of which the order is taken; other
    orders put other items side by side.

    Returns
    -------
    ``pairs``, ``steps``, ``tokens`` (what the policy runs over in all epochs, and the
    reference once more), and of the largest forward pass ``tokens_at_once`` and
    ``answer_tokens_at_once``.
    """
    rows = encode(pairs, load_tokenizer(model_folder, chat_template), training["max_length"])
    return _count(rows, objective, training, tokens_per_batch)


def _count(
    rows: list[dict], objective, training, tokens_per_batch: int, added: Sequence[Term] = ()
) -> dict[str, int]:
    """:func:`count` of encoded pairs; with terms of the objective beside them, of these too."""
    order = list(trainer.ItemSampler([row["item_id"] for row in rows], seed=0))
    size = training["pairs_per_step"]
    steps = [[rows[i] for i in order[at : at + size]] for at in range(0, len(order), size)]
    parts = [
        part
        for step in steps
        for part in trainer.SharedTrainer.divide(step, objective["loss"], tokens_per_batch)
    ]
    tokens = [len(tree_of(part)) for part in parts]
    answers = [sum(len(r["chosen_ids"]) + len(r["rejected_ids"]) for r in part) for part in parts]
    tokens += [terms.n_tokens(part, True) for part in _parts(added, len(steps), tokens_per_batch)]
    return {
        "pairs": len(rows),
        "steps": math.ceil(len(steps) * training["epochs"]),
        "tokens": round(sum(tokens) * training["epochs"]),
        "tokens_at_once": max(tokens),
        "answer_tokens_at_once": max(answers),
    }


def _parts(added: Sequence[Term], n_steps: int, tokens_per_batch: int) -> Iterator[list[Mapping]]:
    """The examples of terms that go through the model at once, in so many steps."""
    for term in added:
        for step in range(n_steps):
            yield from terms.divide(term.of_step(step), tokens_per_batch, True)


def diagnosis_tokens(
    pairs: pd.DataFrame,
    model_folder: str | Path,
    max_length: int,
    chat_template: Mapping | None = None,
) -> int:
    """Tokens of one pass over held-out pairs; diagnosis makes two, with the adapter and without.

    Parameters
    ----------
    pairs : as :func:`spillover.data.pairs.build_pairs` gives them, of held-out items.
    """
    rows = encode(pairs, load_tokenizer(model_folder, chat_template), max_length)
    return sum(len(tree_of(part)) for part in parts_of(rows))


def choose(job: Mapping, machine: Mapping, gradient_checkpointing: bool | None = None) -> dict:
    """The fastest way in which a job's training fits into a GPU.

    That is with activations kept, rather than computed twice (gradient checkpointing), and with
    the most tokens of a forward pass.

    Parameters
    ----------
    job : its ``model_folder``, ``pairs`` (table), ``objective``, ``lora``, ``training``,
        ``quantization``, ``dtype`` and, if there are any, arguments ``chat_template`` and the
        tables ``anchor`` and ``replay``.
    machine : ``gpu_memory`` in GB (1e9 bytes) or None, and ``training_tokens_per_batch``,
        which is taken where it is given. Without either it is what the trainer takes by
        itself where no GPU can be asked for its memory.
    gradient_checkpointing : None leaves it open; without ``gpu_memory`` it is on.

    Returns
    -------
    ``tokens_per_batch``, ``gradient_checkpointing``, what :func:`count` and :func:`memory`
    (bytes) give for them, ``total`` (bytes) and ``fits`` (None without ``gpu_memory``). If
    nothing fits, the smallest.
    """
    settings = {
        "objective": complete(job["objective"], OBJECTIVE, "objective"),
        "training": complete(job["training"], TRAINING, "training"),
    }
    gpu_memory, budgets = machine["gpu_memory"], TOKENS_PER_BATCH
    if machine["training_tokens_per_batch"] is not None:
        budgets = [machine["training_tokens_per_batch"]]
    elif gpu_memory is None:
        budgets = [trainer.TOKENS_PER_BATCH["cuda"]]
    ways = [(gradient_checkpointing, budget) for budget in budgets]
    if gradient_checkpointing is None:
        least = 0 if machine["training_tokens_per_batch"] else LEAST_WITHOUT_CHECKPOINTING
        kept = [] if gpu_memory is None else [budget for budget in budgets if budget >= least]
        ways = [(False, budget) for budget in kept] + [(True, budget) for budget in budgets]
    tokenizer = load_tokenizer(job["model_folder"], job.get("chat_template"))
    rows = encode(job["pairs"], tokenizer, settings["training"]["max_length"])
    added = terms_of(
        **settings,
        tokenizer=tokenizer,
        anchor=job.get("anchor"),
        replay=job.get("replay"),
        seed=0,
    )
    tried: dict[tuple, dict] = {}
    for twice, budget in ways:
        counts = _count(rows, **settings, tokens_per_batch=budget, added=added)
        read = max(map(terms.n_places, _parts(added, counts["steps"], budget)), default=0)
        at_once = (twice, counts["tokens_at_once"], counts["answer_tokens_at_once"], read)
        if at_once not in tried:
            tried[at_once] = memory(
                job["model_folder"],
                *at_once[1:3],
                lora=complete(job["lora"], LORA, "lora"),
                training=settings["training"],
                quantization=job["quantization"],
                dtype=job["dtype"],
                gradient_checkpointing=twice,
                n_read_tokens=read,
            )
        bytes_ = tried[at_once]
        total = sum(bytes_.values())
        fits = None if gpu_memory is None else total <= USABLE * gpu_memory * GB
        if fits is not False:
            break
    return {
        "tokens_per_batch": budget,
        "gradient_checkpointing": twice,
        **counts,
        **bytes_,
        "total": total,
        "fits": fits,
    }


def passes(job: Mapping, machine: Mapping) -> dict:
    """How a job's training goes through the model here: on a GPU, as it was planned.

    Parameters
    ----------
    job, machine : as in :func:`choose`, and of the machine its ``device``. Where the GPU's
        memory is not named, it is what the GPU has free.

    Returns
    -------
    ``tokens_per_batch`` and ``gradient_checkpointing`` for :func:`spillover.alignment.train.train`,
    which chooses by itself on a CPU, and for a model whose memory cannot be counted.
    """
    by_itself = {"tokens_per_batch": machine["training_tokens_per_batch"]}
    if resolve_device(machine["device"]).type != "cuda":
        return by_itself
    if machine["gpu_memory"] is None:
        machine = {**machine, "gpu_memory": torch.cuda.mem_get_info()[0] / GB}
    try:
        chosen = choose(job, machine)
    except InputError as error:
        logger.warning("%s", error)
        return by_itself
    return {key: chosen[key] for key in ("tokens_per_batch", "gradient_checkpointing")}


def plan(
    jobs: Sequence[Mapping], machine: Mapping, gradient_checkpointing: bool | None = None
) -> tuple[pd.DataFrame, str]:
    """Training jobs with what each will take, and the arithmetic as text.

    Parameters
    ----------
    jobs : as in :func:`choose`, and of each its ``model`` and ``alignment`` (names).
    machine : as in :func:`choose`.

    Returns
    -------
    One row a job (``model``, ``alignment``, what :func:`choose` gives, ``nf4_disk``, bytes of
    the model's quantised weights, which are stored once, and :func:`not_quantised`), and lines
    for people.
    """
    rows = [
        {"model": job["model"], "alignment": job["alignment"]}
        | choose(job, machine, gradient_checkpointing)
        | {"nf4_disk": disk_bytes(job), "not_quantised": not_quantised(job)}
        for job in jobs
    ]
    lines = [line for row in rows for line in _lines(row, machine["gpu_memory"])]
    # Without a training the table has its first columns, and is one to read.
    table = pd.DataFrame(rows, columns=None if rows else ["model", "alignment"])
    return table, "".join(f"{line}\n" for line in lines)


def _lines(row: Mapping, gpu_memory: float | None) -> list[str]:
    shares = ["weights", "adapter", "gradients", "optimizer", "activations", "head", "transient"]
    text = " + ".join(f"{name} {row[name] / GB:.3f}" for name in shares)
    lines = [
        f"{row['model']}, {row['alignment']}: {row['pairs']} pairs in {row['steps']} steps, "
        f"{row['tokens']} tokens through the policy and as many through the reference",
        f"  at most {row['tokens_per_batch']} tokens at once (largest: {row['tokens_at_once']}), "
        f"{'gradient checkpointing' if row['gradient_checkpointing'] else 'activations kept'}: "
        f"{text} = {row['total'] / GB:.3f} GB",
    ]
    if row["nf4_disk"]:
        lines.append(
            f"  {row['nf4_disk'] / GB:.3f} GB of disk for the quantised weights of {row['model']}, "
            "once"
        )
    if row["not_quantised"]:
        lines.append(f"  of its weights are not quantised {row['not_quantised']}")
    if gpu_memory is not None:
        verdict = "fits into" if row["fits"] else "does NOT fit into"
        lines.append(f"  {verdict} {USABLE:.0%} of {gpu_memory:g} GB")
    return lines
