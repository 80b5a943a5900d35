"""Refuse a model folder that the study cannot use, before anything long starts."""

import json
from collections.abc import Mapping
from pathlib import Path

from spillover.core.errors import InputError
from spillover.models.architecture import check_architecture
from spillover.models.check_tokenizer import check_tokenizer
from spillover.models.weights import check_weights

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def check_folder(folder: str | Path, forms: Mapping, chat_template: Mapping | None = None) -> None:
    """Refuse a model folder that the study cannot use, before anything long starts.

    Nothing of the weights is loaded but their headers.

    Parameters
    ----------
    forms : the forms in which the study asks, as :func:`check_tokenizer` takes them.
    chat_template : arguments for the chat template.

    Raises
    ------
    InputError
        If the configuration, weights or tokenizer are missing or do not fit each other, or are
        not what the study's forms need.
    """
    folder = Path(folder)
    check_config(folder)
    check_architecture(folder)
    check_weights(folder)
    if not has_tokenizer(folder):
        raise InputError(f"{folder}: expected a tokenizer (tokenizer.json), found none")
    check_tokenizer(folder, forms, chat_template)


def check_checkpoint(
    folder: str | Path, forms: Mapping, chat_template: Mapping | None = None
) -> None:
    """The same of an aligned model beside its base, which may have no tokenizer of its own."""
    if has_tokenizer(Path(folder)):
        check_folder(folder, forms, chat_template)
    else:
        check_config(Path(folder))
        check_architecture(folder)
        check_weights(folder)


def check_config(folder: Path) -> None:
    """Refuse what is no folder of a model, or of a model and an adapter as well.

    Raises
    ------
    InputError
        If there is no config.json, it cannot be read, or PEFT's files lie beside it.
    """
    adapter = (folder / "adapter_config.json").is_file()
    if adapter and not (folder / "config.json").is_file():
        raise InputError(
            f"{folder}: expected a model, found a PEFT adapter; name its base here, and the "
            "adapter under alignments, as adapter: {<model>: <source>}"
        )
    if adapter:
        raise InputError(
            f"{folder}: expected a model alone, found a PEFT adapter (adapter_config.json) in its "
            "folder, which transformers would add to it; move the adapter to a folder of its own, "
            "and to study it name it under alignments, as adapter: {<model>: <source>}"
        )
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder}: expected a model folder with config.json, found none")
    try:
        json.loads((folder / "config.json").read_text())
    except ValueError as error:
        raise InputError(f"{folder / 'config.json'}: not valid JSON: {error}") from error


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has a tokenizer of its own."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)
