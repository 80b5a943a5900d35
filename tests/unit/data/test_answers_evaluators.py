"""Files that other evaluators wrote, and write, are read as those evaluators meant them."""

import gzip
import importlib.util
import json
import zipfile

import evaluators
import numpy as np
import pandas as pd
import pytest
from spillover.core.errors import InputError
from spillover.data import answers
from spillover.scoring import parsing


@pytest.fixture(scope="module")
def items(bbq_items):
    return pd.concat([bbq_items("Age"), bbq_items("Religion")], ignore_index=True)


@pytest.fixture(scope="module")
def asked(items):
    """The eight items that the samples answer."""
    return pd.concat(
        [
            items[(items["attribute"] == attribute) & items["example_id"].isin(ids)]
            for attribute, ids in evaluators.ASKED.items()
        ]
    )


def read(name, items, asked):
    return answers.read(evaluators.SAMPLES / name, items, asked, parsing.parse)


def text(name):
    return gzip.decompress((evaluators.SAMPLES / name).read_bytes()).decode()


def lines(name):
    return [json.loads(line) for line in text(name).splitlines()]


def test_lm_evals_choices_and_log_probabilities_are_its_own(items, asked):
    found = read("lm_eval_bbq.jsonl.gz", items, asked)
    samples = lines("lm_eval_bbq.jsonl.gz")
    assert found["item_id"].tolist() == asked["item_id"].tolist()
    # lm-eval says itself which of its answers are right: 8 of them, told apart by their item
    right = found["predicted"].to_numpy() == asked["gold"].to_numpy()
    assert right.tolist() == [sample["acc"] == 1 for sample in samples]
    assert 0 < right.sum() < 8
    for row, sample, item in zip(
        found.to_dict("records"), samples, asked.to_dict("records"), strict=True
    ):
        texts = [pair["arg_1"].strip() for pair in sample["arguments"].values()]
        logp = [float(value) for value, _ in sample["filtered_resps"]]
        people = [option for option in range(3) if option != item["unknown"]]
        for option in people:
            assert row[f"logp_{option}"] == logp[texts.index(item["options"][option])]
        assert row[f"logp_{item['unknown']}"] == max(logp[2:])
        assert row["option_mass"] == pytest.approx(np.exp(logp).sum())


def test_lm_evals_generated_answers_are_parsed(items, asked):
    found = read("lm_eval_bbq_generate.jsonl.gz", items, asked)
    texts = [
        sample["filtered_resps"][0].strip() for sample in lines("lm_eval_bbq_generate.jsonl.gz")
    ]
    for said, option, item in zip(texts, found["predicted"], asked.to_dict("records"), strict=True):
        assert pd.isna(option) if said not in item["options"] else said == item["options"][option]
    assert found["predicted"].isna().sum() == 1


@pytest.mark.parametrize("name", ["inspect.json.gz", "inspect.eval", "inspect_shuffled.json.gz"])
def test_inspects_answers_are_right_where_it_says_so(name, items, asked):
    found = read(name, items, asked)
    source = "inspect.json.gz" if name.endswith(".eval") else name
    samples = json.loads(text(source))["samples"]
    right = found["predicted"].to_numpy() == asked["gold"].to_numpy()
    assert right.tolist() == [s["scores"]["choice"]["value"] == "C" for s in samples]
    unparsed = [s["scores"]["choice"]["answer"] == "" for s in samples]
    assert found["predicted"].isna().tolist() == unparsed
    assert 0 < sum(unparsed) < 8
    orders = [
        "".join(str(list(item["options"]).index(text)) for text in sample["choices"])
        for item, sample in zip(asked.to_dict("records"), samples, strict=True)
    ]
    assert found["order"].tolist() == orders
    # greedy decoding: the answer is the likeliest letter
    known = ~found["logp_0"].isna()
    logp = found.loc[known, ["logp_0", "logp_1", "logp_2"]].to_numpy(dtype=float)
    assert known.tolist() == [not missing for missing in unparsed]
    assert logp.argmax(axis=1).tolist() == found.loc[known, "predicted"].tolist()
    mass = found.loc[known, "option_mass"].to_numpy(dtype=float)
    np.testing.assert_allclose(mass, np.exp(logp).sum(axis=1))
    assert (mass < 1).all()


def test_both_forms_of_inspects_log_are_the_same_answers(items, asked):
    # of two runs of one model: greedy, so alike but for rounding
    one, other = (read(name, items, asked) for name in ("inspect.json.gz", "inspect.eval"))
    pd.testing.assert_frame_equal(one, other, rtol=1e-4)


@pytest.mark.parametrize(
    ("converted", "source"),
    [
        ("every_eval_ever_of_lm_eval.jsonl.gz", "lm_eval_bbq.jsonl.gz"),
        ("every_eval_ever_of_inspect.jsonl.gz", "inspect.json.gz"),
    ],
)
def test_converted_samples_are_the_answers_that_they_were_made_from(
    converted, source, items, asked
):
    found, before = read(converted, items, asked), read(source, items, asked)
    assert found["item_id"].tolist() == before["item_id"].tolist()
    assert found["order"].tolist() == before["order"].tolist()
    # what Inspect left unparsed, its converter hands on as free text
    parsed = before["predicted"].notna()
    assert found["predicted"][parsed].tolist() == before["predicted"][parsed].tolist()


def test_a_log_that_lost_its_samples_is_refused(items, tmp_path):
    with zipfile.ZipFile(tmp_path / "header.eval", "w") as archive:
        archive.writestr("header.json", "{}")
    with pytest.raises(InputError, match=r"header\.eval: expected an Inspect log with samples"):
        answers.read(tmp_path / "header.eval", items)


# ------------------------------------------------------------------ made anew


@pytest.fixture(scope="module")
def model(bbq_files, tmp_path_factory):
    rows = evaluators.rows(bbq_files)
    return evaluators.answering_model(tmp_path_factory.mktemp("answering") / "model", rows), rows


def needs(package):
    """Marks a test, so that what it needs is not made either where it is skipped."""
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed")


@needs("lm_eval")
@pytest.mark.parametrize("task", ["bbq", "bbq_generate"])
def test_what_lm_eval_writes_now_is_read(task, model, items, asked, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    file = evaluators.run_lm_eval(*model, tmp_path, task)
    found = answers.read(file, items, asked, parsing.parse)
    samples = [json.loads(line) for line in file.read_text().splitlines()]
    right = found["predicted"].eq(asked["gold"].to_numpy()).fillna(False)
    if task == "bbq":  # of generated text lm-eval recognises words, not whole answers
        assert right.tolist() == [sample["acc"] == 1 for sample in samples]
        assert found[["logp_0", "logp_1", "logp_2"]].notna().all(axis=None)
    assert found["predicted"].notna().sum() >= 4


@needs("inspect_ai")
@pytest.mark.parametrize("log_format", ["json", "eval"])
def test_what_inspect_writes_now_is_read(log_format, model, items, asked, tmp_path):
    from inspect_ai.log import read_eval_log

    file = evaluators.run_inspect(*model, tmp_path, log_format, shuffle=3)
    found = answers.read(file, items, asked, parsing.parse)
    scores = [sample.scores["choice"] for sample in read_eval_log(str(file)).samples]
    right = found["predicted"].eq(asked["gold"].to_numpy()).fillna(False)
    assert right.tolist() == [score.value == "C" for score in scores]
    assert found["predicted"].isna().tolist() == [score.answer == "" for score in scores]
    assert len(set(found["order"])) > 1
