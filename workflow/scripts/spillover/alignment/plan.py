"""What training will take: steps, tokens and memory, before anything is spent.

Nothing is estimated that can be counted. Weights, adapter, gradients and optimiser are added
up over the parameters of the model's own configuration, and the activations over what its
own code keeps for the backward pass; both on torch's meta device, which has shapes but no
memory.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from spillover.alignment import trainer
from spillover.alignment.encoding import encode
from spillover.alignment.settings import LORA, OBJECTIVE, TRAINING, complete, skeleton
from spillover.alignment.shared_prefix_dpo import tree_of
from spillover.core.errors import InputError
from spillover.models.architecture import attention, backbone
from spillover.models.load import load_tokenizer, resolve_device
from spillover.models.nf4 import left_in_full, quantized_layers

GB = 1e9
# Bytes of state that an optimiser keeps for each trained parameter (Dettmers et al. 2022 for
# those of eight bits; Adafactor keeps rows and columns, next to nothing).
OPTIMIZER_BYTES = {
    "adamw_torch": 8,
    "adamw_torch_fused": 8,
    "paged_adamw_32bit": 8,
    "adamw_8bit": 2,
    "paged_adamw_8bit": 2,
    "adafactor": 0,
    "sgd": 0,
}
# Sizes of a forward pass to choose from.
TOKENS_PER_BATCH = (16384, 8192, 4096, 2048, 1024, 512)
# What the driver, the allocator's gaps and the libraries take of a GPU.
USABLE = 0.9


def weight_bytes(model: torch.nn.Module, quantization: str, dtype: str) -> int:
    """Bytes of a model's weights as :func:`load.load_model` holds them.

    NF4 with double quantisation (Dettmers et al. 2023, section 3): a parameter takes 4 bits;
    each block of 64 has a scale of 8 bits; each 256 of those, one of 32. What is not quantised
    (:func:`spillover.models.nf4.quantized_layers`) stays in ``dtype``, or in float32 where the
    class wants it.

    Parameters
    ----------
    model : without adapter, made in ``dtype``, on any device.
    """
    dtype = getattr(torch, dtype)
    layers = quantized_layers(model) if quantization == "nf4" else []
    quantized = {id(layer.weight) for layer in layers}
    in_float32 = re.compile("|".join(model._get_dtype_plan(dtype)) or "$^")
    total = 0
    for name, parameter in model.named_parameters():  # tied ones come once
        n = parameter.numel()
        if id(parameter) in quantized:
            blocks = math.ceil(n / 64)
            # Beside the scales: their mean, the 16 values of NF4 and the 256 of the scales.
            total += math.ceil(n / 2) + blocks + 4 * math.ceil(blocks / 256) + 4 * (1 + 16 + 256)
        else:
            total += n * (4 if in_float32.search(name) else parameter.element_size())
    return total


class _Attention(torch.autograd.Function):
    """Keeps for the backward pass what torch's memory-saving attention keeps: its inputs, its
    output, the normalisers in float32, and the mask as numbers."""

    @staticmethod
    def forward(ctx, query, key, value, mask):
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        normalisers = query.new_empty(query.shape[:-1], dtype=torch.float32)
        numbers = mask.to(query.dtype)
        ctx.save_for_backward(query, key, value, output, normalisers, numbers)
        return output

    @staticmethod
    def backward(ctx, gradient):
        return (*map(torch.empty_like, ctx.saved_tensors[:3]), None)


def _attention(module, query, key, value, attention_mask, **kwargs):
    # With a mask of its own, transformers repeats the keys for each query head.
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    output = _Attention.apply(query, key, value, attention_mask)
    return output.transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register("plan", _attention)


def activation_bytes(model: torch.nn.Module, n_tokens: int) -> int:
    """Bytes that a forward pass over ``n_tokens`` keeps for the backward pass.

    Parameters
    ----------
    model : with its adapter, on the meta device, with attention ``plan`` or ``eager``.
    """
    parameters = {id(parameter) for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in parameters and not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage._cdata] = tensor
        return tensor

    run = backbone(model.get_base_model())
    model.train()
    eager = model.config._attn_implementation == "eager"
    mask = model.dtype if eager else torch.bool
    inputs = {
        "input_ids": torch.zeros(1, n_tokens, dtype=torch.long, device="meta"),
        "position_ids": torch.zeros(1, n_tokens, dtype=torch.long, device="meta"),
        "attention_mask": torch.ones(1, 1, n_tokens, n_tokens, dtype=mask, device="meta"),
    }
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        try:
            run(**inputs, use_cache=False)
        except Exception:  # whatever an architecture that takes no trees raises
            kept.clear()
            try:
                run(input_ids=inputs["input_ids"], use_cache=False)
            except Exception as error:
                raise InputError(
                    f"plan: the activations of a {type(run).__name__} cannot be counted without "
                    "memory; set machine.training_tokens_per_batch and train without a plan"
                ) from error
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    return sum(
        tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in weights
    )


def head_bytes(
    n_answer_tokens: int, vocabulary: int, hidden_size: int, width: int, device: str
) -> int:
    """Bytes in which TRL scores answers' tokens (``chunked_logprob.py``), with gradients.

    It takes the vocabulary in tiles of 32768, in a buffer of the model's dtype (``width``
    bytes). On a GPU one kernel folds a tile; elsewhere torch's operations hold eight copies
    of it in float32 or, one after the other, the weights of a tile in float32.
    """
    tokens, tile = min(n_answer_tokens, 4096), min(vocabulary, 32768)
    buffer = tokens * 32768 * width
    if device == "cuda":
        return buffer
    copies = 8 * 4 * tokens * tile
    unpacked = 4 * tile * (hidden_size + tokens) if width < 4 else 0
    return buffer + max(copies, unpacked)


def memory(
    model_folder: str | Path,
    n_tokens: int,
    n_answer_tokens: int,
    *,
    lora: Mapping,
    training: Mapping,
    quantization: str,
    dtype: str,
    gradient_checkpointing: bool,
    device: str = "cuda",
) -> dict[str, int]:
    """Bytes that training needs at its peak, share by share.

    Parameters
    ----------
    n_tokens : tokens of one forward pass, a prefix tree's nodes.
    n_answer_tokens : places at which its sequences' answers are predicted.

    Returns
    -------
    ``weights``, ``adapter``, ``gradients``, ``optimizer``, ``activations``, ``head``
    (:func:`head_bytes`) and ``transient`` (one
    layer's weight as it is unpacked, one layer's activations as they are computed again).
    """
    width = torch.finfo(getattr(torch, dtype)).bits // 8
    base = skeleton(model_folder, dtype=dtype)
    weights = weight_bytes(base, quantization, dtype)
    counted = attention(base.config) == "sdpa" and base._supports_attention_backend
    model = skeleton(model_folder, lora, dtype=dtype, attention="plan" if counted else "eager")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    config = base.config.get_text_config()
    activations = activation_bytes(model, n_tokens)
    transient = 0
    if gradient_checkpointing:
        transient += activations // config.num_hidden_layers
        activations = config.num_hidden_layers * n_tokens * config.hidden_size * width
    if quantization == "nf4":
        transient += width * max(
            (layer.weight.numel() for layer in quantized_layers(base)), default=0
        )
    return {
        "weights": weights,
        "adapter": 4 * trained,
        "gradients": 4 * trained,
        "optimizer": OPTIMIZER_BYTES[training["optimizer"]] * trained,
        "activations": activations,
        "head": head_bytes(n_answer_tokens, config.vocab_size, config.hidden_size, width, device),
        "transient": transient,
    }


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
    return {
        "pairs": len(rows),
        "steps": math.ceil(len(steps) * training["epochs"]),
        "tokens": round(sum(tokens) * training["epochs"]),
        "tokens_at_once": max(tokens),
        "answer_tokens_at_once": max(answers),
    }


def choose(job: Mapping, machine: Mapping, gradient_checkpointing: bool = True) -> dict:
    """The most tokens of a forward pass with which a job's training fits into a GPU.

    Parameters
    ----------
    job : its ``model_folder``, ``pairs`` (table), ``objective``, ``lora``, ``training``,
        ``quantization``, ``dtype`` and, if there are any, arguments ``chat_template``.
    machine : ``gpu_memory`` in GB (1e9 bytes) or None, and ``training_tokens_per_batch``,
        which is taken where it is given. Without either it is what the trainer takes by
        itself.

    Returns
    -------
    ``tokens_per_batch``, what :func:`count` and :func:`memory` (bytes) give for it, ``total``
    (bytes) and ``fits`` (None without ``gpu_memory``). If nothing fits, the smallest.
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
    for budget in budgets:
        counts = count(
            job["pairs"],
            job["model_folder"],
            **settings,
            tokens_per_batch=budget,
            chat_template=job.get("chat_template"),
        )
        bytes_ = memory(
            job["model_folder"],
            counts["tokens_at_once"],
            counts["answer_tokens_at_once"],
            lora=complete(job["lora"], LORA, "lora"),
            training=settings["training"],
            quantization=job["quantization"],
            dtype=job["dtype"],
            gradient_checkpointing=gradient_checkpointing,
        )
        total = sum(bytes_.values())
        fits = None if gpu_memory is None else total <= USABLE * gpu_memory * GB
        if fits is not False:
            break
    return {"tokens_per_batch": budget, **counts, **bytes_, "total": total, "fits": fits}


