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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from spillover import models, prefix_tree, prompts
from spillover.errors import InputError
from spillover.scored_blocks import ScoredBlocks

logger = logging.getLogger(__name__)

# Tokens a forward pass. On a CPU small batches are as fast a token and stay in cache; on a
# GPU they must be large enough to fill it and to spread the cost of reading the weights.
TOKENS_PER_BATCH = {"cpu": 640, "cuda": 4096}
SECONDS_BETWEEN_REPORTS = 10
# Rows of logits turned to float32 at once: bounds memory for large vocabularies.
ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Span:
    """A token sequence of which the tokens from ``start`` on are scored given those before."""

    tokens: tuple[int, ...]
    start: int

    @property
    def context(self) -> tuple[int, ...]:
        """What must go through the model: all but the last token, which nothing reads."""
        return self.tokens[:-1]

    def __len__(self) -> int:
        """Number of scored tokens."""
        return len(self.tokens) - self.start


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


def _score_blocks(items: pd.DataFrame, mode, engine: "Engine", done: ScoredBlocks) -> list[dict]:
    blocks = items["attribute"] + ":" + items["block"].astype(str)
    n_blocks = blocks.nunique()
    progress = Progress(n_blocks)
    rows: list[dict] = []
    encoded = (
        (name, block, mode.requests(block))
        for name, block in (
            (name, group.to_dict("records")) for name, group in items.groupby(blocks, sort=False)
        )
    )
    # Batches are those of all blocks, done or not: what is picked up and what is computed
    # again then agree to the bit, wherever a job was stopped.
    for batch in engine.batches(encoded):
        known = {
            name: done.rows(name, (item["item_id"] for item in block)) for name, block, _ in batch
        }
        missing = [
            (name, block, requests) for name, block, requests in batch if known[name] is None
        ]
        values = iter(mode.run(engine, list(chain.from_iterable(r for *_, r in missing))))
        found = {
            name: mode.rows(block, [next(values) for _ in requests])
            for name, block, requests in missing
        }
        done.add(found)
        for name, _, _ in batch:
            rows += found[name] if known[name] is None else known[name]
        progress.add(
            blocks=len(batch),
            items=sum(len(block) for _, block, _ in missing),
        )
    return rows


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

    def add(self, blocks: int, items: int) -> None:
        """Count finished blocks, and the items in them that were computed just now."""
        self.blocks += blocks
        self.items += items
        self.computed += blocks if items else 0
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

    def prepare(self, engine: "Engine", items: list[dict]) -> None:
        """Nothing to compute before the items."""

    def requests(self, items: list[dict]) -> list[Span]:
        """Three spans an item and order: the prompt with each letter."""
        return [
            Span((*prompt, letter), len(prompt))
            for item in items
            for prompt in _encoded_prompts(self.tokenizer, item, self.orders)
            for letter in self.letters
        ]

    def run(self, engine: "Engine", requests: list[Span]) -> np.ndarray:
        """Log-probability of each span."""
        return engine.log_probabilities(requests)

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

    def prepare(self, engine: "Engine", items: list[dict]) -> None:
        """Score every candidate text on its own, once a text and not once an item."""
        texts = list(
            dict.fromkeys(
                text for item in items for text, _ in prompts.cloze_candidates(item, self.unknowns)
            )
        )
        spans = self._spans(prompts.CLOZE_UNCONDITIONAL, texts)
        self.unconditional = {
            text: float(value)
            for text, value in zip(texts, engine.log_probabilities(spans), strict=True)
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

    def run(self, engine: "Engine", requests: list[Span]) -> list[tuple[float, int]]:
        """Log-probability of each span, and its number of tokens."""
        values = engine.log_probabilities(requests)
        return [(float(v), len(span)) for v, span in zip(values, requests, strict=True)]

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


def _encoded_prompts(tokenizer, item: Mapping, orders: Sequence[str]) -> list[tuple[int, ...]]:
    return [
        tuple(models.encode_chat(tokenizer, prompts.multiple_choice(item, order)))
        for order in orders
    ]


# ------------------------------------------------------------------ the engine


class Engine:
    """Runs token sequences through a model, sharing prefixes, in batches of limited size.

    Parameters
    ----------
    model : a causal language model in evaluation mode.
    tokens_per_batch : tokens of a forward pass; None for what suits the model's device. It
        halves whenever the device runs out of memory.
    """

    def __init__(self, model: torch.nn.Module, tokens_per_batch: int | None = None):
        self.model = model
        self.budget = tokens_per_batch or TOKENS_PER_BATCH.get(
            model.device.type, TOKENS_PER_BATCH["cuda"]
        )

    def batches(self, blocks: Iterable[tuple]) -> Iterator[list[tuple]]:
        """Consecutive blocks, ``(…, requests)``, whose trees fit the budget together."""
        batch: list[tuple] = []
        total = 0
        for block in blocks:
            size = len(prefix_tree.build(_contexts(block[-1])))
            if batch and total + size > self.budget:
                yield batch
                batch, total = [], 0
            batch.append(block)
            total += size
        if batch:
            yield batch

    def log_probabilities(self, spans: Sequence[Span]) -> np.ndarray:
        """Natural log-probability of each span's scored tokens, float64 (n,).

        Raises
        ------
        InputError
            If a value is not finite, or one span alone does not fit into memory.
        """
        values = self._within_memory(self._tree_log_probabilities, spans)
        if not np.isfinite(values).all():
            raise InputError(
                f"{self.model.config.name_or_path}: a log-probability is not finite in "
                f"{self.model.dtype}; try dtype: bfloat16 or float32"
            )
        return np.array(values)

    def _within_memory(self, run: Callable[[Sequence], Sequence], requests: Sequence) -> list:
        """``run`` on all requests, or half by half where the budget or the memory is small."""
        if not requests:
            return []
        size = len(prefix_tree.build(_contexts(requests)))
        if size <= self.budget or len(requests) == 1:
            try:
                return list(run(requests))
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
                if len(requests) == 1:
                    raise InputError(
                        f"out of memory with a single sequence of {size} tokens"
                    ) from error
            # Outside of the except clause, which would keep the failed pass's tensors alive.
            if self.model.device.type == "cuda":
                torch.cuda.empty_cache()
            self.budget = max(min(self.budget, size) // 2, 1)
            logger.warning("out of memory: going on with %d tokens a batch", self.budget)
        half = (len(requests) + 1) // 2
        return self._within_memory(run, requests[:half]) + self._within_memory(run, requests[half:])

    def _tree_log_probabilities(self, spans: Sequence[Span]) -> np.ndarray:
        index = {context: i for i, context in enumerate(_contexts(spans))}
        tree = prefix_tree.build(index)
        paths = [tree.paths[index[span.context]] for span in spans]
        nodes = np.concatenate(
            [path[span.start - 1 :] for path, span in zip(paths, spans, strict=True)]
        )
        tokens = np.concatenate([span.tokens[span.start :] for span in spans])
        read, rows = np.unique(nodes, return_inverse=True)
        logits = prefix_tree.logits_at(self.model, tree, read)
        logp = _log_probabilities_of(logits, rows, tokens)
        starts = np.cumsum([0, *(len(span) for span in spans)])[:-1]
        return np.add.reduceat(logp, starts)


def _contexts(requests: Iterable[Span]) -> list[tuple[int, ...]]:
    """Distinct token sequences that must go through the model."""
    return list(dict.fromkeys(request.context for request in requests))


def _log_probabilities_of(logits: torch.Tensor, rows: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """log softmax(logits)[rows, tokens], (n,) in float64, computed in float32."""
    normalizers = torch.cat([part.float().logsumexp(-1) for part in logits.split(ROWS_AT_ONCE)])
    rows = torch.from_numpy(rows).to(logits.device)
    chosen = logits[rows, torch.from_numpy(tokens).to(logits.device)].float()
    return (chosen - normalizers[rows]).cpu().numpy().astype(float)


def _out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; torch has no class for it on a CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        text in str(error) for text in ("not enough memory", "out of memory")
    )
