"""The tokens that scoring puts through a model, counted without the model."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import pandas as pd

from spillover.models import prefix_tree
from spillover.models.prefix_tree import Header
from spillover.scoring import companions
from spillover.scoring.answering import requests
from spillover.scoring.engine import BATCHES_PER_CHUNK, TOKENS_PER_BATCH, Engine, Request, Row
from spillover.scoring.generate import Generate
from spillover.scoring.score import chunks_of, mode_of


class Counter(Engine):
    """An engine without a model: it makes the same headers and rows, and adds up their tokens.

    Prefixes are shared; a model that does not take trees has more tokens to run over.

    Attributes
    ----------
    n_tokens : tokens so far, without padding.
    new_tokens : how many tokens behind each prompt count as well, where text is generated.
    """

    def __init__(self, tokens_per_batch: int | None = None):
        self.budget = tokens_per_batch or TOKENS_PER_BATCH["cuda"]
        self.tokens_per_chunk = BATCHES_PER_CHUNK * self.budget
        self.n_tokens = self.new_tokens = 0

    def _shares(self, depth: int) -> bool:
        return True

    def _header(self, requests: Sequence[Request], limit: int) -> Header | None:
        common = prefix_tree.common_prefix((request.context for request in requests), limit)
        self.n_tokens += len(common)
        return Header(common, []) if common else None

    def _in_batches(
        self, run: Callable, rows: list[Row], size: Callable[[Row], int]
    ) -> Iterator[tuple[Row, list]]:
        for row in rows:
            self.n_tokens += len(row) + self.new_tokens * len(row.paths)
            yield row, [0.0] * len(row.requests)


def count(
    items: pd.DataFrame, tokenizer, evaluation: Mapping, tokens_per_batch: int | None = None
) -> int:
    """Tokens that :func:`spillover.scoring.score.score` puts through a model, before padding.

    Exact where prefixes are shared and memory does not run out. Of generated text it is a bound:
    every answer is taken to be as long as it may be.

    Parameters
    ----------
    items : of one attribute, as a scoring job takes them.
    evaluation : the settings of scoring: ``scoring`` and, as it needs them, ``option_orders``,
        ``cloze`` and ``generate``.
    tokens_per_batch : of a forward pass; None for what suits a GPU.
    """
    keys = ("scoring", "option_orders", "cloze", "generate")
    mode = mode_of(tokenizer, **{key: evaluation[key] for key in keys if key in evaluation})
    counter = Counter(tokens_per_batch)
    mode.prepare(counter, items.to_dict("records"))
    for chunk in chunks_of(items, mode, counter):
        requests = [block.requests for block in chunk]
        if isinstance(mode, Generate):
            # The last new token is read from the pass before it, and goes through none.
            counter.new_tokens = mode.max_new_tokens - 1
            counter.generate(requests, mode.max_new_tokens, ())
        else:
            counter.log_probabilities(requests)
    return counter.n_tokens


def count_companions(
    items: pd.DataFrame, tokenizer, chat: bool, tokens_per_batch: int | None = None
) -> int:
    """Tokens that :func:`spillover.scoring.companions.score_companions` puts through a model."""
    mode, counter = companions.mode_of(items, tokenizer, chat), Counter(tokens_per_batch)
    for chunk in chunks_of(items, mode, counter):
        counter.log_probabilities([block.requests for block in chunk])
    return counter.n_tokens


def count_answers(
    prompts: pd.DataFrame, tokenizer, max_new_tokens: int, tokens_per_batch: int | None = None
) -> int:
    """Tokens that :func:`spillover.scoring.answering.answer` puts through a model, at most."""
    counter = Counter(tokens_per_batch)
    counter.new_tokens = max_new_tokens - 1
    counter.generate(requests(prompts, tokenizer), max_new_tokens, ())
    return counter.n_tokens
