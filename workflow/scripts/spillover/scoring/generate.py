"""Greedy text behind the letter mode's prompts, and the option that it names."""

from collections.abc import Sequence

from spillover.models.tokens import stop_tokens
from spillover.scoring import parsing
from spillover.scoring.engine import Engine, Prompt
from spillover.scoring.letter import LOGP, encoded_prompts


class Generate:
    """Greedy text behind the letter mode's prompts, and the option that it names.

    Parameters
    ----------
    max_new_tokens : where a response ends that the model does not end itself.
    """

    columns = (*LOGP, "option_mass", "predicted", "response")

    def __init__(self, tokenizer, orders: Sequence[str], max_new_tokens: int = 32):
        self.tokenizer = tokenizer
        self.orders = orders
        self.max_new_tokens = max_new_tokens

    def prepare(self, engine: Engine, items: list[dict]) -> None:
        """Nothing to compute before the items."""

    def requests(self, items: list[dict]) -> list[Prompt]:
        """One prompt an item and order."""
        return [
            Prompt(prompt)
            for item in items
            for prompt in encoded_prompts(self.tokenizer, item, self.orders)
        ]

    def run(self, engine: Engine, blocks: list[list[Prompt]]) -> list[list[str]]:
        """The text of each response, block by block."""
        stop = stop_tokens(engine.model, self.tokenizer)
        return [
            [self.tokenizer.decode(tokens, skip_special_tokens=True) for tokens in answers]
            for answers in engine.generate(blocks, self.max_new_tokens, stop)
        ]

    def rows(self, items: list[dict], values: list[str]) -> list[dict]:
        """Rows of the table from the responses."""
        responses = iter(values)
        rows = []
        for item in items:
            for order in self.orders:
                response = next(responses)
                option = parsing.parse(response, item["options"], item["unknown"], order).option
                rows.append(
                    {"item_id": item["item_id"], "order": order}
                    | {"predicted": option, "response": response}
                )
        return rows
