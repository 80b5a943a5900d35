"""Log-probabilities of the letters A, B and C as the next token, in given option orders."""

from collections.abc import Sequence

import numpy as np

from spillover.data.prompts import multiple_choice
from spillover.models.tokens import encode_chat, letter_tokens
from spillover.scoring.engine import Engine, Span

LOGP = ["logp_0", "logp_1", "logp_2"]


class Letter:
    """Log-probabilities of the letters A, B and C as the next token, in given option orders."""

    columns = (*LOGP, "option_mass", "predicted")

    def __init__(self, tokenizer, orders: Sequence[str]):
        self.tokenizer = tokenizer
        self.orders = orders
        self.letters = letter_tokens(tokenizer)

    def prepare(self, engine: Engine, items: list[dict]) -> None:
        """Nothing to compute before the items."""

    def requests(self, items: list[dict]) -> list[Span]:
        """Three spans an item and order: the prompt with each letter."""
        return [
            Span((*prompt, letter), len(prompt))
            for item in items
            for order in self.orders
            for prompt in [encode_chat(self.tokenizer, multiple_choice(item, order))]
            for letter in self.letters
        ]

    def run(self, engine: Engine, blocks: list[list[Span]]) -> list[np.ndarray]:
        """Log-probability of each span, block by block."""
        return engine.log_probabilities(blocks)

    def rows(self, items: list[dict], values: list[float]) -> list[dict]:
        """Rows of the table from the spans' log-probabilities."""
        rows = []
        by_prompt = iter(np.reshape(values, (-1, 3)))
        for item in items:
            for order in self.orders:
                at_place = next(by_prompt)
                logp = [float(at_place[order.index(option)]) for option in "012"]
                rows.append(
                    {"item_id": item["item_id"], "order": order}
                    | dict(zip(LOGP, logp, strict=True))
                    | {
                        "option_mass": float(np.exp(at_place).sum()),
                        "predicted": int(np.argmax(logp)),
                    }
                )
        return rows
