"""Which of a model's weights are turned into NF4, and which are left."""

import re

import torch
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from spillover.models.architecture import read_around, routers


def skipped(model: torch.nn.Module) -> list[str] | None:
    """Names of what transformers shall not quantise; None for what it leaves by itself."""
    own = read_around(model) + routers(model)
    return own + HfQuantizer.get_modules_to_not_convert(model) if own else None


def quantized_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The layers of a model, not quantised yet, that transformers will quantise.

    Linear layers proper, but for the output head, what the class wants in float32 and
    :func:`skipped`. Experts that are parameters of three dimensions are none, nor are
    convolutions, nor linear layers of a class of their own (Falcon's).
    """
    left = HfQuantizer.get_modules_to_not_convert(
        model, skipped(model), model._keep_in_fp32_modules
    )
    return [
        module
        for name, module in model.named_modules()
        if (type(module) is torch.nn.Linear or isinstance(module, Conv1D))
        and should_convert_module(name, left)
    ]


def left_in_full(model: torch.nn.Module, quantized: set[int]) -> dict[str, int]:
    """Matrices that stay as they are beside embeddings and output head: elements by name.

    Parameters
    ----------
    quantized : the ``id`` of each parameter that is, or will be, quantised.

    Returns
    -------
    Layers' numbers are replaced by ``*``: ``model.layers.*.mlp.experts.down_proj``.
    """
    outside = {id(model.get_input_embeddings().weight)}
    if (head := model.get_output_embeddings()) is not None:
        outside.add(id(head.weight))
    found: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and id(parameter) not in outside | quantized:
            kind = re.sub(r"\.\d+\.", ".*.", name)
            found[kind] = found.get(kind, 0) + parameter.numel()
    return found
