"""Scoring: what a model answers to BBQ items, as log-probabilities or as generated text.

Three ways to ask, each a function from items to rows of the predictions table:

letter
    One distribution over the next token, read at the letters A, B and C.
cloze
    Log-probability of each answer's text behind the question, options not shown.
generate
    Greedy text, read by :mod:`spillover.parsing`.

Sequences of a block share most of their beginning, and every distinct prefix goes through the
model once (:mod:`spillover.prefix_tree`).
"""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from spillover import models, parsing, prompts
from spillover.engine import Engine, Prompt, Span
from spillover.scored_blocks import ScoredBlocks

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
    items : the items to score, as :func:`spillover.bbq.prepare_items` describes them.
    scoring : ``letter``, ``cloze`` or ``generate``.
    option_orders : ``given``, ``cyclic`` or ``all``. Cloze prompts do not show the options,
        so an item has one row there, of order ``012``.
    cloze : ``unknowns`` (``own`` or ``all``) and ``decide_by`` (``sum``, ``per_token`` or
        ``unconditional``); see :class:`Cloze`.
    generate : ``max_new_tokens``; see :class:`Generate`.
    tokens_per_batch : at most so many tokens a forward pass, or one sequence; None for what
        suits the device. It changes nothing but floating-point noise.
    partial : folder for the results of finished blocks, which a later call with the same
        ``fingerprint`` picks up. The caller removes it once the table is written
        (:func:`spillover.scored_blocks.remove`).
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
    if scoring == "letter":
        mode = Letter(tokenizer, prompts.ORDERS[option_orders])
    elif scoring == "cloze":
        mode = Cloze(tokenizer, **(cloze or {}))
    elif scoring == "generate":
        mode = Generate(tokenizer, prompts.ORDERS[option_orders], **(generate or {}))
    else:
        raise ValueError(f"scoring: expected letter, cloze or generate, found {scoring!r}")
    engine = Engine(model, tokens_per_batch)
    done = ScoredBlocks(partial, fingerprint)
    try:
        with torch.inference_mode():
            mode.prepare(engine, items.to_dict("records"))
            rows = _score_blocks(items, mode, engine, done)
    finally:
        done.close()
    return _table(rows, items, mode)


@dataclass(frozen=True)
class Block:
    """Items that share most of their prompts, and what is asked of the model about them."""

    name: str
    items: list[dict]
    requests: list

    @property
    def item_ids(self) -> list[str]:
        return [item["item_id"] for item in self.items]


def _score_blocks(items: pd.DataFrame, mode, engine: Engine, done: ScoredBlocks) -> list[dict]:
    names = items["attribute"] + ":" + items["block"].astype(str)
    blocks = (
        Block(name, records := group.to_dict("records"), mode.requests(records))
        for name, group in items.groupby(names, sort=False)
    )
    progress = Progress(names.nunique())
    rows: list[dict] = []
    # Chunks are those of all blocks, done or not: what is picked up and what is computed then
    # went through the same batches, and agrees to the bit, wherever a job was stopped.
    for chunk in _chunks(blocks, engine.tokens_per_chunk):
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
            "block %d of %d, %.1f items/s, %d min %02d s left",
            self.blocks,
            self.n_blocks,
            self.items / seconds,
            *divmod(round(left), 60),
        )


# ------------------------------------------------------------------ the three modes


LOGP = ["logp_0", "logp_1", "logp_2"]


class Letter:
    """Log-probabilities of the letters A, B and C as the next token, in given option orders."""

    columns = (*LOGP, "option_mass", "predicted")

    def __init__(self, tokenizer, orders: Sequence[str]):
        self.tokenizer = tokenizer
        self.orders = orders
        self.letters = models.letter_tokens(tokenizer)

    def prepare(self, engine: Engine, items: list[dict]) -> None:
        """Nothing to compute before the items."""

    def requests(self, items: list[dict]) -> list[Span]:
        """Three spans an item and order: the prompt with each letter."""
        return [
            Span((*prompt, letter), len(prompt))
            for item in items
            for prompt in _encoded_prompts(self.tokenizer, item, self.orders)
            for letter in self.letters
        ]

    def run(self, engine: Engine, blocks: list[list[Span]]) -> list[np.ndarray]:
        """Log-probability of each span, block by block."""
        return engine.log_probabilities(blocks)

    def rows(self, items: list[dict], values: list[float]) -> list[dict]:
        """Rows of the table from the spans' log-probabilities."""
        rows = []
        by_prompt = iter(np.reshape(values, (-1, 3)))
        for item in items:
            for order in self.orders:
                at_place = next(by_prompt)
                logp = [float(at_place[order.index(option)]) for option in "012"]
                rows.append(
                    {"item_id": item["item_id"], "order": order}
                    | dict(zip(LOGP, logp, strict=True))
                    | {
                        "option_mass": float(np.exp(at_place).sum()),
                        "predicted": int(np.argmax(logp)),
                    }
                )
        return rows


