"""Causal language models: check a folder, load it quantised, attach an adapter, encode chats."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from spillover.errors import InputError
from spillover.prompts import LETTERS

logger = logging.getLogger(__name__)

# Some chat templates print today's date into the prompt unless told one: the same study must
# ask the same question tomorrow.
TEMPLATE_SETTINGS = {"date_string": "26 Jul 2024"}


def resolve_device(name: str) -> torch.device:
    """Device for ``auto``, ``cpu`` or ``cuda``.

    Raises
    ------
    InputError
        If ``cuda`` is asked for where torch finds no GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "machine.device: cuda is asked for, but torch "
            f"{torch.__version__} finds no GPU on this machine; use auto or cpu"
        )
    return torch.device(name)


def load_tokenizer(folder: str | Path):
    """Tokenizer of a model folder, with a padding token."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load(
    folder: str | Path,
    quantization: str = "none",
    dtype: str = "bfloat16",
    device: str = "auto",
    adapter: str | Path | None = None,
) -> torch.nn.Module:
    """A causal language model in evaluation mode, on one device, with SDPA attention.

    Parameters
    ----------
    quantization : ``nf4`` (4-bit NormalFloat with double quantisation) or ``none``.
    dtype : dtype of computation, and of the weights that are not quantised.
    adapter : folder of a PEFT adapter to attach. It is not merged: the base weights are the
        same to the bit with and without it.
    """
    device = resolve_device(device)
    quantize = None
    if quantization == "nf4":
        if device.type == "cpu":
            _keep_weights_as_quantized()
        quantize = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, dtype),
        )
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, dtype),
        quantization_config=quantize,
        device_map={"": device},
        attn_implementation="sdpa",
        local_files_only=True,
        trust_remote_code=False,
    )
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter, local_files_only=True)
    return model.eval()


def _keep_weights_as_quantized() -> None:
    """Stop bitsandbytes from repacking NF4 weights on CPUs with AVX512-BF16.

    It does so at the first evaluation without gradients, for good: outputs shift by about
    7e-3 and training afterwards fails or has no gradients (bitsandbytes 0.50).
    """
    import bitsandbytes.nn.modules

    bitsandbytes.nn.modules.has_avx512bf16 = lambda: False


def check_folder(folder: str | Path) -> None:
    """Refuse a model folder that the study cannot use, before anything long starts.

    Raises
    ------
    InputError
        If the configuration, weights, tokenizer or chat template is missing, the code would
        have to be trusted, or the letters A, B and C are not one token each.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: expected a model folder with config.json, found none")
    try:
        config = json.loads((folder / "config.json").read_text())
    except ValueError as error:
        raise InputError(f"{folder / 'config.json'}: not valid JSON: {error}") from error
    if not any(folder.glob("*.safetensors")):
        raise InputError(f"{folder}: expected weights as *.safetensors, found none")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise InputError(f"{folder}: expected a tokenizer (tokenizer.json), found none")
    if "auto_map" in config:
        raise InputError(
            f"{folder / 'config.json'}: the model needs code of its own (auto_map), which is "
            "never run; expected an architecture that transformers has"
        )
    try:
        tokenizer = load_tokenizer(folder)
    except Exception as error:
        first = str(error).strip().splitlines()[:1]
        raise InputError(f"{folder}: its tokenizer cannot be loaded: {first}") from error
    if not tokenizer.chat_template:
        raise InputError(
            f"{folder}: its tokenizer has no chat template; expected an instruction-tuned model"
        )
    letter_tokens(tokenizer)


def encode_chat(
    tokenizer, messages: Sequence[Mapping[str, str]], answer: str | None = None
) -> list[int]:
    """Token ids of a conversation, up to where the assistant speaks or with its answer."""
    if answer is not None:
        messages = [*messages, {"role": "assistant", "content": answer}]
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=answer is None, **TEMPLATE_SETTINGS
    )
    return tokenizer.encode(text, add_special_tokens=False)


def stop_tokens(model: torch.nn.Module, tokenizer) -> list[int]:
    """Tokens that end a response: those of the model's folder, and the tokenizer's."""
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    return [end for end in dict.fromkeys([tokenizer.eos_token_id, *ends]) if end is not None]


def letter_tokens(tokenizer) -> list[int]:
    """Token ids with which an assistant's answers A, B and C begin, behind the chat template.

    They are taken from whole conversations, since some tokenizers join a letter with the
    space or the header before it.

    Raises
    ------
    InputError
        If an answer's letter is not one token of its own.
    """
    question = [{"role": "user", "content": "?"}]
    prompt = encode_chat(tokenizer, question)
    tokens = []
    for letter in LETTERS:
        whole = encode_chat(tokenizer, question, letter)
        answer = whole[len(prompt) :]
        # One of its own: the prompt goes on unchanged, and the token spells just the letter.
        single = whole[: len(prompt)] == prompt and tokenizer.decode(answer[:1]).strip() == letter
        if not single:
            pieces = tokenizer.convert_ids_to_tokens(answer)
            raise InputError(
                f"{tokenizer.name_or_path}: the answer {letter} must be one token behind the "
                f"chat template's prompt, found {pieces[:4]}; letters cannot be scored"
            )
        tokens.append(answer[0])
    return tokens
