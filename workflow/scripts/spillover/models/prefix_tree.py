"""Prefix trees of token sequences: each distinct prefix goes through a model once.

A causal model's state at a token depends on the tokens before it alone. Sequences that begin
alike can therefore share that beginning: as a tree whose nodes are tokens, flattened into one
row, in which a token attends to its ancestors (a mask) and stands at its depth (its position).
Sequences that begin otherwise are trees of their own in that row; they do not see each other.
Where gradients are not needed, trees can instead stand in rows of a batch, behind the states of
a header that they all begin with: attention is then only paid for within a tree.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedConfig

# Rows are padded to a multiple of this. Matrix libraries prepare and keep a kernel for every
# shape they meet: with few shapes they are faster, and memory does not grow from batch to batch.
WIDTH_MULTIPLE = 8


@dataclass(frozen=True)
class PrefixTree:
    """A prefix tree, or a row of several.

    Attributes
    ----------
    tokens : int array (n,); each node's token, parents before children.
    parents : int array (n,); index of each node's parent, -1 at a root.
    positions : int array (n,); depth of each node, 0 at a root.
    paths : for each sequence, int array of its nodes from root to end.
    """

    tokens: np.ndarray
    parents: np.ndarray
    positions: np.ndarray
    paths: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.tokens)

    def attention_mask(self, window: int | None = None, chunk: int | None = None) -> np.ndarray:
        """Boolean (n, n): whether the row's token attends to the column's: itself, ancestors.

        Parameters
        ----------
        window : length of a sliding window: only that many tokens back, itself among them.
        chunk : length of the chunks that a sequence is divided into: only within one's own.
        """
        mask = np.zeros((len(self), len(self)), dtype=bool)
        by_depth = np.argsort(self.positions, kind="stable")
        starts = np.searchsorted(
            self.positions[by_depth], np.arange(self.positions.max(initial=-1) + 2)
        )
        for start, end in pairwise(starts):
            nodes = by_depth[start:end]
            if start > 0:
                mask[nodes] = mask[self.parents[nodes]]
            mask[nodes, nodes] = True
        if window is not None and window <= self.positions.max(initial=-1):
            mask &= self.positions[:, None] - self.positions[None, :] < window
        if chunk is not None:
            chunks = self.positions // chunk
            mask &= chunks[:, None] == chunks[None, :]
        return mask


def build(sequences: Iterable[Sequence[int]]) -> PrefixTree:
    """Prefix tree of token sequences; equal sequences share all their nodes."""
    children: dict[tuple[int, int], int] = {}
    tokens: list[int] = []
    parents: list[int] = []
    positions: list[int] = []
    paths = []
    for sequence in sequences:
        path = []
        parent = -1
        for depth, token in enumerate(sequence):
            node = children.setdefault((parent, token), len(tokens))
            if node == len(tokens):
                tokens.append(token)
                parents.append(parent)
                positions.append(depth)
            path.append(node)
            parent = node
        paths.append(np.array(path, dtype=np.int64))
    return PrefixTree(np.array(tokens), np.array(parents), np.array(positions), paths)


def batches(sizes: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices of consecutive trees whose sizes sum to at most ``budget`` tokens, at least one."""
    batch: list[int] = []
    total = 0
    for index, size in enumerate(sizes):
        if batch and total + size > budget:
            yield batch
            batch, total = [], 0
        batch.append(index)
        total += size
    if batch:
        yield batch


def model_inputs(config: PreTrainedConfig, tree: PrefixTree, device: torch.device) -> dict:
    """Arguments of a forward pass of a causal model over a tree, as one row.

    Models whose layers differ in their attention get a mask for each kind, as those of
    transformers take it; the others the one that all their layers use. SDPA takes a boolean
    mask; transformers' own attention adds it to its scores.
    """
    eager = config._attn_implementation == "eager"
    config = config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    reach = {kind: {} for kind in kinds} or {"all": {"window": window}}
    if "sliding_attention" in kinds:
        reach["sliding_attention"] = {"window": window}
    if "chunked_attention" in kinds:
        reach["chunked_attention"] = {"chunk": config.attention_chunk_size}
    masks = {
        kind: torch.from_numpy(tree.attention_mask(**limits))[None, None].to(device)
        for kind, limits in reach.items()
    }
    if eager:
        masks = {kind: additive(mask, config.dtype) for kind, mask in masks.items()}
    return {
        "input_ids": torch.from_numpy(tree.tokens)[None].to(device),
        "position_ids": torch.from_numpy(tree.positions)[None].to(device),
        "attention_mask": masks if len(masks) > 1 else next(iter(masks.values())),
    }


def logits_at(model: torch.nn.Module, tree: PrefixTree, nodes: np.ndarray) -> torch.Tensor:
    """Next-token logits (len(nodes), vocabulary) of a causal model after the given nodes.

    One forward pass over the tree. The vocabulary's logits, which can outweigh the rest of
    a small model, are computed at ``nodes`` only. Gradients flow if they are enabled.
    """
    output = model(
        **model_inputs(model.config, tree, model.device),
        logits_to_keep=torch.from_numpy(np.asarray(nodes)).to(model.device),
        use_cache=False,
    )
    return output.logits[0]


# ------------------------------------------------------------------ rows of trees, no gradients


