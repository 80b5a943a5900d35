"""What a model folder's architecture is, and whether it is a causal language model."""

import json
import re
from pathlib import Path

import torch
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    __version__,
)

from spillover.core.errors import InputError, named

# Listed as causal by transformers, and not: a token sees those behind it.
NOT_CAUSAL = {"bert-generation", "cpmant", "xlnet"}

ROUTER = re.compile(r"Router|Gating|Gate$")


def read_config(folder: str | Path) -> PreTrainedConfig:
    """Configuration of a model folder; code that it names (``auto_map``) is never run.

    Padding is neither attended to nor scored. A token for it that the model does not have, with
    which torch would not make its embedding, is left out.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    text = config.get_text_config()
    pad, size = getattr(text, "pad_token_id", None), getattr(text, "vocab_size", None)
    if pad is not None and size is not None and not 0 <= pad < size:
        text.pad_token_id = None
    return config


def attention(config: PreTrainedConfig) -> str:
    """How a causal model's attention is computed: ``sdpa`` where its class has it, or ``eager``.

    A class that caps its attention's scores or has sinks says that it has none.
    """
    return "sdpa" if MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]._supports_sdpa else "eager"


def without_weights(
    config: PreTrainedConfig, dtype: str = "float32", attention: str = "eager"
) -> PreTrainedModel:
    """The causal model of a configuration on torch's meta device: shapes, no memory."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            config,
            dtype=getattr(torch, dtype),
            attn_implementation=attention,
            trust_remote_code=False,
        )


def backbone(model: PreTrainedModel) -> PreTrainedModel:
    """A causal model without its head.

    It is where the class says; some (Llama 4's text model) name their wrapper's place for it.
    """
    if model.base_model is model:
        model.base_model_prefix = "model"
    return model.base_model


def read_around(model: torch.nn.Module) -> list[str]:
    """Linear layers of which something else than their own forward pass reads the weights.

    A Mamba mixer gives the weights of all its layers but the first to its kernels: neither an
    adapter on them nor NF4 would be seen there.
    """
    return [
        f"{name}.{inner}"
        for name, module in model.named_modules()
        if hasattr(module, "A_log") and hasattr(module, "D")
        for inner, layer in module.named_children()
        if isinstance(layer, torch.nn.Linear) and inner != "in_proj"
    ]


def routers(model: torch.nn.Module) -> list[str]:
    """Linear layers that choose the experts of a mixture, or are part of what does."""
    return [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear)
        and (is_router(layer) or is_router(model.get_submodule(name.rpartition(".")[0])))
    ]


def is_router(module: torch.nn.Module) -> bool:
    return bool(ROUTER.search(type(module).__name__))


def check_architecture(folder: str | Path) -> None:
    """Refuse a model folder whose architecture is no causal language model of transformers.

    No weight is read. Code that the folder brings (``auto_map``) is no fault where transformers
    has an architecture of that name, which is used in its place.

    Raises
    ------
    InputError
        If transformers does not know the architecture or cannot build it, or it is an
        encoder, an encoder-decoder, or a model of text and images without a causal form.
    """
    file = Path(folder) / "config.json"
    found = json.loads(file.read_text())
    name = found.get("model_type")
    if name not in CONFIG_MAPPING:
        if "auto_map" in found:
            raise InputError(
                f"{file}: the model ({name}) needs code of its own (auto_map), which is never "
                "run; expected an architecture that transformers has"
            )
        raise InputError(
            f"{file}: transformers {__version__} has no architecture model_type: {name}; "
            "expected one that it has"
        )
    try:
        config = read_config(folder)
        text = config.get_text_config()
    except Exception as error:  # whatever a class does with values that it does not expect
        raise InputError(f"{file}: not a configuration of {name}: {named(error)}") from error
    reason = _not_causal(config, text)
    if reason:
        raise InputError(f"{file}: {name} {reason}; expected a causal language model of text")
    try:
        without_weights(config, attention=attention(config))
    except Exception as error:
        raise InputError(
            f"{file}: transformers {__version__} cannot build this {name}: {named(error)}"
        ) from error


def _not_causal(config: PreTrainedConfig, text: PreTrainedConfig) -> str | None:
    """Why a configuration is none of a causal language model, or None."""
    if getattr(config, "is_encoder_decoder", False):
        return "is an encoder with a decoder"
    encoder = type(config) in MODEL_FOR_MASKED_LM_MAPPING or config.model_type in NOT_CAUSAL
    if encoder and not getattr(config, "is_decoder", False):
        return "is an encoder, whose tokens see those behind them"
    if getattr(text, "use_bidirectional_attention", None) in (True, "all"):
        return "is an encoder here (use_bidirectional_attention)"
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return None
    if text is not config and type(text) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return (
            f"is a wrapper that cannot be used without its other parts (its text model, "
            f"{text.model_type}, saved by itself can)"
        )
    return "has no causal language model in transformers"
