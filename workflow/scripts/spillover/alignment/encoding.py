"""Preference pairs as token ids, rendered as evaluation renders them."""

import hashlib
from collections.abc import Mapping, Sequence

import pandas as pd

from spillover.core.errors import InputError
from spillover.models.tokens import encode_replies


def encode(pairs: pd.DataFrame, tokenizer, max_length: int) -> list[dict]:
    """Token ids of pairs, as evaluation renders them.

    Returns
    -------
    For each pair ``item_id, prompt_ids, chosen_ids, rejected_ids``.

    Raises
    ------
    InputError
        If a pair is longer than ``max_length``, which TRL would cut or leave out, or the chat
        template cannot be used.
    """
    rows = []
    for pair in pairs.to_dict("records"):
        texts = [pair[side][0]["content"] for side in ("chosen", "rejected")]
        prompt, (chosen, rejected) = encode_replies(tokenizer, list(pair["prompt"]), texts)
        n_tokens = len(prompt) + max(len(chosen), len(rejected))
        if n_tokens > max_length:
            raise InputError(
                f"training.max_length: {pair['item_id']} with its answer takes {n_tokens} "
                f"tokens, more than {max_length}; nothing is cut or left out"
            )
        rows.append(
            {
                "item_id": pair["item_id"],
                "prompt_ids": prompt,
                "chosen_ids": chosen,
                "rejected_ids": rejected,
            }
        )
    return rows


def hash_rows(rows: Sequence[Mapping]) -> str:
    return hashlib.sha256(repr(rows).encode()).hexdigest()
