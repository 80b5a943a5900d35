"""Conversations and texts as token ids, and where what a model says begins and ends."""

from collections.abc import Iterable, Sequence

import torch

from spillover.core.errors import InputError
from spillover.data.prompts import LETTERS
from spillover.models.chat import QUESTION, Messages, around_answer, opening, thinks
from spillover.models.prefix_tree import common_prefix


def encode_chat(tokenizer, messages: Messages) -> list[int]:
    """Token ids of a conversation, up to where the assistant's answer begins."""
    before, behind = around_answer(tokenizer, messages)
    # With an answer behind it, for a space that a tokenizer joins with what follows.
    return _shared([_encode(tokenizer, before), _encode(tokenizer, f"{before}A{behind}")])


def encode_opening(tokenizer, messages: Messages) -> list[int]:
    """Token ids of a conversation, up to where the model goes on.

    That is where its answer begins or, if the user's arguments for the template let it think,
    what the template writes for it to do so.
    """
    if thinks(tokenizer):
        return _encode(tokenizer, opening(tokenizer, messages))
    return encode_chat(tokenizer, messages)


def encode_replies(
    tokenizer, messages: Messages, texts: Sequence[str], end_of_turn: bool = True
) -> tuple[list[int], list[list[int]]]:
    """Token ids of a conversation, and of each of several replies that the assistant may give.

    Preference pairs and evaluation both come through here, so that what is trained and what is
    scored are the same tokens. Where the tokenizer joins the end of the prompt with the
    beginning of a reply, all replies begin with the joined token.

    Parameters
    ----------
    end_of_turn : whether what the template writes behind a reply, the end of the turn first,
        is part of it.

    Raises
    ------
    InputError
        If the template cannot be used (:func:`spillover.models.chat.around_answer`), or a
        reply's last token holds something of what the template writes behind it and is asked
        for without.
    """
    before, behind = around_answer(tokenizer, messages, texts)
    replies = [_encode(tokenizer, before + text + behind) for text in texts]
    if not end_of_turn:
        spoken = [_encode(tokenizer, before + text) for text in texts]
        for text, whole, part in zip(texts, replies, spoken, strict=True):
            if whole[: len(part)] != part:
                raise InputError(
                    f"end_of_turn: {tokenizer.name_or_path} joins the end of the answer "
                    f"{text!r} with what follows it; set end_of_turn: true"
                )
        replies = spoken
    prompt = _shared([_encode(tokenizer, before), *replies])
    return prompt, [reply[len(prompt) :] for reply in replies]


def encode_continuations(
    tokenizer, prompt: str, texts: Sequence[str]
) -> tuple[list[int], list[list[int]]]:
    """Token ids of a plain text, and of each of several texts that may continue it.

    The tokens that a tokenizer puts before a text are the prompt's; those that it puts behind
    one are left out. Where it joins the end of the prompt with the beginning of a text, all
    texts begin with the joined token.

    Raises
    ------
    InputError
        If no token is left before the texts.
    """
    alone = _encode(tokenizer, prompt)
    whole = tokenizer.encode(prompt)
    at = (i for i in range(len(whole)) if whole[i : i + len(alone)] == alone)
    first = whole[: next(at)]
    wholes = [first + _encode(tokenizer, prompt + text) for text in texts]
    shared = _shared([first + alone, *wholes])
    if not shared:
        raise InputError(
            f"{tokenizer.name_or_path}: joins {prompt!r} with what follows into one token, and "
            "puts none before it; set evaluation.cloze.prompt: chat"
        )
    return shared, [whole[len(shared) :] for whole in wholes]


def encode_texts(tokenizer, texts: Sequence[str]) -> tuple[list[int], list[list[int]]]:
    """Token ids of what stands before a text, and of each of several texts by themselves.

    Every token of a text is read, the first one behind the token that begins a text or, where a
    tokenizer has none, that ends one: as lm-eval does.

    Raises
    ------
    InputError
        If the tokenizer has neither.
    """
    first = tokenizer.bos_token_id
    first = tokenizer.eos_token_id if first is None else first
    if first is None:
        raise InputError(
            f"{tokenizer.name_or_path}: expected bos_token or eos_token in tokenizer_config.json, "
            "to score texts behind"
        )
    return [first], [_encode(tokenizer, text) for text in texts]


def _encode(tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def _shared(sequences: Sequence[list[int]]) -> list[int]:
    """What a prompt and all that may follow it begin with, if it leaves something of these."""
    prompt, *wholes = sequences
    return list(common_prefix(sequences, min(len(prompt), *(len(s) - 1 for s in wholes))))


def check_end_of_turn(tokenizer) -> None:
    """Refuse a template that does not end the assistant's turn, where the end is scored.

    Raises
    ------
    InputError
        If there is nothing behind an answer.
    """
    if not around_answer(tokenizer, QUESTION)[1]:
        raise InputError(
            f"{tokenizer.name_or_path}: its chat template writes nothing behind an answer, so "
            "that no end can be scored; set evaluation.cloze.end_of_turn: false"
        )


def stop_tokens(model: torch.nn.Module, tokenizer) -> list[int]:
    """Tokens that end a response: those of the model's folder, and the tokenizer's.

    Raises
    ------
    InputError
        As :func:`ends_of_response`.
    """
    size = model.get_input_embeddings().weight.shape[0]
    return ends_of_response(tokenizer, model.generation_config.eos_token_id, size)


def ends_of_response(tokenizer, ends: int | Iterable[int] | None, size: int) -> list[int]:
    """Tokens that end a response; the end of the template's turn if none is named.

    Parameters
    ----------
    ends : those of the model's generation config.
    size : of the model's vocabulary; tokens outside of it are never said.

    Raises
    ------
    InputError
        If there is none.
    """
    ends = [ends] if isinstance(ends, int) else ends or []
    named = [
        end
        for end in dict.fromkeys([tokenizer.eos_token_id, *ends])
        if end is not None and end < size
    ]
    if named:
        return named
    turn = _encode(tokenizer, around_answer(tokenizer, QUESTION)[1])[:1]
    if turn and turn[0] in tokenizer.added_tokens_decoder and turn[0] < size:
        return turn
    raise InputError(
        f"{tokenizer.name_or_path}: nothing says which token ends a response; expected "
        "eos_token in tokenizer_config.json or eos_token_id in generation_config.json"
    )


def letter_tokens(tokenizer, letters: str = LETTERS) -> list[int]:
    """Token ids with which an assistant's answers A, B and C begin, behind the chat template.

    They are taken from whole conversations, since some tokenizers join a letter with the
    space or the header before it.

    Raises
    ------
    InputError
        If the template cannot be used, or an answer's letter is not one token of its own.
    """
    _, replies = encode_replies(tokenizer, QUESTION, letters)
    for letter, reply in zip(letters, replies, strict=True):
        if tokenizer.decode(reply[:1]).strip() != letter:
            pieces = tokenizer.convert_ids_to_tokens(reply)
            raise InputError(
                f"{tokenizer.name_or_path}: the answer {letter} must be one token behind the "
                f"chat template's prompt, found {pieces[:4]}; letters cannot be scored"
            )
    return [reply[0] for reply in replies]
