"""What a model's architecture can do, tried on made-up sequences as long as the real ones."""

import logging

import numpy as np
import torch

from spillover.core.errors import InputError, named
from spillover.models import prefix_tree

logger = logging.getLogger(__name__)

# Largest difference of log-probabilities, relative to that between two sequences.
TOLERANCE = 1e-3
ROUNDED_TOLERANCE = 0.1
# Sequences of a trial: tokens of the shortest one, of the header, and of what all begin with.
SHORTEST, HEADER, COMMON = 16, 3, 7


class Trials:
    """Up to which length a model computes over a tree what it computes over sequences.

    No architecture is asked for its name. One whose attention changes beyond some distance is
    found out at the length that matters; a length of which its configuration tells, before.
    Lengths are tried in steps that double, since a trial is a few passes.

    Parameters
    ----------
    model : a causal language model in evaluation mode.

    Raises
    ------
    InputError
        If what stands behind a token changes its output.
    """

    def __init__(self, model: torch.nn.Module):
        self.model = model
        self.window = attention_window(model)
        self.answers: dict[int, bool] = {}
        self.told = False
        self.share(SHORTEST)

    def share(self, depth: int) -> bool:
        """Whether sequences of up to ``depth`` tokens can go through the model as trees.

        The answer for a length does not depend on which other ones were asked for.

        Raises
        ------
        InputError
            If what stands behind a token of such sequences changes its output.
        """
        tried = self._length_to_try(depth)
        if tried not in self.answers:
            plain = plain_logits(self.model, tried)
            if self.window is not None and tried > self.window:
                reason = f"attention reaches back {self.window}"
            else:
                reason = tree_obstacle(self.model, tried, plain)
            self.answers[tried] = reason is None
            if reason is not None and not self.told:
                logger.info(
                    "no prefix sharing: sequences of up to %d tokens, and %s", depth, reason
                )
                self.told = True
        return self.answers[tried]

    def _length_to_try(self, depth: int) -> int:
        """Twice the last length until ``depth`` is in it, but none that a limit forbids."""
        longest = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        length = SHORTEST
        while length < depth:
            length *= 2
        for limit in (self.window, longest):
            if limit is not None and SHORTEST <= depth <= limit:
                length = min(length, limit)
        return length


def attention_window(model: torch.nn.Module) -> int | None:
    """How many tokens attention reaches back in its narrowest layer; None for all."""
    config = model.config.get_text_config()
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    if not getattr(config, "use_sliding_window", True):
        windows[0] = None
    return min((window for window in windows if window), default=None)


def plain_logits(model: torch.nn.Module, depth: int) -> torch.Tensor | None:
    """Logits behind the common tokens and behind the long sequence, without sharing.

    Parameters
    ----------
    depth : tokens of the longest sequence that is tried.

    Returns
    -------
    (2, vocabulary), or None if memory does not hold them.

    Raises
    ------
    InputError
        If the model's output for a token depends on those behind it, padding or not, or the
        model does not run on tokens alone.
    """
    long, _ = _sequences(model, depth)
    places = np.array([COMMON - 1, depth - 1])
    name = type(model).__name__
    try:
        with torch.inference_mode():
            plain = prefix_tree.logits_of_sequences(model, [long], [places])[0]
            alone = _alone(model, long[:COMMON])
    except Exception as error:  # whatever an architecture wants beside tokens
        if out_of_memory(error):  # the engine tells
            return None
        raise InputError(f"{name} cannot be scored: {named(error)}") from error
    difference, allowed = _difference(model, plain, torch.stack([alone, plain[1]]))
    if difference > allowed:
        raise InputError(
            f"{name} cannot be scored: what stands behind a token changes its log-probabilities "
            f"(by {difference:.2g}); expected a causal language model"
        )
    return plain


def tree_obstacle(model: torch.nn.Module, depth: int, plain: torch.Tensor | None) -> str | None:
    """Why a model does not compute over a tree what it computes over sequences, or None.

    Parameters
    ----------
    plain : as :func:`plain_logits` gives them for that depth.
    """
    if plain is None:
        return "memory does not hold one"
    long, short = _sequences(model, depth)
    # The long branch comes first: were it seen by the short one, or were positions counted
    # along the row, the short one's logits would change. A node before the fork is read too:
    # it stands behind those that descend from it.
    tree = prefix_tree.build([long[HEADER:], short[HEADER:]])
    nodes = np.array([COMMON - HEADER - 1, *(path[-1] for path in tree.paths)])
    try:
        with torch.inference_mode():
            header = prefix_tree.read_header(model, long[:HEADER])
            shared = prefix_tree.logits_of_rows(model, [tree], [nodes], header)[0]
            expected = torch.stack([*plain, _alone(model, short)])
    except Exception as error:  # whatever an architecture does with what it does not know
        return named(error)
    difference, allowed = _difference(model, shared, expected)
    if not difference <= allowed:
        return f"on a trial tree, log-probabilities are off by {difference:.2g}"
    return None


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; torch has no class for it on a CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        text in str(error) for text in ("not enough memory", "can't allocate memory")
    )


def _sequences(model: torch.nn.Module, depth: int) -> tuple[list[int], list[int]]:
    """A sequence of ``depth`` tokens and a short one that begins with the same ones."""
    size = model.config.get_text_config().vocab_size
    common, long, short = (
        [(first + 7 * i) % size for i in range(length)]
        for first, length in ((3, COMMON), (4, depth - COMMON), (5, 4))
    )
    return common + long, common + short


def _alone(model: torch.nn.Module, sequence: list[int]) -> torch.Tensor:
    """Logits (vocabulary,) behind a sequence, without anything of ours."""
    ids = torch.tensor([sequence], device=model.device)
    return model(input_ids=ids, use_cache=False).logits[0, -1]


def _difference(
    model: torch.nn.Module, found: torch.Tensor, expected: torch.Tensor
) -> tuple[float, float]:
    """Largest difference of log-probabilities, and the largest that is rounding."""
    found, expected = (logits.float().log_softmax(-1) for logits in (found, expected))
    spread = (expected[0] - expected[1]).abs().max().item()
    tolerance = TOLERANCE if model.dtype == torch.float32 else ROUNDED_TOLERANCE
    return (found - expected).abs().max().item(), tolerance * spread
