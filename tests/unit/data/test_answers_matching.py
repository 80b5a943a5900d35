"""Answers of other evaluators: each row's item and option, or why there is none."""

import gzip
import json

import pytest
from small_bbq import make_items
from spillover.core.errors import InputError
from spillover.data import answers
from spillover.scoring import parsing

# Two blocks whose texts differ, but for the last two items, which are alike.
ITEMS = make_items("Age", (2,)).assign(
    context=[f"Case {i}. Two people met." for i in [0, 1, 2, 3, 4, 5, 6, 6]],
    options=[["The one", "The other.", "Unknown"]] * 8,
    unknown=2,
)


def lm_eval(i, answers=(-3.0, -1.0, -2.0, -1.5), choices=None, **doc):
    """A row of lm-eval's ``bbq``: two groups, then phrases for unknown."""
    choices = choices or [" The one", " The other.", " Not known", " Unknown"]
    doc = {
        "category": "Age",
        "example_id": i,
        "context": ITEMS["context"][i],
        "question": "Who was it?",
    } | doc
    return {
        "doc": {name: value for name, value in doc.items() if value is not None},
        "arguments": {
            f"gen_args_{n}": {"arg_0": "…", "arg_1": text} for n, text in enumerate(choices)
        },
        "filtered_resps": [[str(value), "False"] for value in answers],
    }


def inspect(i, answer="B", choices=("The one", "The other.", "Unknown"), **changes):
    sample = {
        "id": f"Age_{i:05d}",
        "input": f"Context: {ITEMS['context'][i]}\n\nQuestion: Who was it?",
        "choices": list(choices),
        "scores": {"choice": {"value": "C", "answer": answer}},
        "output": {"choices": [{"message": {"content": f"ANSWER: {answer}"}}]},
    }
    return sample | changes


def ever(i, output="The other.", choices=("The one", "The other.", "Unknown"), **changes):
    return {
        "evaluation_id": "bbq/x/0",
        "sample_id": f"Age:{i}",
        "interaction_type": "single_turn",
        "input": {"raw": f"{ITEMS['context'][i]}\n\nQ: Who was it?\nA:", "choices": [*choices]},
        "output": {"raw": [output]},
        "answer_attribution": [],
        "metadata": {},
    } | changes


def write(folder, rows):
    path = folder / "answers.jsonl"
    if "input" in rows[0] and "scores" in rows[0]:
        path.write_text(json.dumps({"eval": {}, "samples": rows}))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(folder, rows, required=None):
    required = ITEMS if required is None else ITEMS.iloc[required]
    return answers.read(write(folder, rows), ITEMS, required, parsing.parse)


@pytest.mark.parametrize("row", [lm_eval, inspect, ever])
def test_the_option_of_the_chosen_text_is_predicted(row, tmp_path):
    found = read(tmp_path, [row(i) for i in range(8)])
    assert found["item_id"].tolist() == ITEMS["item_id"].tolist()
    assert found["predicted"].tolist() == [1] * 8
    assert found["order"].tolist() == ["012"] * 8


def test_unknown_has_the_log_probability_of_its_likeliest_phrase(tmp_path):
    found = read(tmp_path, [lm_eval(0)], [0]).loc[0]
    assert [found[f"logp_{i}"] for i in range(3)] == [-3.0, -1.0, -1.5]
    # e^-3 + e^-1 + e^-2 + e^-1.5, of all four candidates
    assert found["option_mass"] == pytest.approx(0.776132, abs=1e-6)


@pytest.mark.parametrize("row", [inspect, ever])
def test_shuffled_choices_are_an_order_and_its_answers_the_items_own_options(row, tmp_path):
    choices = ("Unknown", "The one", "The other.")
    found = read(tmp_path, [row(0, "A", choices), row(1, "C", choices)], [0, 1])
    assert found["order"].tolist() == ["201", "201"]
    assert found["predicted"].tolist() == [2, 1]


