"""The engine of scoring: token sequences through a model, sharing prefixes, within memory.

What is asked of a model are spans, sequences of which the end is scored given the beginning,
or prompts, sequences to continue. Those of a block make one prefix tree, trees of similar size
make the rows of a batch, and what all of them begin with goes through the model once for many
batches. Architectures that do not take such trees get plain padded batches, whose results are
the same.
"""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from spillover.core.errors import InputError
from spillover.models import prefix_tree
from spillover.models.prefix_tree import Header, PrefixTree
from spillover.scoring import generation
from spillover.scoring.trials import Trials, out_of_memory

logger = logging.getLogger(__name__)

# Tokens a forward pass: enough to fill the machine and to spread the cost of reading, and with
# NF4 of unpacking, the weights. The CPU's was measured (docs/scaling.md).
TOKENS_PER_BATCH = {"cpu": 2560, "cuda": 4096}
# Rows are sorted by length within so many batches: enough for equal rows, and few enough to
# be done, and kept, well within a minute.
BATCHES_PER_CHUNK = 4
# Rows of logits turned to float32 at once: bounds memory for large vocabularies.
LOGITS_AT_ONCE = 256


@dataclass(frozen=True)
class Span:
    """A token sequence of which the tokens from ``start`` (at least 1) on are scored."""

    tokens: tuple[int, ...]
    start: int

    @property
    def context(self) -> tuple[int, ...]:
        """What must go through the model: all but the last token, behind which nothing is read."""
        return self.tokens[:-1]

    def __len__(self) -> int:
        """Number of scored tokens."""
        return len(self.tokens) - self.start


@dataclass(frozen=True)
class Prompt:
    """A token sequence to continue."""

    context: tuple[int, ...]


Request = Span | Prompt


@dataclass(frozen=True)
class Row:
    """Requests that go through the model together, as one row of a batch.

    Attributes
    ----------
    requests : spans or prompts, and for each its number among those asked for.
    behind : how many of their first tokens are the header's, and not in the tree.
    tree : prefix tree of the requests' contexts.
    paths : each context's path in it.
    """

    requests: Sequence[tuple[int, Request]]
    behind: int
    tree: PrefixTree
    paths: dict[tuple[int, ...], np.ndarray]

    @classmethod
    def of(cls, requests: Sequence[tuple[int, Request]], behind: int = 0) -> "Row":
        contexts = list(dict.fromkeys(request.context for _, request in requests))
        tree = prefix_tree.build(context[behind:] for context in contexts)
        return cls(requests, behind, tree, dict(zip(contexts, tree.paths, strict=True)))

    def __len__(self) -> int:
        return len(self.tree)

    def halves(self) -> list["Row"]:
        """Two rows of half the requests each, or none if there is one only."""
        middle = len(self.requests) // 2
        parts = [self.requests[:middle], self.requests[middle:]] if middle else []
        return [Row.of(part, self.behind) for part in parts]

    def reads(self) -> tuple[np.ndarray, np.ndarray]:
        """For each token that spans score, span after span: the node before it, and the token."""
        nodes = [self.paths[s.context][s.start - 1 - self.behind :] for _, s in self.requests]
        tokens = [s.tokens[s.start :] for _, s in self.requests]
        return np.concatenate(nodes), np.concatenate(tokens)

    def ends(self) -> np.ndarray:
        """The node with which each distinct context ends."""
        return np.array([path[-1] for path in self.paths.values()])


