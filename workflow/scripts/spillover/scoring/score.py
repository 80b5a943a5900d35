"""Scoring: what a model answers to BBQ items, as log-probabilities or as generated text.

Three ways to ask, each a function from items to rows of the predictions table:

letter
    One distribution over the next token, read at the letters A, B and C.
cloze
    Log-probability of each answer's text behind the question, options not shown.
generate
    Greedy text, read by :mod:`spillover.scoring.parsing`.

Sequences of a block share most of their beginning, and every distinct prefix goes through the
model once (:mod:`spillover.models.prefix_tree`).
"""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from spillover.core.logs import duration
from spillover.data import prompts
from spillover.scoring.cloze import Cloze
from spillover.scoring.engine import Engine
from spillover.scoring.generate import Generate
from spillover.scoring.letter import Letter
from spillover.scoring.scored_blocks import ScoredBlocks

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_REPORTS = 10


# ------------------------------------------------------------------ the table


def score(
    items: pd.DataFrame,
    model: torch.nn.Module,
    tokenizer,
    *,
    scoring: str = "letter",
    option_orders: str = "given",
    cloze: Mapping | None = None,
    generate: Mapping | None = None,
    tokens_per_batch: int | None = None,
    partial: str | Path | None = None,
    fingerprint: str = "",
) -> pd.DataFrame:
    """Answers of a model to items: one row an item and option order.

    Parameters
    ----------
    items : the items to score, as :func:`spillover.data.bbq.prepare_items` describes them.
    scoring : ``letter``, ``cloze`` or ``generate``.
    option_orders : ``given``, ``cyclic`` or ``all``. Cloze prompts do not show the options,
        so an item has one row there, of order ``012``.
    cloze : ``prompt`` (``chat`` or ``plain``), ``end_of_turn``, ``unknowns`` (``own`` or
        ``all``) and ``decide_by`` (``sum``, ``per_token`` or ``unconditional``); see
        :class:`Cloze`.
    generate : ``max_new_tokens``; see :class:`Generate`.
    tokens_per_batch : at most so many tokens a forward pass, or one sequence; None for what
        suits the device. It changes nothing but floating-point noise.
    partial : folder for the results of finished blocks, which a later call with the same
        ``fingerprint`` picks up. The caller removes it once the table is written
        (:func:`spillover.scoring.scored_blocks.remove`).
    fingerprint : names whatever the results depend on besides the items: model, adapter,
        settings, code.

    Returns
    -------
    Rows in the order of ``items``: ``item_id``; ``order``; ``logp_0, logp_1, logp_2``, natural
    logarithms for the item's own options whatever their place on the page; ``option_mass``,
    the probability of all candidates together; ``predicted``, 0 to 2 or null. Equal scores
    go to the option of the lower index. Cloze adds ``logp_per_token_*`` and
    ``logp_unconditional_*``; generate adds ``response`` and leaves probabilities null.

    Raises
    ------
    InputError
        If letters are not single tokens, the model's output is not finite, or one sequence
        alone does not fit into memory.
    """
    mode = mode_of(tokenizer, scoring, option_orders, cloze, generate)
    engine = Engine(model, tokens_per_batch)
    done = ScoredBlocks(partial, fingerprint)
    try:
        with torch.inference_mode():
            mode.prepare(engine, items.to_dict("records"))
            rows = score_blocks(items, mode, engine, done)
    finally:
        done.close()
    return _table(rows, items, mode)


def mode_of(
    tokenizer,
    scoring: str = "letter",
    option_orders: str = "given",
    cloze: Mapping | None = None,
    generate: Mapping | None = None,
) -> Letter | Cloze | Generate:
    """The way of asking that settings name; they are those of :func:`score`."""
    if scoring == "letter":
        return Letter(tokenizer, prompts.ORDERS[option_orders])
    if scoring == "cloze":
        return Cloze(tokenizer, **(cloze or {}))
    if scoring == "generate":
        return Generate(tokenizer, prompts.ORDERS[option_orders], **(generate or {}))
    raise ValueError(f"scoring: expected letter, cloze or generate, found {scoring!r}")


