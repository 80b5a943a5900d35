"""Causal language models: load one quantised or not, attach an adapter."""

import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from spillover.core.errors import InputError
from spillover.core.files import check_links
from spillover.models.architecture import attention, read_config, without_weights
from spillover.models.nf4 import left_in_full, skipped
from spillover.models.weights import refuse_faults

logger = logging.getLogger(__name__)

# In a folder of weights that were quantised before (:mod:`spillover.models.quantize`): how.
RECORD = "quantized.json"
# Suffixes of the files that a model is made of.
MODEL_FILES = (".json", ".safetensors", ".model", ".jinja", ".txt")


def resolve_device(name: str) -> torch.device:
    """Device for ``auto``, ``cpu`` or ``cuda``.

    Raises
    ------
    InputError
        If ``cuda`` is asked for where torch finds no GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        # Not -1, nor SLURM's NoDevFiles: those hide them.
        visible = re.match(r"\d|GPU-|MIG-", os.environ.get("CUDA_VISIBLE_DEVICES", ""))
        if name == "cpu" and visible:
            logger.warning(
                "this job has a GPU (CUDA_VISIBLE_DEVICES), but torch %s finds none: the CPU "
                "computes. Is the driver too old for it, or torch without CUDA?",
                torch.__version__,
            )
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "machine.device: cuda is asked for, but torch "
            f"{torch.__version__} finds no GPU on this machine; use auto or cpu"
        )
    return torch.device(name)


def device_name(device: torch.device) -> str:
    """What a device is called, for people."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"


def load_tokenizer(folder: str | Path, chat_template: Mapping | None = None):
    """Tokenizer of a model folder, with a padding token that the model has.

    Parameters
    ----------
    chat_template : the user's arguments for the chat template, over those of
        :data:`spillover.models.chat.TEMPLATE_SETTINGS`.

    Raises
    ------
    InputError
        If a file of the folder is a link to what is gone.
    """
    check_links(folder)
    tokenizer = AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    tokenizer.template_settings = dict(chat_template or {})
    size = vocabulary_size(folder)
    # Padding is neither attended to nor scored: any token that the model has will do.
    known = [tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, 0]
    pad = next(token for token in known if token is not None and token < size)
    if pad != tokenizer.pad_token_id:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    return tokenizer


def vocabulary_size(folder: str | Path) -> int:
    """How many tokens a folder's model has, which may be more or fewer than its tokenizer's."""
    return read_config(folder).get_text_config().vocab_size


def load_model(
    folder: str | Path,
    quantization: str = "none",
    dtype: str = "bfloat16",
    device: str = "auto",
    adapter: str | Path | None = None,
    strength: float | None = None,
) -> torch.nn.Module:
    """A causal language model in evaluation mode, on one device.

    Its attention is torch's SDPA where its class has that, or else transformers' own; which
    one is logged.

    Parameters
    ----------
    folder : as fetched, or as :func:`spillover.models.quantize.quantize` wrote it.
    quantization : ``nf4`` (4-bit NormalFloat with double quantisation) or ``none``.
    dtype : dtype of computation, and of the weights that are not quantised.
    adapter : folder of a PEFT adapter to attach. It is not merged: the base weights are the
        same to the bit with and without it.
    strength : from 0 to 2, at which an adapter counts
        (:class:`spillover.models.interpolated.Interpolated`); None for the adapter as it is.

    Raises
    ------
    InputError
        If there is no such device, the folder was quantised for another dtype, nothing of it
        can be quantised, or a parameter of the model or the adapter is not in its files; with a
        strength, if there is no adapter, or :func:`spillover.models.interpolated.attach_at`
        refuses it.
    """
    if strength is not None and adapter is None:
        raise InputError(f"strength: expected an adapter for strength {strength}, found none")
    device = resolve_device(device)
    check_links(folder)
    stored = _check_record(Path(folder), quantization, dtype)
    if quantization == "nf4" and device.type == "cpu":
        _keep_weights_as_quantized()
    config = read_config(folder)
    implementation = attention(config)
    settings = {}
    if quantization == "nf4" and not stored:
        settings["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, dtype),
            llm_int8_skip_modules=skipped(without_weights(config)),
        )
    model, loaded = AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        dtype=getattr(torch, dtype),
        device_map={"": device},
        attn_implementation=implementation,
        local_files_only=True,
        trust_remote_code=False,
        # What does not fit is refused here, in one line; the loader would put new numbers there.
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **settings,
    )
    refuse_faults(folder, model, loaded)
    logger.info("%s, attention: %s", type(model).__name__, implementation)
    if quantization == "nf4":
        _tell_what_is_left(model, dtype)
    if adapter is not None:
        # Only here: a base needs no PEFT, whose import takes a second.
        from spillover.models.adapters import attach
        from spillover.models.interpolated import attach_at

        model = attach(model, adapter) if strength is None else attach_at(model, adapter, strength)
    return model.eval()


def _tell_what_is_left(model: torch.nn.Module, dtype: str) -> None:
    """Log which matrices are not quantised; an error if none is."""
    quantized = {id(p) for p in model.parameters() if type(p).__name__ == "Params4bit"}
    if not quantized:
        raise InputError(
            f"quantization: nf4 is asked for, and bitsandbytes quantises no layer of a "
            f"{type(model).__name__}; set quantization: none"
        )
    left = left_in_full(model, quantized)
    if left:
        logger.warning(
            "not quantised, %.3f GB in %s: %s",
            sum(left.values()) * getattr(torch, dtype).itemsize / 1e9,
            dtype,
            ", ".join(left),
        )


def _check_record(folder: Path, quantization: str, dtype: str) -> bool:
    """Whether a folder's weights were quantised before; an error unless as asked for."""
    record = folder / RECORD
    if not record.is_file():
        return False
    found = json.loads(record.read_text())
    asked = {"quantization": quantization, "dtype": dtype}
    if any(found[key] != value for key, value in asked.items()):
        raise InputError(
            f"{folder}: its weights were quantised for {found['quantization']} and "
            f"{found['dtype']}, and {quantization} and {dtype} are asked for; remove it"
        )
    return True


def _keep_weights_as_quantized() -> None:
    """Stop bitsandbytes from repacking NF4 weights on CPUs with AVX512-BF16.

    It does so at the first evaluation without gradients, for good: outputs shift by about
    7e-3 and training afterwards fails or has no gradients (bitsandbytes 0.50).
    """
    import bitsandbytes.nn.modules

    bitsandbytes.nn.modules.has_avx512bf16 = lambda: False
