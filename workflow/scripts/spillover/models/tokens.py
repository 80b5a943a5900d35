"""Conversations as token ids: the chat template, the letters behind it, where a turn ends."""

from collections.abc import Mapping, Sequence

import torch

from spillover.core.errors import InputError
from spillover.data.prompts import LETTERS

# Some chat templates print today's date into the prompt unless told one: the same study must
# ask the same question tomorrow.
TEMPLATE_SETTINGS = {"date_string": "26 Jul 2024"}


def encode_chat(
    tokenizer, messages: Sequence[Mapping[str, str]], answer: str | None = None
) -> list[int]:
    """Token ids of a conversation, up to where the assistant speaks or with its answer."""
    if answer is not None:
        messages = [*messages, {"role": "assistant", "content": answer}]
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=answer is None, **TEMPLATE_SETTINGS
    )
    return tokenizer.encode(text, add_special_tokens=False)


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
