"""Refuse a model folder that the study cannot use, before anything long starts."""

import json
from pathlib import Path

from spillover.core.errors import InputError
from spillover.models.load import load_tokenizer
from spillover.models.tokens import letter_tokens


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
