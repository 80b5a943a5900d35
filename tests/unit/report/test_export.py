"""What goes out is what was found, and comes back as it was."""

import importlib.util
import json
import uuid

import numpy as np
import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results
from small_bbq import CYCLIC, make_items, make_predictions, other_person
from spillover.data import answers
from spillover.report import export
from spillover.scoring import parsing
from spillover.statistics.metrics import metrics

ITEMS = pd.concat([make_items("Age", (2, 2)), make_items("SES", (1,))], ignore_index=True)
# texts that differ between items, as an item's have to
ITEMS["context"] = [f"Case {i}. Two people met." for i in range(len(ITEMS))]
ITEMS["options"] = [["The one", "The other.", "Unknown"]] * len(ITEMS)
ITEMS["unknown"] = ITEMS["unknown"] * 0 + 2
ABOUT = {
    "model": "mine",
    "run": "gender/seed0",
    "source": {"type": "hub", "repo": "who/which", "revision": "abc"},
    "settings": {"scoring": "letter", "option_orders": "cyclic"},
    "version": "0123",
    "timestamp": "1700000000",
    "alpha": 0.05,
}


def letters(seed=0):
    """Log-probabilities in three orders, as the letter mode writes them."""
    rng = np.random.default_rng(seed)
    table = make_predictions(ITEMS, [0] * len(ITEMS), CYCLIC)
    logp = np.log(rng.dirichlet([1, 1, 1, 0.1], len(table)))[:, :3]
    table = table.assign(**{f"logp_{i}": logp[:, i] for i in range(3)})
    table["option_mass"] = np.exp(logp).sum(axis=1)
    return table.assign(predicted=logp.argmax(axis=1))


def written(folder, predictions, **changes):
    record = export.write_record(
        folder, ITEMS, predictions, metrics(ITEMS, predictions), **(ABOUT | changes)
    )
    return json.loads(record.read_text()), record.with_name(record.stem + "_samples.jsonl")


def test_exported_answers_come_back_with_their_probabilities_and_orders(tmp_path):
    predictions = letters()
    _, samples = written(tmp_path, predictions)
    found = answers.read(samples, ITEMS, parse=parsing.parse)
    key = ["item_id", "order"]
    expected = predictions.sort_values(key, ignore_index=True)
    found = found.sort_values(key, ignore_index=True)
    # exactly: every digit of a float is written
    pd.testing.assert_frame_equal(found[expected.columns], expected, check_dtype=False, rtol=0)


def test_generated_answers_come_back_the_unparsed_ones_as_well(tmp_path):
    responses = ["B", "The answer is (A).", "No idea at all", ""] * 5
    table = make_predictions(ITEMS, [0] * len(ITEMS), ("120",)).assign(response=responses)
    table["predicted"] = pd.array([2, 1, None, None] * 5, dtype="Int64")  # behind B and A
    _, samples = written(tmp_path, table)
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    assert [row["output"]["raw"] for row in rows] == [[text] for text in responses]
    found = answers.read(samples, ITEMS, parse=parsing.parse)
    assert found["predicted"].fillna(-1).tolist() == table["predicted"].fillna(-1).tolist()
    assert found["logp_0"].isna().all()


def test_the_scores_are_those_of_the_tables(tmp_path):
    predictions = letters()
    record, samples = written(tmp_path, predictions)
    table = metrics(ITEMS, predictions).set_index(["attribute", "context"])
    scores = {r["evaluation_result_id"]: r["score_details"] for r in record["evaluation_results"]}
    for (attribute, context), row in table.iterrows():
        accuracy = scores[f"{attribute}/{context}/accuracy"]
        assert accuracy["score"] == row["accuracy"]
        assert accuracy["uncertainty"]["num_samples"] == row["n_items"]
        assert scores[f"{attribute}/{context}/bias_score"]["score"] == row["bias_score"]
    # an answer's own score is one of those that the accuracy is the mean of
    rows = pd.DataFrame(map(json.loads, samples.read_text().splitlines()))
    means = (
        rows["evaluation"].map(lambda e: e["score"]).groupby(rows["evaluation_result_id"]).mean()
    )
    for name, mean in means.items():
        assert scores[name]["score"] == pytest.approx(mean)
    assert set(means.index) == {name for name in scores if name.endswith("/accuracy")}


def test_a_score_that_is_undefined_is_left_out(tmp_path):
    record, _ = written(tmp_path, make_predictions(ITEMS, ITEMS["unknown"]))
    ids = [result["evaluation_result_id"] for result in record["evaluation_results"]]
    assert ids == [f"{a}/{c}/accuracy" for a in ("Age", "SES") for c in ("ambig", "disambig")]


def test_names_say_what_was_evaluated_and_differ_between_runs(tmp_path):
    assert export.model_id("m", "base", ABOUT["source"]) == "who/which"
    assert export.model_id("m", "base", {"type": "path", "path": "/x"}) == "local/m"
    assert export.model_id("m", "gender/seed0", ABOUT["source"]) == "local/m_gender_seed0"
    # one repository in two models of a study
    records = [
        written(tmp_path, letters(), model=model, run="base")[0] for model in ("nf4", "full", "nf4")
    ]
    assert len({record["evaluation_id"] for record in records}) == 2
    files = sorted(tmp_path.glob("data/bbq/who/which/*.json"))
    assert len(files) == 2
    assert all(uuid.UUID(file.stem).version == 4 for file in files)
    assert str(tmp_path) not in files[0].read_text()


def test_a_card_with_the_block_has_the_scores_as_the_hub_reads_them():
    table = metrics(ITEMS, make_predictions(ITEMS, other_person(ITEMS)))
    block = yaml.safe_load(export.model_index("mine gender/seed0", table))
    name, results = model_index_to_eval_results(block["model-index"])
    assert name == "mine gender/seed0"
    found = {(r.dataset_name, r.metric_type): r.metric_value for r in results}
    for _, row in table.iterrows():
        dataset = f"BBQ {row['attribute']}, {row['context']}"
        assert found[dataset, "accuracy"] == row["accuracy"]
        assert found[dataset, "bbq_bias_score"] == row["bias_score"]
    card = ModelCardData(**{"library_name": "peft"} | block)
    assert card.eval_results == results


@pytest.mark.skipif(
    importlib.util.find_spec("every_eval_ever") is None, reason="every-eval-ever is not installed"
)
@pytest.mark.parametrize("elsewhere", [False, True])
def test_records_pass_the_validator_of_every_eval_ever(elsewhere, tmp_path):
    from every_eval_ever.validator.validation_core import validate_file

    if elsewhere:
        predictions = make_predictions(ITEMS, [None, *ITEMS["gold"][1:]])
        written(tmp_path, predictions, source={}, settings={}, version="unknown")
    else:
        written(tmp_path, letters())
        written(tmp_path, letters(1), run="base")
    files = {str(f.relative_to(tmp_path)): f for f in tmp_path.rglob("*.json*")}
    assert len(files) == (2 if elsewhere else 4)
    for name, file in files.items():
        report = validate_file(
            file,
            repo_path=name,
            available_files=frozenset(files),
            read_repo_file=lambda name: files[name].read_text(),
            run_semantic_checks=True,
        )
        assert report.errors == []
        assert report.warnings == []
        assert report.valid
