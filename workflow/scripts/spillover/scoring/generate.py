"""Greedy text behind the letter form's prompts, and the option that it names."""

from collections.abc import Sequence

from spillover.data.prompts import multiple_choice
from spillover.models.chat import QUESTION
from spillover.models.tokens import encode_opening, stop_tokens
from spillover.scoring import parsing
from spillover.scoring.engine import Engine, Prompt
from spillover.scoring.letter import LOGP


class Generate:
    """Greedy text behind the letter form's prompts, and the option that it names.

    A model that thinks does so only if the user's arguments for the chat template let it, and
    within ``max_new_tokens``; what it thought is part of the response and is not read.

    Parameters
    ----------
    max_new_tokens : where a response ends that the model does not end itself.
    """

    columns = (*LOGP, "option_mass", "predicted", "response")

    def __init__(self, tokenizer, orders: Sequence[str], max_new_tokens: int = 32):
        self.tokenizer = tokenizer
        self.orders = orders
        self.max_new_tokens = max_new_tokens
        asked = tokenizer.decode(encode_opening(tokenizer, QUESTION))
        self.opened = parsing.spoken(asked) is None

    def prepare(self, engine: Engine, items: list[dict]) -> None:
        """Nothing to compute before the items."""

    def requests(self, items: list[dict]) -> list[Prompt]:
        """One prompt an item and order."""
        return [
            Prompt(tuple(encode_opening(self.tokenizer, multiple_choice(item, order))))
            for item in items
            for order in self.orders
        ]

    def run(self, engine: Engine, blocks: list[list[Prompt]]) -> list[list[str]]:
        """The text of each response, block by block."""
        stop = stop_tokens(engine.model, self.tokenizer)
        return [
            [self._text(tokens) for tokens in answers]
            for answers in engine.generate(blocks, self.max_new_tokens, stop)
        ]

    def _text(self, tokens: list[int]) -> str:
        """A response, without special tokens unless they tell thought and answer apart."""
        whole = self.tokenizer.decode(tokens)
        if parsing.spoken(whole) != whole:
            return whole
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def rows(self, items: list[dict], values: list[str]) -> list[dict]:
        """Rows of the table from the responses."""
        responses = iter(values)
        rows = []
        for item in items:
            for order in self.orders:
                response = next(responses)
                said = parsing.spoken(response, self.opened) or ""
                option = parsing.parse(said, item["options"], item["unknown"], order).option
                rows.append(
                    {"item_id": item["item_id"], "order": order}
                    | {"predicted": option, "response": response}
                )
        return rows
