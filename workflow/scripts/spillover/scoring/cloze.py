"""Log-probabilities of answer texts behind the question, without showing options."""

from collections.abc import Mapping

import numpy as np

from spillover.data import prompts
from spillover.models.tokens import check_end_of_turn, encode_continuations, encode_replies
from spillover.scoring.engine import Engine, Span
from spillover.scoring.letter import LOGP

RULES = ("sum", "per_token", "unconditional")


class Cloze:
    """Log-probabilities of answer texts behind the question, without showing options.

    Parameters
    ----------
    prompt : ``chat``: a conversation whose reply an answer is, as preference pairs of format
        ``cloze`` render it. ``plain``: the text of lm-eval's ``bbq``, which it continues.
    end_of_turn : in a chat, whether the end of the assistant's turn is part of an answer. With
        it, as in training, an answer that begins another is not favoured for being shorter,
        and all answers together have a probability of at most 1.
    unknowns : ``own``: the candidates are the item's three options. ``all``: its two groups
        and every phrase for *unknown*, as in lm-eval's ``bbq``; the unknown option then has
        the scores of the phrase that decides for it.
    decide_by : ``sum``: log p(answer | question). ``per_token``: the same over the answer's
        number of tokens. ``unconditional``: the same minus log p(answer | "A:"), or in a
        chat p(answer | "Answer:"), after Brown et al. (2020, section 2.4). All three are recorded.

    ``option_mass`` is the sum of the candidates' probabilities. Where one candidate begins
    another, as some phrases for *unknown* do, and the end of the turn is not scored, the
    longer one's is counted in both.
    """

    columns = (
        *LOGP,
        *(f"logp_per_token_{i}" for i in range(3)),
        *(f"logp_unconditional_{i}" for i in range(3)),
        "option_mass",
        "predicted",
    )

    def __init__(
        self,
        tokenizer,
        unknowns: str = "own",
        decide_by: str = "sum",
        prompt: str = "chat",
        end_of_turn: bool = True,
    ):
        for name, value, known in (
            ("unknowns", unknowns, ("own", "all")),
            ("decide_by", decide_by, RULES),
            ("prompt", prompt, ("chat", "plain")),
        ):
            if value not in known:
                raise ValueError(f"cloze.{name}: expected one of {known}, found {value!r}")
        if prompt == "chat" and end_of_turn:
            check_end_of_turn(tokenizer)
        self.tokenizer = tokenizer
        self.prompt = prompt
        self.end_of_turn = end_of_turn
        self.unknowns = unknowns
        self.decide_by = decide_by
        self.unconditional: dict[str, float] = {}

    def prepare(self, engine: Engine, items: list[dict]) -> None:
        """Score every candidate text on its own, once a text and not once an item."""
        texts = list(
            dict.fromkeys(
                text for item in items for text, _ in prompts.cloze_candidates(item, self.unknowns)
            )
        )
        spans = self._spans(None, texts)
        self.unconditional = {
            text: float(value)
            for text, value in zip(texts, engine.log_probabilities([spans])[0], strict=True)
        }

    def requests(self, items: list[dict]) -> list[Span]:
        """One span a candidate."""
        return [
            span
            for item in items
            for span in self._spans(
                item, [text for text, _ in prompts.cloze_candidates(item, self.unknowns)]
            )
        ]

    def _spans(self, item: Mapping | None, answers: list[str]) -> list[Span]:
        """One span an answer, behind an item's question or, without an item, behind none."""
        if self.prompt == "chat":
            messages = prompts.cloze_chat(item) if item else prompts.CLOZE_CHAT_UNCONDITIONAL
            texts = map(prompts.cloze_reply, answers)
            asked, replies = encode_replies(self.tokenizer, messages, [*texts], self.end_of_turn)
        else:
            prompt = prompts.cloze_plain(item) if item else prompts.CLOZE_PLAIN_UNCONDITIONAL
            texts = [f" {answer}" for answer in answers]
            asked, replies = encode_continuations(self.tokenizer, prompt, texts)
        return [Span((*asked, *reply), len(asked)) for reply in replies]

    def run(self, engine: Engine, blocks: list[list[Span]]) -> list[list[tuple[float, int]]]:
        """Log-probability of each span and its number of tokens, block by block."""
        return [
            [(float(value), len(span)) for value, span in zip(values, spans, strict=True)]
            for values, spans in zip(engine.log_probabilities(blocks), blocks, strict=True)
        ]

    def rows(self, items: list[dict], values: list[tuple[float, int]]) -> list[dict]:
        """Rows of the table from the candidates' log-probabilities."""
        rows = []
        of_candidate = iter(values)
        for item in items:
            best: dict[int, dict[str, float]] = {}
            mass = 0.0
            for text, option in prompts.cloze_candidates(item, self.unknowns):
                total, n_tokens = next(of_candidate)
                mass += float(np.exp(total))
                scores = {
                    "sum": total,
                    "per_token": total / n_tokens,
                    "unconditional": total - self.unconditional[text],
                }
                if option not in best or scores[self.decide_by] > best[option][self.decide_by]:
                    best[option] = scores
            row = {"item_id": item["item_id"], "order": "012"}
            for name, key in (
                ("logp", "sum"),
                ("logp_per_token", "per_token"),
                ("logp_unconditional", "unconditional"),
            ):
                row |= {f"{name}_{option}": best[option][key] for option in range(3)}
            row["option_mass"] = mass
            row["predicted"] = int(np.argmax([best[option][self.decide_by] for option in range(3)]))
            rows.append(row)
        return rows
