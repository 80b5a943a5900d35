"""Greedy text behind token sequences, with their common prefixes shared or not.

Whatever sampling or penalties a model's folder suggests, none is applied.
"""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import GenerationConfig

from spillover.models import prefix_tree
from spillover.models.prefix_tree import Header, PrefixTree


def behind_trees(
    model: torch.nn.Module,
    trees: Sequence[PrefixTree],
    ends: Sequence[np.ndarray],
    header: Header | None,
    max_new_tokens: int,
    stop: Sequence[int],
) -> list[list[list[int]]]:
    """Greedy continuation, without the stop token, of sequences that share their prefixes.

    The trees go through the model once, as rows of a batch. Each step then gives every row a
    node more for each sequence that goes on. It stands one deeper than the sequence's last one
    and attends to what that one attended to, and to itself.

    Parameters
    ----------
    trees : one a row, of what follows the header.
    ends : for each tree, the distinct nodes with which its sequences end.

    Returns
    -------
    For each tree, for each of its ends, the new tokens.
    """
    device = model.device
    counts = [len(nodes) for nodes in ends]
    width = max(counts)
    # A row's ends stand last. If it has fewer than another, other nodes stand before them,
    # which are not continued.
    going = torch.arange(width) >= width - torch.tensor(counts)[:, None]
    going = going.to(device)
    places = torch.arange(width, device=device).expand(len(trees), width)
    answers = torch.full((len(trees), width, max_new_tokens), stop[0], device=device)
    stops = torch.tensor(stop, device=device)
    cache = prefix_tree.cache_behind(header, len(trees))
    inputs = prefix_tree.inputs_of_rows(model, trees, ends, header)
    logits = _logits(model, inputs, cache, width)
    positions = inputs["position_ids"][:, -width:]
    mask = inputs["attention_mask"][:, :, -width:]
    for step in range(max_new_tokens):
        tokens = logits.argmax(-1)
        answers[:, :, step].scatter_(1, places, tokens)
        going = going & ~torch.isin(tokens, stops)
        # As many as the row with most has; the only time in a step that the device is waited for.
        n_going = int(going.sum(1).max())
        if n_going == 0 or step == max_new_tokens - 1:
            break
        first = going.int().argsort(dim=1, descending=True, stable=True)[:, :n_going]
        tokens, places, positions, going = (
            values.gather(1, first) for values in (tokens, places, positions + 1, going)
        )
        itself = prefix_tree.additive(
            torch.eye(n_going, dtype=torch.bool, device=device), model.dtype
        )
        seen = mask.gather(2, first[:, None, :, None].expand(-1, -1, -1, mask.shape[-1]))
        mask = torch.cat([seen, itself.expand(len(trees), 1, -1, -1)], dim=-1)
        inputs = {"input_ids": tokens, "position_ids": positions, "attention_mask": mask}
        logits = _logits(model, inputs, cache, n_going)
    return [
        [_until(answer, stop) for answer in row[width - count :]]
        for row, count in zip(answers.tolist(), counts, strict=True)
    ]


def _logits(model: torch.nn.Module, inputs: dict, cache, n_last: int) -> torch.Tensor:
    """Next-token logits (rows, n_last, vocabulary); the cache grows by the inputs."""
    return model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=n_last).logits


def behind_sequences(
    model: torch.nn.Module,
    sequences: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop: Sequence[int],
) -> list[list[int]]:
    """Greedy continuation of each sequence, without the stop token and without sharing.

    Sequences of one length go through the model together: not every architecture with a
    recurrent state, or a window, is indifferent to padding before a sequence.
    """
    of_length: dict[int, list[int]] = {}
    for number, sequence in enumerate(sequences):
        of_length.setdefault(len(sequence), []).append(number)
    answers: list[list[int]] = [[] for _ in sequences]
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
        for length, numbers in of_length.items():
            ids = torch.tensor(np.array([sequences[number] for number in numbers]))
            output = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=torch.ones_like(ids).to(model.device),
                generation_config=settings,
            )
            for number, answer in zip(numbers, output[:, length:].tolist(), strict=True):
                answers[number] = _until(answer, stop)
    finally:
        model.generation_config = kept
    return answers


def _until(tokens: list[int], stop: Sequence[int]) -> list[int]:
    end = next((i for i, token in enumerate(tokens) if token in stop), len(tokens))
    return tokens[:end]
