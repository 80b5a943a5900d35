"""Conversations as token ids: the chat template, the letters behind it, where a turn ends."""

from collections.abc import Mapping, Sequence

import torch

from spillover.core.errors import InputError
from spillover.data.prompts import LETTERS

# Some chat templates print today's date into the prompt unless told one: the same study must
# ask the same question tomorrow.
TEMPLATE_SETTINGS = {"date_string": "26 Jul 2024"}


def encode_chat(
    tokenizer,
    messages: Sequence[Mapping[str, str]],
    answer: str | None = None,
    end_of_turn: bool = True,
) -> list[int]:
    """Token ids of a conversation, up to where the assistant speaks or with its answer.

    ``end_of_turn`` False leaves out what the template writes behind the answer.
    """
    if answer is not None:
        messages = [*messages, {"role": "assistant", "content": answer}]
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=answer is None, **TEMPLATE_SETTINGS
    )
    if answer is not None and not end_of_turn:
        text = text[: text.rindex(answer) + len(answer)]
    return tokenizer.encode(text, add_special_tokens=False)


def encode_replies(
    tokenizer,
    messages: Sequence[Mapping[str, str]],
    texts: Sequence[str],
    end_of_turn: bool = True,
) -> tuple[list[int], list[list[int]]]:
    """Token ids of a conversation, and of each of several replies that the assistant may give.

    Preference pairs and evaluation both come through here, so that what is trained and what is
    scored are the same tokens.

    Parameters
    ----------
    end_of_turn : whether what the template writes behind a reply, the end of the turn first,
        is part of it.

    Raises
    ------
    InputError
        If the prompt does not go on unchanged in front of a reply, or a reply's last token
        holds something of what the template writes behind it and is asked for without.
    """
    prompt = encode_chat(tokenizer, messages)
    replies = []
    for text in texts:
        whole = encode_chat(tokenizer, messages, text)
        if whole[: len(prompt)] != prompt:
            raise InputError(
                f"{tokenizer.name_or_path}: its chat template renders a prompt otherwise once "
                f"an answer follows (answer: {text!r})"
            )
        if not end_of_turn:
            spoken = encode_chat(tokenizer, messages, text, end_of_turn=False)
            if len(spoken) <= len(prompt) or whole[: len(spoken)] != spoken:
                raise InputError(
                    f"end_of_turn: {tokenizer.name_or_path} joins the end of the answer "
                    f"{text!r} with what follows it; set end_of_turn: true"
                )
            whole = spoken
        replies.append(whole[len(prompt) :])
    return prompt, replies


def stop_tokens(model: torch.nn.Module, tokenizer) -> list[int]:
    """Tokens that end a response: those of the model's folder, and the tokenizer's."""
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    return [end for end in dict.fromkeys([tokenizer.eos_token_id, *ends]) if end is not None]


def letter_tokens(tokenizer) -> list[int]:
    """Token ids with which an assistant's answers A, B and C begin, behind the chat template.

    They are taken from whole conversations, since some tokenizers join a letter with the
    space or the header before it.

    Raises
    ------
    InputError
        If an answer's letter is not one token of its own.
    """
    question = [{"role": "user", "content": "?"}]
    prompt = encode_chat(tokenizer, question)
    tokens = []
    for letter in LETTERS:
        whole = encode_chat(tokenizer, question, letter)
        answer = whole[len(prompt) :]
        # One of its own: the prompt goes on unchanged, and the token spells just the letter.
        single = whole[: len(prompt)] == prompt and tokenizer.decode(answer[:1]).strip() == letter
        if not single:
            pieces = tokenizer.convert_ids_to_tokens(answer)
            raise InputError(
                f"{tokenizer.name_or_path}: the answer {letter} must be one token behind the "
                f"chat template's prompt, found {pieces[:4]}; letters cannot be scored"
            )
        tokens.append(answer[0])
    return tokens