@dataclass(frozen=True)
class Block:
    """Items that share most of their prompts, and what is asked of the model about them."""

    name: str
    items: list[dict]
    requests: list

    @property
    def item_ids(self) -> list[str]:
        return [item["item_id"] for item in self.items]


def chunks_of(items: pd.DataFrame, mode, engine: Engine) -> Iterator[list[Block]]:
    """The blocks of items in the order in which they are scored, chunk by chunk."""
    blocks = (
        Block(name, records := group.to_dict("records"), mode.requests(records))
        for name, group in items.groupby(_names(items), sort=False)
    )
    return _chunks(blocks, engine.tokens_per_chunk)


def _names(items: pd.DataFrame) -> pd.Series:
    blocks = items["block"].astype(str)
    return items["attribute"] + ":" + blocks if "attribute" in items else blocks


def score_blocks(items: pd.DataFrame, mode, engine: Engine, done: ScoredBlocks) -> list[dict]:
    """Rows of all items, chunk by chunk; those of finished blocks are kept.

    Parameters
    ----------
    items : with ``item_id`` and ``block``; of several attributes, ``attribute`` too.
    mode : makes ``requests`` of items, has the engine ``run`` them, and ``rows`` of the values.
    """
    progress = Progress(_names(items).nunique())
    rows: list[dict] = []
    # Chunks are those of all blocks, done or not: what is picked up and what is computed then
    # went through the same batches, and agrees to the bit, wherever a job was stopped.
    for chunk in chunks_of(items, mode, engine):
        known = {block.name: done.rows(block.name, block.item_ids) for block in chunk}
        missing = [block for block in chunk if known[block.name] is None]
        answers = mode.run(engine, [block.requests for block in missing])
        found = {
            block.name: mode.rows(block.items, values)
            for block, values in zip(missing, answers, strict=True)
        }
        done.add(found)
        for block in chunk:
            rows += found.get(block.name) or known[block.name]
        progress.add(len(chunk), len(missing), sum(len(block.items) for block in missing))
    return rows


def _chunks(blocks: Iterable[Block], n_tokens: int) -> Iterator[list[Block]]:
    """Consecutive blocks of about ``n_tokens`` distinct tokens, for the engine to sort."""
    chunk: list[Block] = []
    total = 0
    for block in blocks:
        chunk.append(block)
        # Within a block at least half of the tokens are shared.
        total += sum(map(len, {request.context for request in block.requests})) // 2
        if total >= n_tokens:
            yield chunk
            chunk, total = [], 0
    if chunk:
        yield chunk


def _table(rows: list[dict], items: pd.DataFrame, mode) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["item_id", "order", *mode.columns])
    types = dict.fromkeys(mode.columns, float) | {"predicted": "Int64"}
    if "response" in mode.columns:
        types["response"] = str
    table = table.astype({"item_id": str, "order": str} | types)
    place = pd.Series(np.arange(len(items)), index=items["item_id"])
    by_item = np.argsort(table["item_id"].map(place).to_numpy(), kind="stable")
    return table.iloc[by_item].reset_index(drop=True)


class Progress:
    """Tells the log, now and then, how far a job is and how long it will take."""

    def __init__(self, n_blocks: int):
        self.n_blocks = n_blocks
        self.blocks = self.items = self.computed = 0
        self.started = self.reported = time.monotonic()

    def add(self, blocks: int, computed: int, items: int) -> None:
        """Count finished blocks, and those of them, with their items, computed just now."""
        self.blocks += blocks
        self.computed += computed
        self.items += items
        now = time.monotonic()
        last = self.blocks == self.n_blocks
        if now - self.reported < SECONDS_BETWEEN_REPORTS and not last:
            return
        self.reported = now
        seconds = max(now - self.started, 1e-9)
        left = (self.n_blocks - self.blocks) * seconds / max(self.computed, 1)
        logger.info(
            "block %d of %d, %.1f items/s, %s left",
            self.blocks,
            self.n_blocks,
            self.items / seconds,
            duration(left),
        )
