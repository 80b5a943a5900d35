"""Which linear layers of a model an adapter goes on, and what in training is noise."""

import re

import torch
from peft import LoraConfig
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from spillover.models.architecture import read_around, routers

# A layer with fewer inputs or outputs makes a few numbers a token: a gate, a step size.
NARROW = 16


def all_linear(model: PreTrainedModel) -> tuple[list[str], dict[str, list[str]]]:
    """The linear layers that ``all-linear`` stands for, by their full names.

    All of the text model, but the output head and what should have no adapter, or cannot: the
    experts of a mixture, where they are one parameter; its router, and layers of a few numbers;
    layers of a Mamba mixer whose weights are read around them; shared experts, where PEFT takes
    their names for those of all experts.

    Returns
    -------
    The layers, and for each reason what is left out for it (``*`` for a layer's number).
    """
    decoder = model.get_decoder()
    text = decoder if isinstance(decoder, PreTrainedModel) else model
    text = {id(module) for module in text.modules()}
    head = model.get_output_embeddings()
    around, choosing = set(read_around(model)), set(routers(model))
    names, left = [], {}
    for name, module in model.named_modules():
        if id(module) in text:
            left |= {f"{name}.{inner}": "experts" for inner in _experts(module)}
        if not isinstance(module, torch.nn.Linear | Conv1D) or module is head:
            continue
        if id(module) not in text:
            left[name] = "not of the text model"
        elif name in choosing:
            left[name] = "a router"
        elif min(module.weight.shape) < NARROW and module.weight.dtype.is_floating_point:
            left[name] = f"fewer than {NARROW} inputs or outputs"
        elif name in around:
            left[name] = "its weights are read around it"
        else:
            names.append(name)
    # For architectures whose experts are one parameter, PEFT turns some names into theirs.
    config = LoraConfig(target_modules=names)
    convert_peft_config_for_transformers(config, model, None)
    kept = [name for name in names if name in config.target_modules]
    left |= dict.fromkeys(set(names) - set(kept), "PEFT takes it for all experts")
    reasons: dict[str, list[str]] = {}
    for name, reason in left.items():
        kinds = reasons.setdefault(reason, [])
        if (kind := re.sub(r"\.\d+\.", ".*.", name)) not in kinds:
            kinds.append(kind)
    return kept, {reason: sorted(kinds) for reason, kinds in reasons.items()}


def _experts(module: torch.nn.Module) -> list[str]:
    """Parameters of a module itself that hold a matrix for each expert."""
    if isinstance(module, torch.nn.modules.conv._ConvNd):
        return []
    own = module.named_parameters(recurse=False)
    return [name for name, parameter in own if parameter.dim() == 3]


def without_noise(model: torch.nn.Module) -> None:
    """Turn off whatever a model does at random in training: dropout, jitter of its routers.

    The reference of DPO is then the model that is evaluated.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if isinstance(value, float) and ("drop" in name or "jitter" in name):
                setattr(module, name, 0.0)
