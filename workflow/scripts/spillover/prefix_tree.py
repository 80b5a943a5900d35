"""Prefix trees of token sequences: each distinct prefix goes through a model once.

A causal model's state at a token depends on the tokens before it alone. Sequences that begin
alike can therefore share that beginning: as a tree whose nodes are tokens, flattened into one
row, in which a token attends to its ancestors (a mask) and stands at its depth (its position).
Several trees are packed into one row that way; they do not see each other.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from transformers import PreTrainedConfig


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

    def attention_mask(self, window: int | None = None) -> np.ndarray:
        """Boolean (n, n): whether the row's token attends to the column's: itself, ancestors.

        Parameters
        ----------
        window : length of a sliding window: only that many tokens back, itself among them.
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


def pack(trees: Sequence[PrefixTree]) -> PrefixTree:
    """One row of several trees, their paths one after another."""
    offsets = np.cumsum([0, *(len(tree) for tree in trees)])
    return PrefixTree(
        np.concatenate([tree.tokens for tree in trees]),
        np.concatenate(
            [
                np.where(tree.parents < 0, -1, tree.parents + offset)
                for tree, offset in zip(trees, offsets, strict=False)
            ]
        ),
        np.concatenate([tree.positions for tree in trees]),
        [
            path + offset
            for tree, offset in zip(trees, offsets, strict=False)
            for path in tree.paths
        ],
    )


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
    transformers take it; the others the one that all their layers use.
    """
    config = config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    windows = {kind: window if kind == "sliding_attention" else None for kind in kinds} or {
        "all": window
    }
    masks = {
        kind: torch.from_numpy(tree.attention_mask(width))[None, None].to(device)
        for kind, width in windows.items()
    }
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
