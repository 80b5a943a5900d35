"""Log-probabilities of answer texts behind the question, without showing options."""

import numpy as np

from spillover.data import prompts
from spillover.scoring.engine import Engine, Span
from spillover.scoring.letter import LOGP


class Cloze:
    """Log-probabilities of answer texts behind the question, without showing options.

    Parameters
    ----------
    unknowns : ``own``: the candidates are the item's three options. ``all``: its two groups
        and every phrase for *unknown*, as in lm-eval's ``bbq``; the unknown option then has
        the scores of the phrase that decides for it.
    decide_by : ``sum``: log p(answer | question). ``per_token``: the same over the answer's
        number of tokens. ``unconditional``: the same minus log p(answer | "A:"), after Brown
        et al. (2020, section 2.4). All three are recorded.

    ``option_mass`` is the sum of the candidates' probabilities. Where one candidate begins
    another, as some phrases for *unknown* do, the longer one's is counted in both.
    """

    columns = (
        *LOGP,
        *(f"logp_per_token_{i}" for i in range(3)),
        *(f"logp_unconditional_{i}" for i in range(3)),
        "option_mass",
        "predicted",
    )

    def __init__(self, tokenizer, unknowns: str = "own", decide_by: str = "sum"):
        if unknowns not in ("own", "all") or decide_by not in ("sum", "per_token", "unconditional"):
            raise ValueError(f"cloze: unknowns {unknowns!r}, decide_by {decide_by!r}")
        self.tokenizer = tokenizer
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
        spans = self._spans(prompts.CLOZE_UNCONDITIONAL, texts)
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
                prompts.cloze(item),
                [text for text, _ in prompts.cloze_candidates(item, self.unknowns)],
            )
        ]

    def _spans(self, prompt: str, answers: list[str]) -> list[Span]:
        # As lm-eval does: encode both together and split where the prompt alone would end,
        # so that a tokenizer is free to join them.
        encode = self.tokenizer.encode
        start = len(encode(prompt))
        return [Span(tuple(encode(f"{prompt} {answer}")), start) for answer in answers]

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
