"""Preference pairs as token ids, rendered as evaluation renders them."""

import hashlib
from collections.abc import Mapping, Sequence

import pandas as pd

from spillover.core.errors import InputError
from spillover.models.tokens import encode_chat


def encode(pairs: pd.DataFrame, tokenizer, max_length: int) -> list[dict]:
    """Token ids of pairs, as evaluation renders them.

    Returns
    -------
    For each pair ``item_id, prompt_ids, chosen_ids, rejected_ids``.

    Raises
    ------
    InputError
        If a pair is longer than ``max_length``, which TRL would cut or leave out, or a prompt
        does not go on unchanged in front of its answer.
    """
    rows = []
    for pair in pairs.to_dict("records"):
        prompt = encode_chat(tokenizer, list(pair["prompt"]))
        row = {"item_id": pair["item_id"], "prompt_ids": prompt}
        for side in ("chosen", "rejected"):
            whole = encode_chat(tokenizer, list(pair["prompt"]), pair[side][0]["content"])
            if len(whole) > max_length:
                raise InputError(
                    f"training.max_length: {pair['item_id']} with its answer takes {len(whole)} "
                    f"tokens, more than {max_length}; nothing is cut or left out"
                )
            if whole[: len(prompt)] != prompt:
                raise InputError(
                    f"{tokenizer.name_or_path}: its chat template renders the prompt of "
                    f"{pair['item_id']} otherwise once an answer follows"
                )
            row[f"{side}_ids"] = whole[len(prompt) :]
        rows.append(row)
    return rows


def hash_rows(rows: Sequence[Mapping]) -> str:
    return hashlib.sha256(repr(rows).encode()).hexdigest()