class Cloze:
    """Log-probabilities of answer texts behind the question, without showing options.

    Parameters
    ----------
    unknowns : ``own``: the candidates are the item's three options. ``all``: its two groups
        and every phrase for *unknown*, as in lm-eval's ``bbq``; the unknown option then has
        the scores of the phrase that decides for it.
    decide_by : ``sum``: log p(answer | question). ``per_token``: the same over the answer's
        number of tokens. ``unconditional``: the same minus log p(answer | "A:"), after Brown
        et al. (2020, section 2.4). All three are recorded.

    ``option_mass`` is the sum of the candidates' probabilities. Where one candidate begins
    another, as some phrases for *unknown* do, the longer one's is counted in both.
    """

    columns = (
        *LOGP,
        *(f"logp_per_token_{i}" for i in range(3)),
        *(f"logp_unconditional_{i}" for i in range(3)),
        "option_mass",
        "predicted",
    )

    def __init__(self, tokenizer, unknowns: str = "own", decide_by: str = "sum"):
        if unknowns not in ("own", "all") or decide_by not in ("sum", "per_token", "unconditional"):
            raise ValueError(f"cloze: unknowns {unknowns!r}, decide_by {decide_by!r}")
        self.tokenizer = tokenizer
        self.unknowns = unknowns
        self.decide_by = decide_by
        self.unconditional: dict[str, float] = {}

    def prepare(self, engine: Engine, items: list[dict]) -> None:
        """Score every candidate text on its own, once a text and not once an item."""
        texts = list(
            dict.fromkeys(
                text for item in items for text, _ in prompts.cloze_candidates(item, self.unknowns)
            )
        )
        spans = self._spans(prompts.CLOZE_UNCONDITIONAL, texts)
        self.unconditional = {
            text: float(value)
            for text, value in zip(texts, engine.log_probabilities([spans])[0], strict=True)
        }

    def requests(self, items: list[dict]) -> list[Span]:
        """One span a candidate."""
        return [
            span
            for item in items
            for span in self._spans(
                prompts.cloze(item),
                [text for text, _ in prompts.cloze_candidates(item, self.unknowns)],
            )
        ]

    def _spans(self, prompt: str, answers: list[str]) -> list[Span]:
        # As lm-eval does: encode both together and split where the prompt alone would end,
        # so that a tokenizer is free to join them.
        encode = self.tokenizer.encode
        start = len(encode(prompt))
        return [Span(tuple(encode(f"{prompt} {answer}")), start) for answer in answers]

    def run(self, engine: Engine, blocks: list[list[Span]]) -> list[list[tuple[float, int]]]:
        """Log-probability of each span and its number of tokens, block by block."""
        return [
            [(float(value), len(span)) for value, span in zip(values, spans, strict=True)]
            for values, spans in zip(engine.log_probabilities(blocks), blocks, strict=True)
        ]

    def rows(self, items: list[dict], values: list[tuple[float, int]]) -> list[dict]:
        """Rows of the table from the candidates' log-probabilities."""
        rows = []
        of_candidate = iter(values)
        for item in items:
            best: dict[int, dict[str, float]] = {}
            mass = 0.0
            for text, option in prompts.cloze_candidates(item, self.unknowns):
                total, n_tokens = next(of_candidate)
                mass += float(np.exp(total))
                scores = {
                    "sum": total,
                    "per_token": total / n_tokens,
                    "unconditional": total - self.unconditional[text],
                }
                if option not in best or scores[self.decide_by] > best[option][self.decide_by]:
                    best[option] = scores
            row = {"item_id": item["item_id"], "order": "012"}
            for name, key in (
                ("logp", "sum"),
                ("logp_per_token", "per_token"),
                ("logp_unconditional", "unconditional"),
            ):
                row |= {f"{name}_{option}": best[option][key] for option in range(3)}
            row["option_mass"] = mass
            row["predicted"] = int(np.argmax([best[option][self.decide_by] for option in range(3)]))
            rows.append(row)
        return rows


class Generate:
    """Greedy text behind the letter mode's prompts, and the option that it names.

    Parameters
    ----------
    max_new_tokens : where a response ends that the model does not end itself.
    """

    columns = (*LOGP, "option_mass", "predicted", "response")

    def __init__(self, tokenizer, orders: Sequence[str], max_new_tokens: int = 32):
        self.tokenizer = tokenizer
        self.orders = orders
        self.max_new_tokens = max_new_tokens

    def prepare(self, engine: Engine, items: list[dict]) -> None:
        """Nothing to compute before the items."""

    def requests(self, items: list[dict]) -> list[Prompt]:
        """One prompt an item and order."""
        return [
            Prompt(prompt)
            for item in items
            for prompt in _encoded_prompts(self.tokenizer, item, self.orders)
        ]

    def run(self, engine: Engine, blocks: list[list[Prompt]]) -> list[list[str]]:
        """The text of each response, block by block."""
        stop = models.stop_tokens(engine.model, self.tokenizer)
        return [
            [self.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in answers]
            for answers in engine.generate(blocks, self.max_new_tokens, stop)
        ]

    def rows(self, items: list[dict], values: list[str]) -> list[dict]:
        """Rows of the table from the responses."""
        responses = iter(values)
        rows = []
        for item in items:
            for order in self.orders:
                response = next(responses)
                option = parsing.parse(response, item["options"], item["unknown"], order).option
                rows.append(
                    {"item_id": item["item_id"], "order": order}
                    | {"predicted": option, "response": response}
                )
        return rows


def _encoded_prompts(tokenizer, item: Mapping, orders: Sequence[str]) -> list[tuple[int, ...]]:
    return [
        tuple(models.encode_chat(tokenizer, prompts.multiple_choice(item, order)))
        for order in orders
    ]
