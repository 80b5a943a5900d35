"""A model's own greedy answers to prompts, as text."""

import logging

import pandas as pd
import torch

from spillover.core.errors import InputError
from spillover.models.tokens import encode_chat, stop_tokens
from spillover.scoring.engine import Engine, Prompt

logger = logging.getLogger(__name__)

# Prompts that share a beginning: a block of BBQ, whose four stand one after the other.
TOGETHER = 4


def requests(prompts: pd.DataFrame, tokenizer) -> list[list[Prompt]]:
    """What is asked of the model: each prompt up to where the assistant's reply begins."""
    asked = [
        Prompt(tuple(encode_chat(tokenizer, list(messages)))) for messages in prompts["prompt"]
    ]
    return [asked[at : at + TOGETHER] for at in range(0, len(asked), TOGETHER)]


def answer(
    prompts: pd.DataFrame,
    model: torch.nn.Module,
    tokenizer,
    max_new_tokens: int,
    tokens_per_batch: int | None = None,
) -> pd.DataFrame:
    """Greedy answers, where the assistant's reply begins, without a thought before.

    Parameters
    ----------
    prompts : ``item_id`` and ``prompt`` (a list of messages).
    max_new_tokens : where an answer ends that the model does not end itself.
    tokens_per_batch : as for :class:`spillover.scoring.engine.Engine`.

    Returns
    -------
    ``item_id, prompt, response``. Prompts with an empty answer are left out; the log says how
    many.

    Raises
    ------
    InputError
        If every answer is empty, or the model or its chat template cannot be used.
    """
    blocks, stop = requests(prompts, tokenizer), stop_tokens(model, tokenizer)
    # With gradients, what they need of every step would be kept.
    with torch.inference_mode():
        found = Engine(model, tokens_per_batch).generate(blocks, max_new_tokens, stop)
    tokens = [answer for block in found for answer in block]
    # A template may write an answer without the spaces around it.
    texts = [tokenizer.decode(answer, skip_special_tokens=True).strip() for answer in tokens]
    table = prompts[["item_id", "prompt"]].assign(response=texts)
    said = table["response"] != ""
    n_cut = sum(len(answer) == max_new_tokens for answer in tokens)
    logger.info(
        "%d prompts: %d answers, %d of them cut at %d tokens; %d empty ones are left out",
        len(table),
        said.sum(),
        n_cut,
        max_new_tokens,
        (~said).sum(),
    )
    if not said.any():
        raise InputError(
            f"objective.replay: {model.config.name_or_path} answers none of {len(table)} prompts"
        )
    return table[said].reset_index(drop=True)