@dataclass(frozen=True)
class Header:
    """Tokens that all sequences begin with, and what attention keeps of them.

    Attributes
    ----------
    tokens : the common beginning.
    states : for each layer, its keys and values, (1, heads, len(tokens), head size).
    """

    tokens: tuple[int, ...]
    states: list[tuple[torch.Tensor, torch.Tensor]]

    def __len__(self) -> int:
        return len(self.tokens)


def common_prefix(sequences: Iterable[Sequence[int]], limit: int) -> tuple[int, ...]:
    """Longest beginning, of at most ``limit`` tokens, that all sequences share."""
    common = None
    for sequence in sequences:
        if common is None:
            common = tuple(sequence[:limit])
        elif tuple(sequence[: len(common)]) != common:
            pairs = enumerate(zip(common, sequence, strict=False))
            end = min(len(common), len(sequence))
            common = common[: next((i for i, (a, b) in pairs if a != b), end)]
    return common or ()


def read_header(model: torch.nn.Module, tokens: Sequence[int]) -> Header | None:
    """The states of a header, computed once for any number of rows; None for no tokens."""
    if not tokens:
        return None
    cache = DynamicCache()
    model(
        input_ids=torch.tensor([list(tokens)], device=model.device),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return Header(tuple(tokens), [(layer.keys, layer.values) for layer in cache.layers])


def padded(length: int) -> int:
    """Width of a batch whose longest row has ``length`` tokens."""
    return -(-length // WIDTH_MULTIPLE) * WIDTH_MULTIPLE


def cache_behind(header: Header | None, n_rows: int) -> DynamicCache:
    """A cache for the rows of a batch that holds the header's states; empty without a header."""
    states = header.states if header else []
    expand = (n_rows, -1, -1, -1)
    return DynamicCache([(k.expand(expand), v.expand(expand)) for k, v in states])


def additive(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The mask that attention adds to its scores, from the boolean one of what is allowed.

    It is made once a pass; attention would convert a boolean one in each layer.
    """
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)


def inputs_of_rows(
    model: torch.nn.Module,
    trees: Sequence[PrefixTree],
    nodes: Sequence[np.ndarray],
    header: Header | None = None,
) -> dict[str, torch.Tensor]:
    """Arguments of a pass over a batch of trees: what is read stands last in every row.

    Parameters
    ----------
    trees : one a row, of what follows the header; shorter rows are padded.
    nodes : for each tree, the distinct nodes to read.

    Returns
    -------
    ``input_ids`` and ``position_ids`` (rows, width) and an additive ``attention_mask``
    (rows, 1, width, header + width).
    """
    behind = len(header) if header else 0
    shape = (len(trees), padded(max(map(len, trees))))
    tokens = np.zeros(shape, dtype=np.int64)
    positions = np.zeros(shape, dtype=np.int64)
    mask = np.zeros((shape[0], 1, shape[1], behind + shape[1]), dtype=bool)
    # Padding sees itself: a row of nothing has no softmax.
    mask[..., behind:] = np.eye(shape[1], dtype=bool)
    for row, (tree, read) in enumerate(zip(trees, nodes, strict=True)):
        others = np.ones(len(tree), dtype=bool)
        others[read] = False
        order = np.concatenate([np.flatnonzero(others), read])
        start = shape[1] - len(tree)
        tokens[row, start:] = tree.tokens[order]
        positions[row, start:] = tree.positions[order] + behind
        mask[row, 0, start:, :behind] = True
        mask[row, 0, start:, behind + start :] = tree.attention_mask()[np.ix_(order, order)]
    device = model.device
    return {
        "input_ids": torch.from_numpy(tokens).to(device),
        "position_ids": torch.from_numpy(positions).to(device),
        "attention_mask": additive(torch.from_numpy(mask).to(device), model.dtype),
    }


def logits_of_rows(
    model: torch.nn.Module,
    trees: Sequence[PrefixTree],
    nodes: Sequence[np.ndarray],
    header: Header | None = None,
) -> list[torch.Tensor]:
    """Next-token logits (len(nodes[i]), vocabulary) of each tree, in one pass over a batch.

    Parameters
    ----------
    trees, nodes : see :func:`inputs_of_rows`; the logits read are cut out as one slice.
    """
    output = model(
        **inputs_of_rows(model, trees, nodes, header),
        past_key_values=cache_behind(header, len(trees)) if header else None,
        use_cache=header is not None,
        logits_to_keep=max(map(len, nodes)),
    )
    return [logits[-len(read) :] for logits, read in zip(output.logits, nodes, strict=True)]


def logits_of_sequences(
    model: torch.nn.Module, sequences: Sequence[Sequence[int]], places: Sequence[np.ndarray]
) -> list[torch.Tensor]:
    """Next-token logits (len(places[i]), vocabulary) of each sequence, without sharing.

    One pass over a right-padded batch. It needs no mask, since no token of a causal model
    sees the padding behind it: attention takes its fastest way.
    """
    shape = (len(sequences), padded(max(map(len, sequences))))
    tokens = np.zeros(shape, dtype=np.int64)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = sequence
    keep = np.unique(np.concatenate(places))
    logits = model(
        input_ids=torch.from_numpy(tokens).to(model.device),
        logits_to_keep=torch.from_numpy(keep).to(model.device),
        use_cache=False,
    ).logits
    if logits.shape[1] != len(keep):  # an architecture that does not know logits_to_keep
        logits = logits[:, keep]
    return [row[np.searchsorted(keep, read)] for row, read in zip(logits, places, strict=True)]
