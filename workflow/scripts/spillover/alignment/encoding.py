"""Preference pairs, and examples beside them, as token ids, rendered as evaluation does."""

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
        _check_length(f"{pair['item_id']} with its answer", n_tokens, max_length)
        rows.append(
            {
                "item_id": pair["item_id"],
                "prompt_ids": prompt,
                "chosen_ids": chosen,
                "rejected_ids": rejected,
            }
        )
    return rows


def encode_anchor(anchor: pd.DataFrame, tokenizer, max_length: int) -> list[dict]:
    """Sequences on which the base's distributions are kept.

    Parameters
    ----------
    anchor : ``item_id, prompt, replies``: a conversation, and texts that the assistant may reply
        with; read where each token of a reply is predicted, the end of the turn among them. Or
        ``item_id, text``; read at every token.

    Returns
    -------
    For each row ``item_id`` and ``sequences``, as :class:`spillover.alignment.terms.Term` takes
    them.

    Raises
    ------
    InputError
        If a sequence is longer than ``max_length``, a text has no token, or the chat template
        cannot be used.
    """
    if "text" not in anchor:
        return [
            _replies(row["item_id"], row["prompt"], row["replies"], tokenizer, max_length)
            for row in anchor.to_dict("records")
        ]
    rows = []
    for row in anchor.to_dict("records"):
        tokens = tokenizer.encode(row["text"])
        _check_length(row["item_id"], len(tokens), max_length)
        if not tokens:
            raise InputError(f"objective.anchor.texts: {row['item_id']} has no token")
        sequence = {"context": tokens, "start": 0, "answer": []}
        rows.append({"item_id": row["item_id"], "sequences": [sequence]})
    return rows


def encode_replay(replay: pd.DataFrame, tokenizer, max_length: int) -> list[dict]:
    """Sequences whose answers are trained: ``item_id, prompt, response``, with its end of turn.

    Returns and raises as :func:`encode_anchor`.
    """
    return [
        _replies(row["item_id"], row["prompt"], [row["response"]], tokenizer, max_length)
        for row in replay.to_dict("records")
    ]


def _replies(name: str, messages, texts, tokenizer, max_length: int) -> dict:
    """A prompt with each of several replies, read from the prompt's last token on."""
    prompt, replies = encode_replies(tokenizer, list(messages), list(texts))
    _check_length(f"{name} with its answer", len(prompt) + max(map(len, replies)), max_length)
    sequences = [
        {"context": prompt + reply[:-1], "start": len(prompt) - 1, "answer": reply}
        for reply in replies
    ]
    return {"item_id": name, "sequences": sequences}


def _check_length(what: str, n_tokens: int, max_length: int) -> None:
    if n_tokens > max_length:
        raise InputError(
            f"training.max_length: {what} takes {n_tokens} tokens, more than {max_length}; "
            "nothing is cut or left out"
        )


def hash_rows(rows: Sequence[Mapping]) -> str:
    return hashlib.sha256(repr(rows).encode()).hexdigest()
