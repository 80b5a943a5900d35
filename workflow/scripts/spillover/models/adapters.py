"""PEFT adapters: attached to their base whole or not at all, wherever they were trained."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict

from spillover.core.errors import InputError, first_line
from spillover.models.architecture import read_config, without_weights
from spillover.models.weights import counted, read_header

logger = logging.getLogger(__name__)

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def check_adapter(folder: str | Path, base: str | Path, said: str | None = None) -> None:
    """Refuse an adapter that is not whole, or not of this base; no weights are loaded.

    Parameters
    ----------
    folder : of the adapter.
    base : folder of the base, with ``source.json``.
    said : the name of the adapter's base, if the user says that it is this one.

    Raises
    ------
    InputError
        If a file is missing or cut, the base has another name, its modules are not there, or
        tensors are missing, left over or of other shapes.
    """
    folder = Path(folder)
    config = read_adapter_config(folder)
    _check_base(folder, config, Path(base), said)
    read_header(folder / WEIGHTS)
    model = without_weights(read_config(base))
    with torch.device("meta"):
        # Some ways to start an adapter read the base's weights; here it is only to have shapes.
        if hasattr(config, "init_lora_weights"):
            config.init_lora_weights = True
        try:
            model = get_peft_model(model, config)
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{folder / CONFIG}: does not fit its base: {first_line(error)}"
            ) from error
    refuse_faults(folder, model)


def attach(model: torch.nn.Module, folder: str | Path) -> PeftModel:
    """The model with a folder's adapter, every tensor of which came from its file.

    The adapter is not merged: the base's weights are the same to the bit with and without it.

    Raises
    ------
    InputError
        If tensors are missing, left over or of other shapes.
    """
    read_adapter_config(Path(folder))
    adapted = PeftModel.from_pretrained(model, folder, local_files_only=True)
    refuse_faults(folder, adapted)
    return adapted


def refuse_faults(folder: str | Path, model: PeftModel) -> None:
    """Refuse an adapter whose file does not hold what its base and configuration make of it."""
    found = {name: shape for name, (_, shape) in read_header(Path(folder) / WEIGHTS).items()}
    expected = _shapes(get_peft_model_state_dict(model, save_embedding_layers=False))
    # Where embeddings are adapted, PEFT saves those of the base as well.
    of_base = _shapes(model.state_dict())
    missing = set(expected) - set(found)
    leftover = {name for name in set(found) - set(expected) if of_base.get(name) != found[name]}
    if missing or leftover:
        told = [
            f"{counted(names, 'tensor')} {what}"
            for names, what in ((missing, "missing"), (leftover, "left over"))
            if names
        ]
        raise InputError(
            f"{Path(folder) / WEIGHTS}: does not fit its base and {CONFIG}: {', '.join(told)}"
        )
    for name, shape in expected.items():
        if found[name] != shape:
            raise InputError(
                f"{Path(folder) / WEIGHTS}: expected {name} of shape {shape}, as its base has it, "
                f"found {found[name]}"
            )


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def read_adapter_config(folder: Path) -> PeftConfig:
    """PEFT's configuration of an adapter's folder.

    Raises
    ------
    InputError
        If its two files are not there, or it cannot be read.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder}: expected a PEFT adapter with {CONFIG} and {WEIGHTS}, found no {name} "
                "(pickles, *.bin, are never loaded)"
            )
    try:
        return PeftConfig.from_pretrained(folder, local_files_only=True)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{folder / CONFIG}: cannot be read: {first_line(error)}") from error


def _check_base(folder: Path, config: PeftConfig, base: Path, said: str | None) -> None:
    """Refuse an adapter of another base, as far as names tell: weights of one shape are many."""
    record = base / "source.json"
    source: Mapping = json.loads(record.read_text()) if record.is_file() else {}
    trained_on = str(config.base_model_name_or_path or "")
    names = {name.lower() for name in (source.get("repo"), said) if name}
    on_hub = trained_on.count("/") == 1 and not trained_on.startswith((".", "/"))
    if "repo" in source and on_hub and trained_on.lower() not in names:
        raise InputError(
            f"{folder / CONFIG}: its base is {trained_on}, and the study's is {source['repo']}; if "
            f"these are the same weights, say so beside its source, as base: {trained_on}"
        )
    logger.info("trained on %s, by its own account", trained_on or "an unnamed base")
