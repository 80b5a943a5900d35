"""Scoring of companion sets: log-probabilities of each item's options.

An option continues a plain text, as lm-eval scores it, or is the assistant's reply in a chat; in a
chat, it is asked for by its letter too. Items of a block share their prefixes, as do the options
of an item: the engine is that of BBQ's items.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import torch

from spillover.data import companion_prompts as prompts
from spillover.models.chat import QUESTION, around_answer
from spillover.models.tokens import (
    encode_chat,
    encode_continuations,
    encode_replies,
    encode_texts,
    letter_tokens,
)
from spillover.scoring.engine import Engine, Span
from spillover.scoring.score import score_blocks
from spillover.scoring.scored_blocks import ScoredBlocks


class Plain:
    """Log-probabilities of options behind a context, or of texts by themselves."""

    columns = ("logp", "n_tokens")

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def requests(self, items: list[dict]) -> list[Span]:
        """One span an option."""
        return [span for item in items for span in self._spans(item)]

    def _spans(self, item: dict) -> list[Span]:
        options = list(item["options"])
        if item["context"]:
            texts = [f" {option}" for option in options]
            asked, said = encode_continuations(self.tokenizer, item["context"], texts)
        else:
            asked, said = encode_texts(self.tokenizer, options)
        return [Span((*asked, *tokens), len(asked)) for tokens in said]

    def run(self, engine: Engine, blocks: list[list[Span]]) -> list[list[tuple[float, int]]]:
        """Log-probability of each span and its number of tokens, block by block."""
        return [
            [(float(value), len(span)) for value, span in zip(values, spans, strict=True)]
            for values, spans in zip(engine.log_probabilities(blocks), blocks, strict=True)
        ]

    def rows(self, items: list[dict], values: Sequence[tuple[float, int]]) -> list[dict]:
        """Rows of the table from the spans' log-probabilities."""
        of_span = iter(values)
        return [{"item_id": item["item_id"]} | self._row(item, of_span) for item in items]

    def _row(self, item: dict, of_span: Iterator[tuple[float, int]]) -> dict[str, list]:
        logp, n_tokens = zip(*(next(of_span) for _ in item["options"]), strict=True)
        return {"logp": list(logp), "n_tokens": list(n_tokens)}


class Chat(Plain):
    """Log-probabilities of options as replies to a question, and of their letters."""

    columns = ("logp", "n_tokens", "letter_logp")

    def __init__(self, tokenizer, n_letters: int):
        super().__init__(tokenizer)
        # With the end of the turn, where the template writes one: no option is favoured for
        # being the beginning of another.
        self.end_of_turn = bool(around_answer(tokenizer, QUESTION)[1])
        self.letters = letter_tokens(tokenizer, prompts.LETTERS[:n_letters])

    def _spans(self, item: dict) -> list[Span]:
        options = list(item["options"])
        asked, said = encode_replies(
            self.tokenizer, prompts.open_question(item), options, self.end_of_turn
        )
        lettered = encode_chat(self.tokenizer, prompts.lettered_question(item))
        return [Span((*asked, *tokens), len(asked)) for tokens in said] + [
            Span((*lettered, letter), len(lettered)) for letter in self.letters[: len(options)]
        ]

    def _row(self, item: dict, of_span: Iterator[tuple[float, int]]) -> dict[str, list]:
        said = super()._row(item, of_span)
        return said | {"letter_logp": super()._row(item, of_span)["logp"]}


def mode_of(items: pd.DataFrame, tokenizer, chat: bool) -> Plain:
    """The way in which items of a set are asked."""
    return Chat(tokenizer, int(items["options"].map(len).max())) if chat else Plain(tokenizer)


def score_companions(
    items: pd.DataFrame,
    model: torch.nn.Module,
    tokenizer,
    chat: bool,
    tokens_per_batch: int | None = None,
    partial: str | Path | None = None,
    fingerprint: str = "",
) -> pd.DataFrame:
    """A model's log-probabilities of the options of a companion set.

    Parameters
    ----------
    items : as :func:`spillover.data.companions.prepare` gives them.
    chat : whether options are replies in a chat, and asked for by letter too.
    tokens_per_batch, partial, fingerprint : as for :func:`spillover.scoring.score.score`.

    Returns
    -------
    One row an item, in the items' order: ``item_id``; ``logp`` and ``n_tokens``, of each option
    the natural logarithm of its probability and its number of tokens; in a chat ``letter_logp``,
    the logarithm of the probability of its letter.

    Raises
    ------
    InputError
        If letters are not single tokens, the model's output is not finite, or one sequence alone
        does not fit into memory.
    """
    mode = mode_of(items, tokenizer, chat)
    engine = Engine(model, tokens_per_batch)
    done = ScoredBlocks(partial, fingerprint)
    try:
        with torch.inference_mode():
            rows = score_blocks(items, mode, engine, done)
    finally:
        done.close()
    table = pd.DataFrame(rows, columns=["item_id", *mode.columns])
    return table.set_index("item_id").loc[items["item_id"]].reset_index()
