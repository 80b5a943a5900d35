"""The model of a run, with its adapter, and the tokenizer that it is asked with."""

from collections.abc import Mapping
from pathlib import Path

import torch

from spillover.models.beside import tokenizer_beside
from spillover.models.check_tokenizer import check_tokenizer
from spillover.models.load import load_model, load_tokenizer


def load_run(
    folder: str | Path,
    settings: Mapping,
    forms: Mapping,
    device: str,
    base: str | Path | None = None,
    adapter: str | Path | None = None,
    strength: float | None = None,
) -> tuple[torch.nn.Module, object]:
    """Load what a run computes with.

    Parameters
    ----------
    folder : of the weights: the base's, or a checkpoint's.
    settings : ``quantization``, ``dtype`` and, where there is one, ``chat_template``.
    forms : what the study asks (:func:`spillover.models.check_tokenizer.check_tokenizer`).
    base : of a checkpoint, the folder of the model beside which it was made.
    adapter : one of the adapter's files.
    strength : at which logits lie between the base's and the aligned model's.

    Raises
    ------
    InputError
        If the tokenizer does not allow what is asked, or the weights cannot be loaded.
    """
    settings = dict(settings)
    chat_template = settings.pop("chat_template", None)
    if base:
        tokenizer = tokenizer_beside(folder, base, chat_template)
    else:
        check_tokenizer(folder, forms, chat_template)
        tokenizer = load_tokenizer(folder, chat_template)
    model = load_model(
        folder,
        **settings,
        device=device,
        adapter=Path(adapter).parent if adapter else None,
        strength=strength,
    )
    return model, tokenizer