def test_several_orders_of_an_item_are_rows(tmp_path):
    rows = [inspect(0, "A"), inspect(0, "B", ("Unknown", "The one", "The other."))]
    found = read(tmp_path, rows, [0])
    assert found["order"].tolist() == ["012", "201"]
    assert found["predicted"].tolist() == [0, 0]


def test_choices_that_inspect_shuffled_and_logged_as_if_not_have_the_order_shown(tmp_path):
    told = "Choices were shuffled before generating a response, the following was sent to the model"
    told += ":\n\nA) Unknown\nB) The other.\nC) The one\nShuffled answer:\nANSWER: B"
    scores = {"choice": {"answer": "B", "explanation": told}}
    found = read(tmp_path, [inspect(0, scores=scores)], [0]).loc[0]
    assert (found["order"], found["predicted"]) == ("210", 1)


def test_log_probabilities_are_of_the_letters_where_the_answers_stands(tmp_path):
    def token(text, **top):
        return {"token": text, "top_logprobs": [{"token": k, "logprob": v} for k, v in top.items()]}

    content = [token("A", A=-0.1, B=-3.0, C=-4.0), token("NSWER: "), token("\u0120A")]
    content[-1] = token("\u0120A", **{"\u0120A": -0.5, "\u0120C": -1.0, "B": -2.0, "C": -9.0})
    output = {"choices": [{"message": {"content": ""}, "logprobs": {"content": content}}]}
    choices = ("Unknown", "The one", "The other.")  # order 201
    found = read(tmp_path, [inspect(0, "A", choices, output=output)], [0]).loc[0]
    assert [found[f"logp_{i}"] for i in (2, 0, 1)] == [-0.5, -2.0, -1.0]
    content[-1]["top_logprobs"].pop(2)  # B was not among the likeliest; the "C" after it is C
    found = read(tmp_path, [inspect(0, "A", choices, output=output)], [0]).loc[0]
    assert found.isna()[["logp_0", "logp_1", "logp_2", "option_mass"]].all()
    assert found["predicted"] == 2


def test_free_text_is_parsed_and_letters_count_only_where_options_were_shown(tmp_path):
    rows = [lm_eval(i, [], choices=[{"until": []}]) for i in range(3)]
    for row, text in zip(rows, ["The other.", "It cannot be determined", "A"], strict=True):
        row["filtered_resps"] = [text]
    rows[0]["filtered_resps"] = [["The other."]]  # without a filter
    assert read(tmp_path, rows, [0, 1, 2])["predicted"].fillna(-1).tolist() == [1, 2, -1]
    choices = ("Unknown", "The one", "The other.")
    found = read(tmp_path, [ever(0, "Answer: (A)", choices), ever(1, "who knows?")], [0, 1])
    assert found["predicted"].fillna(-1).tolist() == [2, -1]


def test_an_answer_that_the_evaluator_did_not_recognise_stays_unparsed(tmp_path):
    assert read(tmp_path, [inspect(0, "")], [0])["predicted"].isna().all()


def test_an_item_is_found_by_its_text_where_the_file_does_not_name_it(tmp_path):
    nameless = [
        lm_eval(5, category=None, example_id=None),
        lm_eval(4, category=None, example_id=3),  # text decides, not a number alone
        ever(3, sample_id="17"),
        inspect(2, id=1),
        ever(6, sample_id="6"),  # two items alike in text: then the number
    ]
    for row, item in zip(nameless, [5, 4, 3, 2, 6], strict=True):
        assert read(tmp_path, [row], [item])["item_id"].tolist() == [f"Age:{item}"]


def test_a_row_for_every_metric_is_one_answer(tmp_path, caplog):
    rows = [ever(i, evaluation_result_id=name) for i in (0, 1) for name in ("acc", "err")]
    with caplog.at_level("INFO", "spillover"):
        assert len(read(tmp_path, rows, [0, 1])) == 2
    assert "left aside: 2 that repeat an answer for another metric" in caplog.text


