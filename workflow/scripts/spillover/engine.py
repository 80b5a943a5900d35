"""The engine of scoring: token sequences through a model, sharing prefixes, within memory.

What is asked of a model are spans: sequences of which the end is scored given the beginning.
The spans of a block make one prefix tree, trees of similar size make the rows of a batch, and
what all of them begin with goes through the model once for many batches. Architectures that
do not take such trees get plain padded batches, whose results are the same.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from spillover import prefix_tree
from spillover.errors import InputError
from spillover.prefix_tree import Header, PrefixTree

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
class Row:
    """Spans that go through the model together, as one row of a batch.

    Attributes
    ----------
    spans : the spans, and for each its number among those asked for.
    behind : how many of their first tokens are the header's, and not in the tree.
    tree : prefix tree of the spans' contexts.
    paths : each context's path in it.
    """

    spans: Sequence[tuple[int, Span]]
    behind: int
    tree: PrefixTree
    paths: dict[tuple[int, ...], np.ndarray]

    @classmethod
    def of(cls, spans: Sequence[tuple[int, Span]], behind: int = 0) -> "Row":
        contexts = list(dict.fromkeys(span.context for _, span in spans))
        tree = prefix_tree.build(context[behind:] for context in contexts)
        return cls(spans, behind, tree, dict(zip(contexts, tree.paths, strict=True)))

    def __len__(self) -> int:
        return len(self.tree)

    def halves(self) -> list["Row"]:
        """Two rows of half the spans each, or none if there is one span only."""
        middle = len(self.spans) // 2
        parts = [self.spans[:middle], self.spans[middle:]] if middle else []
        return [Row.of(part, self.behind) for part in parts]

    def reads(self) -> tuple[np.ndarray, np.ndarray]:
        """For each scored token, span after span: the node before it, and the token."""
        nodes = [self.paths[s.context][s.start - 1 - self.behind :] for _, s in self.spans]
        tokens = [s.tokens[s.start :] for _, s in self.spans]
        return np.concatenate(nodes), np.concatenate(tokens)


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
        self.window = attention_window(model)
        self.takes_trees = takes_trees(model)
        self._told = False

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
            If a value is not finite, or one span alone does not fit into memory.
        """
        numbered = list(enumerate(span for block in blocks for span in block))
        if not numbered:
            return [np.zeros(0) for _ in blocks]
        values = np.full(len(numbered), np.nan)
        ends = np.cumsum([len(block) for block in blocks])
        by_block = [
            numbered[end - len(block) : end] for block, end in zip(blocks, ends, strict=True)
        ]
        header = None
        rows = []
        share = self.takes_trees and self._within_window(numbered)
        if share:
            header = self._header([span for _, span in numbered])
            for spans in by_block:
                rows += self._fitting(Row.of(spans, len(header) if header else 0))
        else:
            for spans in by_block:
                rows += _one_context_each(spans)

        def run(batch: list[Row]) -> list[np.ndarray]:
            return self._forward(batch, share, header)

        for row, found in self._in_batches(run, rows, _width):
            values[[number for number, _ in row.spans]] = found
        if not np.isfinite(values).all():
            raise InputError(
                f"{self.model.config.name_or_path}: a log-probability is not finite in "
                f"{self.model.dtype}; try dtype: bfloat16 or float32"
            )
        return np.split(values, ends[:-1])

    def _within_window(self, spans: Sequence[tuple[int, Span]]) -> bool:
        depth = max((len(span.context) for _, span in spans), default=0)
        if self.window is None or depth <= self.window:
            return True
        if not self._told:
            logger.info(
                "no prefix sharing: sequences of up to %d tokens, and attention reaches back %d",
                depth,
                self.window,
            )
        self._told = True
        return False

    def _header(self, spans: Sequence[Span]) -> Header | None:
        # Each span's first reading must lie behind the header, inside of the tree.
        limit = min((span.start - 1 for span in spans), default=0)
        common = prefix_tree.common_prefix((span.context for span in spans), limit)
        return prefix_tree.read_header(self.model, common) if common else None

    def _fitting(self, row: Row) -> list[Row]:
        """The row, or its parts that do not exceed the budget unless they are one span."""
        halves = row.halves() if len(row) > self.budget else []
        return [part for half in halves for part in self._fitting(half)] if halves else [row]

    def _forward(self, rows: list[Row], share: bool, header: Header | None) -> list[np.ndarray]:
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
        lengths = [len(span) for row in rows for _, span in row.spans]
        sums = np.add.reduceat(scored.cpu().numpy().astype(float), _starts(lengths))
        return np.split(sums, _starts([len(row.spans) for row in rows])[1:])

    # -------------------------------------------------------------- generation

    def generate(
        self, sequences: Sequence[Sequence[int]], max_new_tokens: int, stop: Sequence[int]
    ) -> list[list[int]]:
        """Greedy continuation of each sequence, without the stop token.

        Whatever sampling or penalties a model's folder suggests, none is applied.
        """
        found: list[list[int]] = [[] for _ in sequences]

        def run(batch: list[int]) -> list[list[int]]:
            return self._generate([sequences[i] for i in batch], max_new_tokens, stop)

        def size(i: int) -> int:
            return len(sequences[i]) + max_new_tokens

        for i, tokens in self._in_batches(run, range(len(sequences)), size):
            found[i] = tokens
        return found

    def _generate(
        self, sequences: list[Sequence[int]], max_new_tokens: int, stop: Sequence[int]
    ) -> list[list[int]]:
        from transformers import GenerationConfig

        model = self.model
        width = max(map(len, sequences))
        tokens = np.full((len(sequences), width), stop[0], dtype=np.int64)
        mask = np.zeros_like(tokens)
        for row, sequence in enumerate(sequences):
            tokens[row, width - len(sequence) :] = sequence
            mask[row, width - len(sequence) :] = 1
        # generate() fills what its argument leaves open from the model's own settings.
        kept = model.generation_config
        settings = GenerationConfig(
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=list(stop),
            pad_token_id=stop[0],
        )
        try:
            model.generation_config = settings
            output = model.generate(
                input_ids=torch.from_numpy(tokens).to(model.device),
                attention_mask=torch.from_numpy(mask).to(model.device),
                generation_config=settings,
            )
        finally:
            model.generation_config = kept
        answers = output[:, width:].tolist()
        return [_until(answer, stop) for answer in answers]

    # -------------------------------------------------------------- batches

    def _in_batches(
        self, run: Callable[[list], list], rows: Iterable, size: Callable[[object], int]
    ) -> Iterator[tuple]:
        """Each row with its result; ``run`` gets rows of similar size, padded within the budget.

        The longest come first: a budget that is too large shows at once.
        """
        rows = sorted(rows, key=size, reverse=True)
        while rows:
            n = max(self.budget // size(rows[0]), 1)
            try:
                results = run(rows[:n])
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
                results = None
                reason = str(error).split("\n")[0]
            if results is None:
                # Outside of the except clause, which keeps the failed pass's tensors alive.
                self.budget = max(n * size(rows[0]) // 2, 1)
                if self.model.device.type == "cuda":
                    torch.cuda.empty_cache()
                logger.warning("out of memory: going on with %d tokens a batch", self.budget)
                results = self._smaller(run, rows[0], reason) if n == 1 else []
            yield from zip(rows, results, strict=False)
            rows = rows[len(results) :]

    def _smaller(self, run: Callable[[list], list], row: object, reason: str) -> list[np.ndarray]:
        """Result of a row that is too large for memory, part by part."""
        halves = row.halves() if isinstance(row, Row) else []
        if not halves:
            raise InputError(f"out of memory with a single sequence: {reason}")
        parts = [found for half in halves for _, found in self._in_batches(run, [half], _width)]
        return [np.concatenate(parts)]


def attention_window(model: torch.nn.Module) -> int | None:
    """How many tokens attention reaches back in its narrowest layer; None for all."""
    config = model.config.get_text_config()
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    if not getattr(config, "use_sliding_window", True):
        windows[0] = None
    return min((window for window in windows if window), default=None)


def takes_trees(model: torch.nn.Module) -> bool:
    """Whether a model computes the same on a tree as on its sequences: tried, not looked up."""
    size = model.config.get_text_config().vocab_size
    # The long branch comes first: were it seen by the short one, or were positions counted
    # along the row, the short one's logits would change.
    header, *branches = (
        [(first + 7 * i) % size for i in range(length)]
        for first, length in ((3, 3), (4, 12), (5, 4))
    )
    tree = prefix_tree.build(branches)
    ends = np.array([path[-1] for path in tree.paths])
    try:
        with torch.inference_mode():
            states = prefix_tree.read_header(model, header)
            shared = prefix_tree.logits_of_rows(model, [tree], [ends], states)[0]
            sequences = [header + branch for branch in branches]
            last = [np.array([len(sequence) - 1]) for sequence in sequences]
            plain = torch.cat(prefix_tree.logits_of_sequences(model, sequences, last))
    except Exception as error:  # whatever an architecture does with what it does not know
        logger.info("no prefix sharing: %s: %s", type(error).__name__, error)
        return False
    shared, plain = shared.float().log_softmax(-1), plain.float().log_softmax(-1)
    difference = (shared - plain).abs().max().item()
    spread = (plain[0] - plain[1]).abs().max().item()
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.1
    if not difference <= tolerance * spread:
        logger.info(
            "no prefix sharing: on a trial tree, log-probabilities are off by %.2g", difference
        )
        return False
    return True


def _one_context_each(spans: Sequence[tuple[int, Span]]) -> list[Row]:
    """A row for each distinct context, for a pass without sharing."""
    by_context: dict[tuple[int, ...], list[tuple[int, Span]]] = {}
    for number, span in spans:
        by_context.setdefault(span.context, []).append((number, span))
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


def _until(tokens: list[int], stop: Sequence[int]) -> list[int]:
    end = next((i for i, token in enumerate(tokens) if token in stop), len(tokens))
    return tokens[:end]


def _out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; torch has no class for it on a CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        text in str(error) for text in ("not enough memory", "can't allocate memory")
    )