def disk_bytes(job: Mapping) -> int:
    """Bytes of a model's quantised weights on the disk; 0 if it is not quantised.

    The tensors are those in memory. Beside them each quantised layer has a few hundred bytes of
    names and shapes.
    """
    if job["quantization"] != "nf4":
        return 0
    return weight_bytes(skeleton(job["model_folder"], dtype=job["dtype"]), "nf4", job["dtype"])


def not_quantised(job: Mapping) -> str:
    """What of a model NF4 leaves as it is beside embeddings and output head, in words.

    The experts of a mixture above all; empty if there is nothing, or nothing is quantised.
    """
    if job["quantization"] != "nf4":
        return ""
    base = skeleton(job["model_folder"])
    left = left_in_full(base, {id(layer.weight) for layer in quantized_layers(base)})
    size = sum(left.values()) * getattr(torch, job["dtype"]).itemsize / GB
    return f"{size:.3f} GB in {job['dtype']}: {', '.join(left)}" if left else ""


def tokens_per_batch(job: Mapping, machine: Mapping) -> int | None:
    """Tokens of a forward pass that a job trains with: on a GPU, what was planned for it.

    Parameters
    ----------
    job, machine : as in :func:`choose`, and of the machine its ``device``.

    Returns
    -------
    None leaves it to the trainer: on a CPU, or if the GPU's memory is not named.
    """
    on_gpu = resolve_device(machine["device"]).type == "cuda"
    given = machine["training_tokens_per_batch"]
    if not on_gpu or given is not None or machine["gpu_memory"] is None:
        return given
    return choose(job, machine)["tokens_per_batch"]


def plan(
    jobs: Sequence[Mapping], machine: Mapping, gradient_checkpointing: bool = True
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
    return pd.DataFrame(rows), "\n".join(lines) + "\n"


def _lines(row: Mapping, gpu_memory: float | None) -> list[str]:
    shares = ["weights", "adapter", "gradients", "optimizer", "activations", "head", "transient"]
    text = " + ".join(f"{name} {row[name] / GB:.3f}" for name in shares)
    lines = [
        f"{row['model']}, {row['alignment']}: {row['pairs']} pairs in {row['steps']} steps, "
        f"{row['tokens']} tokens through the policy and as many through the reference",
        f"  at most {row['tokens_per_batch']} tokens at once (largest: {row['tokens_at_once']}): "
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
