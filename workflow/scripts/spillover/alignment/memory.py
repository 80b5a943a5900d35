"""Memory that training takes, added up before a model is loaded.

Weights, adapter, gradients and optimiser are added up over the parameters of the model's own
configuration, and the activations over what its own code keeps for the backward pass; both on
torch's meta device, which has shapes but no memory.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from spillover.alignment.settings import skeleton
from spillover.alignment.terms import PLACES_AT_ONCE
from spillover.core.errors import InputError
from spillover.models.architecture import attention, backbone
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
                    "memory: there is no plan for it"
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


def logits_bytes(n_read_tokens: int, vocabulary: int, width: int) -> int:
    """Bytes of the logits that a divergence from the base is taken from (``terms.py``).

    Those of policy and base and their gradient in the model's dtype (``width`` bytes); of some
    places at once both distributions, what is between them and a gradient in float32, and that
    in the model's dtype. A likelihood takes about half.
    """
    at_once = 4 * 4 + (width if width < 4 else 0)
    some = min(n_read_tokens, PLACES_AT_ONCE)
    return vocabulary * (3 * width * n_read_tokens + at_once * some)


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
    n_read_tokens: int = 0,
) -> dict[str, int]:
    """Bytes that training needs at its peak, share by share.

    Parameters
    ----------
    n_tokens : tokens of one forward pass, a prefix tree's nodes.
    n_answer_tokens : places at which its sequences' answers are predicted.
    n_read_tokens : places of a pass at which a term beside the pairs reads the model.

    Returns
    -------
    ``weights``, ``adapter``, ``gradients``, ``optimizer``, ``activations``, ``head``
    (:func:`head_bytes`, or :func:`logits_bytes` if they are more) and ``transient`` (one
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
    vocabulary = config.vocab_size
    head = head_bytes(n_answer_tokens, vocabulary, config.hidden_size, width, device)
    return {
        "weights": weights,
        "adapter": 4 * trained,
        "gradients": 4 * trained,
        "optimizer": OPTIMIZER_BYTES[training["optimizer"]] * trained,
        "activations": activations,
        "head": max(head, logits_bytes(n_read_tokens, vocabulary, width)),
        "transient": transient,
    }


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
