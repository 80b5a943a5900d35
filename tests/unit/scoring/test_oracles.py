"""Answerers whose scores are known, through every mode."""

import numpy as np
import pytest
from made_items import make_items
from spillover.data import prompts
from spillover.data.samples import spread_blocks
from spillover.models.tokens import encode_chat, encode_replies
from spillover.scoring import engine
from spillover.scoring.cloze import Cloze
from spillover.scoring.generate import Generate
from spillover.scoring.letter import Letter
from spillover.scoring.score import score
from spillover.statistics import outcomes
from spillover.statistics.metrics import metrics


def oracle_values(items, order_names, wanted):
    """Log-probabilities, per item and order, of A, B and C that make ``wanted`` the answer."""
    return [
        np.log(0.8) if int(order[place]) == wanted(item) else np.log(0.1)
        for item in items
        for order in order_names
        for place in range(3)
    ]


WANTED = {
    "target": lambda item: item["target"],
    "unknown": lambda item: item["unknown"],
    "correct": lambda item: item["gold"],
}


@pytest.mark.parametrize("wanted", WANTED)
@pytest.mark.parametrize("orders", ["given", "cyclic", "all"])
def test_an_oracle_is_read_exactly_in_letters(llama, orders, wanted):
    items = make_items().to_dict("records")
    mode = Letter(llama[1], prompts.ORDERS[orders])
    rows = mode.rows(items, oracle_values(items, prompts.ORDERS[orders], WANTED[wanted]))
    expected = [WANTED[wanted](item) for item in items for _ in prompts.ORDERS[orders]]
    assert [row["predicted"] for row in rows] == expected
    assert [row["option_mass"] for row in rows] == pytest.approx([1.0] * len(rows))
    assert all(row[f"logp_{want}"] == np.log(0.8) for row, want in zip(rows, expected, strict=True))


@pytest.mark.parametrize("wanted", WANTED)
@pytest.mark.parametrize("unknowns", ["own", "all"])
def test_an_oracle_is_read_exactly_in_cloze(llama, unknowns, wanted):
    items = make_items().to_dict("records")
    mode = Cloze(llama[1], unknowns)
    candidates = [prompts.cloze_candidates(item, unknowns) for item in items]
    mode.unconditional = {text: -1.0 for texts in candidates for text, _ in texts}
    values = [
        (-1.0 if option == WANTED[wanted](item) else -5.0, 2)
        for item, texts in zip(items, candidates, strict=True)
        for _, option in texts
    ]
    rows = mode.rows(items, values)
    assert [row["predicted"] for row in rows] == [WANTED[wanted](item) for item in items]


@pytest.mark.parametrize("wanted", WANTED)
@pytest.mark.parametrize("form", ["{letter}", "Answer: ({letter})", "{text}.", "{letter}. {text}"])
def test_an_oracle_is_read_exactly_in_generated_text(llama, form, wanted):
    items = make_items().to_dict("records")
    orders = prompts.ORDERS["all"]
    mode = Generate(llama[1], orders)
    expected = [WANTED[wanted](item) for item in items for _ in orders]
    responses = [
        form.format(
            letter=prompts.letter_of(WANTED[wanted](item), order),
            text=item["options"][WANTED[wanted](item)],
        )
        for item in items
        for order in orders
    ]
    rows = mode.rows(items, responses)
    assert [row["predicted"] for row in rows] == expected
    silent = mode.rows(items, ["I'd rather not say."] * len(responses))
    assert {row["predicted"] for row in silent} == {None}


class Oracle:
    """Stands for the model: reads each prompt, and answers what it always answers.

    Everything else is the real path: prompts, tokens, blocks, rows, table.
    """

    def __init__(self, tokenizer, items, option_of, form):
        self.tokenizer = tokenizer
        self.prompts = {}
        self.answers = {}
        for item in items.to_dict("records"):
            wanted = option_of(item)
            for order in prompts.ORDERS["all"]:
                chat = prompts.multiple_choice(item, order)
                text = form.format(
                    letter=prompts.letter_of(wanted, order), text=item["options"][wanted]
                )
                self.prompts[tuple(encode_chat(tokenizer, chat))] = text
            for text, option in prompts.cloze_candidates(item, "all"):
                self.answers[f"{prompts.cloze_plain(item)} {text}"] = option == wanted
                _, (reply,) = encode_replies(tokenizer, prompts.cloze_chat(item), [text.strip()])
                asked = encode_chat(tokenizer, prompts.cloze_chat(item))
                self.answers[tokenizer.decode([*asked, *reply])] = option == wanted

    def log_probabilities(self, engine, blocks):
        return [np.array([self.likelihood(span) for span in block]) for block in blocks]

    def likelihood(self, span):
        if span.context in self.prompts:
            letter = self.tokenizer.decode(span.tokens[-1:])
            return np.log(0.8 if self.prompts[span.context] == letter else 0.1)
        text = self.tokenizer.decode(span.tokens)
        if text not in self.answers:  # without a question
            return -9.0
        # By the token, so that the same answer wins whichever score decides.
        return len(span) * (-0.01 if self.answers[text] else -5.0)

    def generate(self, engine, blocks, max_new_tokens, stop):
        encode = self.tokenizer.encode
        return [[encode(self.prompts[prompt.context]) for prompt in block] for block in blocks]


@pytest.mark.parametrize("attribute", ["Age", "Religion"])
@pytest.mark.parametrize(
    ("settings", "form"),
    [
        ({"scoring": "letter", "option_orders": "all"}, "{letter}"),
        ({"scoring": "cloze"}, "{text}"),
        ({"scoring": "cloze", "cloze": {"prompt": "plain"}}, "{text}"),
        ({"scoring": "cloze", "cloze": {"unknowns": "all", "decide_by": "per_token"}}, "{text}"),
        ({"scoring": "generate", "option_orders": "cyclic"}, "The answer is ({letter}) {text}."),
        ({"scoring": "generate", "option_orders": "cyclic"}, "{text}"),
    ],
)
def test_an_oracle_has_exact_scores_whatever_the_mode(
    llama, bbq_items, monkeypatch, attribute, settings, form
):
    items = spread_blocks(bbq_items(attribute), 6)
    items = items[items["target"].notna()]
    expected = {  # accuracy and bias score, ambiguous and disambiguated
        "target": [(0.0, 1.0), (None, 1.0)],
        "unknown": [(1.0, None), (0.0, None)],
        "correct": [(1.0, None), (1.0, None)],
    }
    for wanted, scores in expected.items():
        oracle = Oracle(llama[1], items, WANTED[wanted], form)
        for name in ("log_probabilities", "generate"):
            method = getattr(oracle, name)
            monkeypatch.setattr(engine.Engine, name, lambda *a, method=method: method(*a))
        table = score(items, *llama, **settings)
        outcome = outcomes.label_predictions(items, table)
        always = {"target": "target", "unknown": "unknown"}
        assert wanted not in always or set(outcome) == {always[wanted]}
        found = metrics(items, table)
        found = found[found["label_type"] == "all"].set_index("context")
        for context, (accuracy, bias) in zip(("ambig", "disambig"), scores, strict=True):
            row = found.loc[context]
            assert row["unparsed_rate"] == 0
            if accuracy is not None:
                assert row["accuracy"] == accuracy
            if bias is not None:
                assert row["bias_score"] == bias
            elif wanted == "unknown" or context == "ambig":
                assert np.isnan(row["bias_score"])
