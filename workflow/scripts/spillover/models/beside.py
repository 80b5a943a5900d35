"""An aligned model beside its base: are both spoken to alike?"""

import logging
from collections.abc import Mapping
from pathlib import Path

from spillover.models.check import has_tokenizer
from spillover.models.load import load_tokenizer

logger = logging.getLogger(__name__)


def tokenizer_beside(
    checkpoint: str | Path, base: str | Path, chat_template: Mapping | None = None
):
    """Tokenizer for an aligned model: its base's or, where they differ, its own.

    The log says which. Where the two differ, part of what changed may be how the models are asked.

    Parameters
    ----------
    checkpoint, base : folders of the two models; the aligned one's may have no tokenizer.
    chat_template : arguments for the chat template, for both.
    """
    of_base = load_tokenizer(base, chat_template)
    if not has_tokenizer(Path(checkpoint)):
        logger.info("the checkpoint has no tokenizer: asked with its base's")
        return of_base
    own = load_tokenizer(checkpoint, chat_template)
    differing = [
        what
        for what, differs in (
            ("chat template", own.chat_template != of_base.chat_template),
            ("tokens", _tokens(own) != _tokens(of_base)),
        )
        if differs
    ]
    if not differing:
        logger.info("the checkpoint has its base's tokenizer and chat template")
        return of_base
    logger.warning(
        "the checkpoint is asked with its own tokenizer, which differs from its base's in its %s: "
        "part of a change may be how it is asked",
        " and ".join(differing),
    )
    return own


def _tokens(tokenizer) -> str | dict[str, int]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend.to_str() if backend is not None else tokenizer.get_vocab()