class Engine:
    """Runs token sequences through a model in batches of limited size.

    Parameters
    ----------
    model : a causal language model in evaluation mode.
    tokens_per_batch : tokens of a forward pass, padding included; None for what suits the
        model's device. It halves whenever memory runs out.
    """

    def __init__(self, model: torch.nn.Module, tokens_per_batch: int | None = None):
        self.model = model
        self.budget = tokens_per_batch or TOKENS_PER_BATCH.get(
            model.device.type, TOKENS_PER_BATCH["cuda"]
        )
        self.tokens_per_chunk = BATCHES_PER_CHUNK * self.budget
        self.trials = Trials(model)
        self.takes_trees = True  # as far as the trials go

    # -------------------------------------------------------------- log-probabilities

    def log_probabilities(self, blocks: Sequence[Sequence[Span]]) -> list[np.ndarray]:
        """Natural log-probability of each span's scored tokens given those before.

        Parameters
        ----------
        blocks : spans that share much of their beginning stand in one block.

        Returns
        -------
        For each block, float64 (n_spans,).

        Raises
        ------
        InputError
            If a value is not finite, one span alone does not fit into memory, or the model is
            not causal.
        """
        spans = [span for block in blocks for span in block]
        if not spans:
            return [np.zeros(0) for _ in blocks]
        share = self._shares(max(len(span.context) for span in spans))
        # Each span's first reading must lie behind the header, inside of the tree.
        limit = min(span.start for span in spans) - 1
        header = self._header(spans, limit) if share else None
        rows = self._rows(blocks, share, header, _width)

        def run(batch: list[Row]) -> list[list[float]]:
            return self._forward(batch, share, header)

        values = np.full(len(spans), np.nan)
        for row, found in self._in_batches(run, rows, _width):
            values[[number for number, _ in row.requests]] = found
        if not np.isfinite(values).all():
            raise InputError(
                f"{self.model.config.name_or_path}: a log-probability is not finite in "
                f"{self.model.dtype}; try dtype: bfloat16 or float32"
            )
        return np.split(values, np.cumsum([len(block) for block in blocks])[:-1])

    def _forward(self, rows: list[Row], share: bool, header: Header | None) -> list[list[float]]:
        nodes, tokens = zip(*(row.reads() for row in rows), strict=True)
        read, places = zip(*(np.unique(n, return_inverse=True) for n in nodes), strict=True)
        if share:
            trees = [row.tree for row in rows]
            logits = prefix_tree.logits_of_rows(self.model, trees, read, header)
        else:
            sequences = [row.tree.tokens for row in rows]
            logits = prefix_tree.logits_of_sequences(self.model, sequences, read)
        scored = torch.cat(
            [_log_probabilities(*row) for row in zip(logits, places, tokens, strict=True)]
        )
        lengths = [len(span) for row in rows for _, span in row.requests]
        sums = np.add.reduceat(scored.cpu().numpy().astype(float), _starts(lengths))
        parts = np.split(sums, _starts([len(row.requests) for row in rows])[1:])
        return [part.tolist() for part in parts]

    # -------------------------------------------------------------- generation

    def generate(
        self, blocks: Sequence[Sequence[Prompt]], max_new_tokens: int, stop: Sequence[int]
    ) -> list[list[list[int]]]:
        """Greedy continuation of each prompt, without the stop token.

        Parameters
        ----------
        blocks : prompts that share much of their beginning stand in one block.
        stop : the tokens that end a continuation.

        Returns
        -------
        For each block, for each prompt, at most ``max_new_tokens`` tokens.

        Raises
        ------
        InputError
            If one prompt alone does not fit into memory.
        """
        prompts = [prompt for block in blocks for prompt in block]
        if not prompts:
            return [[] for _ in blocks]
        lengths = [len(prompt.context) for prompt in prompts]
        share = self._shares(max(lengths) + max_new_tokens)
        # Each prompt's end must lie behind the header, inside of the tree.
        header = self._header(prompts, min(lengths) - 1) if share else None

        def size(row: Row) -> int:
            # Each sequence has its own new tokens, whose states are kept as the tree's are.
            return _width(row) + len(row.paths) * max_new_tokens

        def run(batch: list[Row]) -> list[list[list[int]]]:
            trees = [row.tree for row in batch]
            if share:
                answers = generation.behind_trees(
                    self.model, trees, [row.ends() for row in batch], header, max_new_tokens, stop
                )
            else:
                sequences = [tree.tokens for tree in trees]
                answers = [
                    [answer]
                    for answer in generation.behind_sequences(
                        self.model, sequences, max_new_tokens, stop
                    )
                ]
            by_context = [
                dict(zip(row.paths, of_row, strict=True))
                for row, of_row in zip(batch, answers, strict=True)
            ]
            return [
                [found[prompt.context] for _, prompt in row.requests]
                for row, found in zip(batch, by_context, strict=True)
            ]

        found: dict[int, list[int]] = {}
        for row, answers in self._in_batches(run, self._rows(blocks, share, header, size), size):
            numbers = [number for number, _ in row.requests]
            found |= zip(numbers, answers, strict=True)
        in_order = (found[number] for number in range(len(prompts)))
        return [[next(in_order) for _ in block] for block in blocks]

    # -------------------------------------------------------------- rows

    def _shares(self, depth: int) -> bool:
        """Whether sequences of up to ``depth`` tokens go through the model as trees."""
        return self.trials.share(depth) and self.takes_trees

    def _header(self, requests: Sequence[Request], limit: int) -> Header | None:
        common = prefix_tree.common_prefix((request.context for request in requests), limit)
        return prefix_tree.read_header(self.model, common)

    def _rows(
        self,
        blocks: Sequence[Sequence[Request]],
        share: bool,
        header: Header | None,
        size: Callable[[Row], int],
    ) -> list[Row]:
        """A row a block, or its parts that fit the budget; without sharing one a context."""
        numbers = itertools.count()
        rows = []
        for block in blocks:
            requests = [(next(numbers), request) for request in block]
            if not share:
                rows += _one_context_each(requests)
            elif requests:
                rows += self._fitting(Row.of(requests, len(header) if header else 0), size)
        return rows

    def _fitting(self, row: Row, size: Callable[[Row], int]) -> list[Row]:
        """The row, or its parts that do not exceed the budget unless they are one request."""
        halves = row.halves() if size(row) > self.budget else []
        return [part for half in halves for part in self._fitting(half, size)] if halves else [row]

    # -------------------------------------------------------------- batches

    def _in_batches(
        self, run: Callable[[list[Row]], list[list]], rows: list[Row], size: Callable[[Row], int]
    ) -> Iterator[tuple[Row, list]]:
        """Each row with its results, one a request; ``run`` gets rows of similar size, padded
        within the budget.

        The longest come first: a budget that is too large shows at once.
        """
        rows = sorted(rows, key=size, reverse=True)
        while rows:
            n = max(self.budget // size(rows[0]), 1)
            try:
                results = run(rows[:n])
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                results = None
                reason = str(error).split("\n")[0]
            if results is None:
                # Outside of the except clause, which keeps the failed pass's tensors alive.
                self.budget = max(n * size(rows[0]) // 2, 1)
                if self.model.device.type == "cuda":
                    torch.cuda.empty_cache()
                logger.warning("out of memory: going on with %d tokens a batch", self.budget)
                results = self._smaller(run, rows[0], size, reason) if n == 1 else []
            yield from zip(rows, results, strict=False)
            rows = rows[len(results) :]

    def _smaller(
        self, run: Callable[[list[Row]], list[list]], row: Row, size: Callable, reason: str
    ) -> list[list]:
        """Results of a row that is too large for memory, part by part."""
        halves = row.halves()
        if not halves:
            raise InputError(f"out of memory with a single sequence: {reason}")
        parts = [found for half in halves for _, found in self._in_batches(run, [half], size)]
        return [[value for part in parts for value in part]]


def _one_context_each(requests: Sequence[tuple[int, Request]]) -> list[Row]:
    """A row for each distinct context, for a pass without sharing."""
    by_context: dict[tuple[int, ...], list[tuple[int, Request]]] = {}
    for number, request in requests:
        by_context.setdefault(request.context, []).append((number, request))
    return [Row.of(same) for same in by_context.values()]


def _log_probabilities(logits: torch.Tensor, rows: np.ndarray, tokens: np.ndarray) -> torch.Tensor:
    """log softmax(logits)[rows, tokens], (n,), in float32."""
    normalizers = torch.cat([part.float().logsumexp(-1) for part in logits.split(LOGITS_AT_ONCE)])
    rows = torch.from_numpy(rows).to(logits.device)
    tokens = torch.from_numpy(tokens).to(logits.device)
    return logits[rows, tokens].float() - normalizers[rows]


def _width(row: Row) -> int:
    return prefix_tree.padded(len(row))


def _starts(lengths: Iterable[int]) -> np.ndarray:
    return np.cumsum([0, *lengths])[:-1]