ASIDE = {
    "of items that the study does not have": [
        lm_eval(0, category="SES"),
        lm_eval(0, example_id=99),
        lm_eval(0, category=None, context="Nobody met."),
    ],
    "whose question is not that of the item they name": [lm_eval(0, context="Nobody met.")],
    "that fit several items alike": [lm_eval(6, category=None, example_id=None)],
    "whose choices are not the item's options": [
        inspect(0, "A", ("The one", "The other.")),
        inspect(0, "A", ("The one", "The other.", "Both")),
        inspect(0, "A", ("The one", "The other.", "The other")),
        lm_eval(0, (-1.0, -2.0, -3.0), [" A", " B", " C"]),
    ],
    "that failed with an error": [inspect(0, error={"message": "x"}), inspect(0, scores={})],
    "that are a letter without the choices it stands for": [inspect(0, "A", ())],
    "that have no single answer (several turns, or an error)": [ever(0) | {"output": None}],
}


@pytest.mark.parametrize(
    ("why", "row"), [(why, row) for why, rows in ASIDE.items() for row in rows]
)
def test_a_row_that_has_no_item_or_option_is_left_aside_and_missed_with_the_reason(
    why, row, tmp_path
):
    text = refused(tmp_path, [row])
    assert "expected an answer to each of 8 items, 8 are missing (first: Age:0)" in text
    assert text.endswith(f"rows left aside: 1 {why}")


REFUSED = {
    "a name that is no set of BBQ's": (
        [lm_eval(0, category="Edad")],
        "row 1: expected an attribute, Age, Disability_status, ",
    ),
    "an answer twice, as with epochs": (
        [inspect(0), inspect(0)],
        "one row an item and option order; found an item again in 1 of 2 rows (first: Age:0)",
    ),
    "another task of lm-eval": (
        [{"doc": {"query": "x"}, "arguments": {}, "filtered_resps": []}],
        "row 1 is not as in lm-eval's samples: KeyError: 'context'",
    ),
    "several scorers": (
        [inspect(0), inspect(1, scores={"a": {}, "b": {}})],
        "row 2 is not as in an Inspect log: ValueError: several scorers, none of them choice",
    ),
    "an Inspect log's header": ([{"eval": {}, "results": {}}], "an Inspect log without samples"),
    "lm-eval's results": ([{"results": {}, "configs": {}}], "run with --log_samples"),
    "a record of Every Eval Ever": (
        [{"evaluation_id": "x", "evaluation_results": []}],
        "give its …_samples.jsonl",
    ),
    "something else": ([{"a": 1}], "or an Inspect log; found JSON with the keys a"),
}


def refused(folder, rows):
    with pytest.raises(InputError) as refusal:
        read(folder, rows)
    text = str(refusal.value)
    assert text.startswith(str(folder / "answers.jsonl"))
    assert "\n" not in text
    return text


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_or_read_in_two_ways_is_refused_in_one_line(case, tmp_path):
    rows, message = REFUSED[case]
    assert message in refused(tmp_path, rows)


def test_a_text_that_two_options_have_is_refused(tmp_path):
    twins = ITEMS.assign(options=[["The one", "the one.", "Unknown"]] * 8)
    with pytest.raises(InputError, match=r"row 1: 'the one' is the text of two options of Age:0$"):
        answers.read(write(tmp_path, [lm_eval(0)]), twins)


@pytest.mark.parametrize("keep", [0.3, 0.9])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_file_that_was_cut_is_refused_in_one_line(keep, compress, tmp_path):
    path = write(tmp_path, [inspect(i) for i in range(8)])
    data = compress(path.read_bytes())
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(InputError, match=r"answers\.jsonl: (not JSON|expected a file of answers)"):
        answers.read(path, ITEMS)
