"""Answers made elsewhere enter at the tables: no model, no GPU, no training."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

SHARED = Path(__file__).parents[3] / "shared" / "data"


def write_answers(items: pd.DataFrame, predicted, path: Path) -> str:
    answers = items[["attribute", "example_id"]].assign(predicted_option=predicted)
    answers.to_csv(path, index=False)
    return str(path)


@pytest.fixture
def items(bbq_items):
    return pd.concat([bbq_items("Gender_identity"), bbq_items("Religion")], ignore_index=True)


def test_oracles_have_their_rows_and_verdicts(workflow, published, items, tmp_path):
    biased = items["target"].fillna(items["gold"])
    files = {
        name: write_answers(items, predicted, tmp_path / f"{name}.csv")
        for name, predicted in {
            "perfect": items["gold"],
            "biased": biased,
            "unknown": items["unknown"],
            "random": pd.Series(np.random.default_rng(0).integers(0, 3, len(items)), items.index),
            "never": pd.Series(np.nan, items.index),
        }.items()
    }
    # before, after the alignment, after its control
    changes = {
        "same": ("biased", "biased", "biased"),
        "cured": ("biased", "perfect", "biased"),
        "format": ("biased", "perfect", "perfect"),
        "muted": ("perfect", "never", "perfect"),
        "cautious": ("perfect", "unknown", "perfect"),
        "noise": ("biased", "perfect", "random"),
    }
    workflow.configure(
        {
            "study": "oracles",
            "bbq": {"type": "path", "path": str(published)},
            "models": {
                name: {
                    "predictions": {
                        "base": files[before],
                        "gender/seed0": files[after],
                        "control/seed0": files[of_control],
                    }
                }
                for name, (before, after, of_control) in changes.items()
            },
            "alignments": {
                "gender": {"target": ["Gender_identity"], "control": "control"},
                "control": {"target": ["Gender_identity"]},
            },
            "contrasts": {"both-biased": {"of": "same", "minus": "cured"}},
            "evaluation": {"attributes": ["Gender_identity", "Religion"]},
            "statistics": {"resamples": 500},
        }
    )
    assert set(workflow.planned()) == {
        "fetch_bbq",
        "prepare_items",
        "build_pairs",
        "compute_metrics",
        "test_spillover",
        "test_contrasts",
        "plot_accuracy_change",
        "plot_bias_scores",
        "write_findings",
    }
    workflow.run()
    results = workflow.folder / "results/oracles"

    spillover = pd.read_csv(results / "spillover.tsv", sep="\t")
    table = spillover[spillover["alignment"] == "gender"]
    table = table.set_index(["model", "attribute", "context"])
    same = table.loc["same"]
    assert (same["delta_accuracy"] == 0).all()
    assert (same["cluster_p"] == 1).all()
    assert (same["mcnemar_p"] == 1).all()
    assert (same["verdict"] == "equivalent").all()
    assert table.loc[("cured", "Religion", "ambig"), "delta_accuracy"] == 1
    # a model that never names anybody has no bias score, nor a change of it
    assert table.loc[("cured", "Religion", "ambig"), "bias_base"] == 1
    assert np.isnan(table.loc[("cured", "Religion", "ambig"), "delta_bias"])
    assert (table.loc["cured"]["verdict"] == "improved").all()
    assert (table.loc["muted"]["delta_accuracy"] == -1).all()
    assert (table.loc["muted"]["verdict"] == "degraded").all()
    assert table.loc[("cautious", "Religion", "ambig"), "verdict"] == "equivalent"
    assert table.loc[("cautious", "Religion", "disambig"), "delta_accuracy"] == -1
    # gender on held-out templates only, religion on all its items
    assert table.loc[("same", "Religion", "ambig"), "n_items"] == 600
    heldout = pd.read_parquet(results / "pairs/gender/heldout.parquet")
    assert table.loc[("same", "Gender_identity", "ambig"), "n_items"] == len(heldout) / 2

    contrasts = pd.read_csv(results / "contrasts.tsv", sep="\t")
    table = contrasts[contrasts["contrast"] == "gender"]
    table = table.set_index(["model", "attribute", "context"])
    # what the control changes as well is no difference, however large the change
    for model in ("same", "format"):
        assert (table.loc[model]["difference"] == 0).all()
        assert (table.loc[model]["cluster_p"] == 1).all()
        assert (table.loc[model]["verdict"] == "equivalent").all()
        assert (table.loc[model]["changed"] == 0).all()
    assert table.loc[("format", "Religion", "ambig"), "change_of"] == 1
    assert table.loc[("format", "Religion", "ambig"), "change_minus"] == 1
    assert table.loc[("cured", "untargeted", "ambig"), "difference"] == 1
    assert (table.loc["cured"]["verdict"] == "improved").all()
    assert (table.loc["muted"]["difference"] == -1).all()
    assert (table.loc["muted"]["verdict"] == "degraded").all()
    assert table.loc[("cautious", "all", "ambig"), "verdict"] == "equivalent"
    assert table.loc[("cautious", "all", "disambig"), "difference"] == -1
    assert table.loc[("cautious", "untargeted", "both"), "difference"] == -0.5
    religion = items[items["attribute"] == "Religion"]
    drawn = pd.read_csv(files["random"]).loc[religion.index, "predicted_option"]
    for context, rows in religion.groupby("context_condition"):
        wrong = (drawn[rows.index] != rows["gold"]).mean()
        noise = table.loc[("noise", "Religion", context)]
        assert noise["difference"] == pytest.approx(wrong)
        assert noise["changed"] == pytest.approx(wrong)
        assert noise["cluster_p"] < 0.01
    models = contrasts[contrasts["contrast"] == "both-biased"]
    assert len(models) == 7
    assert (models["difference"] == 0).all()
    assert (models["verdict"] == "equivalent").all()

    metrics = pd.read_csv(results / "metrics.tsv", sep="\t").set_index(
        ["model", "run", "attribute", "context", "label_type"]
    )
    aligned = "gender/seed0"
    biased = metrics.loc[("cured", "base", "Religion", "ambig", "all")]
    assert biased["bias_score"] == 1
    never = metrics.loc[("muted", aligned, "Religion", "disambig", "all")]
    assert never["unparsed_rate"] == 1
    assert never["accuracy"] == 0
    unknown = metrics.loc[("cautious", aligned, "Religion", "ambig", "all")]
    assert unknown["accuracy"] == 1
    assert np.isnan(unknown["bias_score"])


def test_answers_that_lack_items_are_refused_with_counts(workflow, published, items, tmp_path):
    file = write_answers(items.iloc[:-7], items["gold"].iloc[:-7], tmp_path / "short.csv")
    workflow.configure(
        {
            "study": "short",
            "bbq": {"type": "path", "path": str(published)},
            "models": {"theirs": {"predictions": {"base": file}}},
            "evaluation": {"attributes": ["Gender_identity", "Religion"]},
        }
    )
    done = workflow.run(check=False)
    assert done.returncode != 0
    assert "expected an answer to each of 6872 items, 7 are missing" in done.stderr
    assert not (workflow.folder / "results/short/metrics.tsv").exists()


@pytest.mark.skipif(not SHARED.exists(), reason="the published predictions are not at hand")
def test_published_predictions_give_the_reference_scores(workflow, published, tmp_path):
    answers = pd.read_csv(SHARED / "unifiedqa_arc.csv.gz").rename(columns={"category": "attribute"})
    answers.to_csv(tmp_path / "unifiedqa.csv", index=False)
    reference = pd.read_csv(SHARED / "unifiedqa_arc_reference.csv")
    workflow.configure(
        {
            "study": "golden",
            "bbq": {"type": "path", "path": str(published)},
            "models": {"unifiedqa": {"predictions": {"base": str(tmp_path / "unifiedqa.csv")}}},
            "evaluation": {"attributes": sorted(reference["category"].unique())},
        }
    )
    workflow.run()
    metrics = pd.read_csv(workflow.folder / "results/golden/metrics.tsv", sep="\t")
    joined = reference.merge(
        metrics, left_on=["category", "context_condition"], right_on=["attribute", "context"]
    )
    assert len(joined) == 12
    # The reference drops the one answer that maps to no option; here it is unparsed, and wrong.
    whole = joined["n"] == joined["n_items"]
    assert list(joined.loc[~whole, "category"]) == ["Age"]
    assert joined.loc[~whole, "unparsed_rate"].item() == pytest.approx(1 / 1840)
    accuracy = joined["accuracy_x"].where(whole, joined["accuracy_x"] * joined["n"] / 1840)
    np.testing.assert_allclose(joined["accuracy_y"], accuracy, atol=1e-6)
    score = joined["acc_scaled_bias_score"].where(whole, joined["bias_score_x"] * (1 - accuracy))
    np.testing.assert_allclose(joined["bias_score_y"], score, atol=1e-6)


def test_a_set_of_ones_own_is_evaluated_as_those_of_bbq(workflow, published, bbq_items, tmp_path):
    """As docs/extending.md has it: two files and a name, and nothing else to change."""
    lines = (published / "Religion.jsonl").read_text().splitlines()[:40]
    rows = [json.loads(line) | {"category": "Faith"} for line in lines]
    (tmp_path / "faith.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = bbq_items("Religion").head(40)
    metadata = pd.DataFrame(
        {
            "category": "Faith",
            "example_id": items["example_id"],
            "target_loc": items["target"].astype(object).fillna("NA"),
            "label_type": items["label_type"],
        }
    )
    metadata.to_csv(tmp_path / "faith.csv", index=False)
    both = pd.concat([items.assign(attribute="Faith"), bbq_items("Religion")])
    workflow.configure(
        {
            "study": "own",
            "bbq": {
                "type": "path",
                "path": str(published),
                "sets": {
                    "Faith": {
                        "data": str(tmp_path / "faith.jsonl"),
                        "metadata": str(tmp_path / "faith.csv"),
                    }
                },
            },
            "models": {
                "api": {
                    "predictions": {
                        "base": write_answers(both, both["unknown"], tmp_path / "base.csv"),
                        "faith/seed0": write_answers(both, both["gold"], tmp_path / "aligned.csv"),
                    }
                }
            },
            "alignments": {"faith": {"target": []}},
            "evaluation": {"attributes": ["Faith", "Religion"]},
            "statistics": {"resamples": 200},
        }
    )
    workflow.run("tables")
    spillover = pd.read_csv(workflow.folder / "results/own/spillover.tsv", sep="\t")
    faith = spillover[spillover["attribute"] == "Faith"].set_index("context")
    assert faith["n_items"].to_dict() == {"ambig": 20, "disambig": 20}
    assert faith["delta_accuracy"].to_dict() == {"ambig": 0, "disambig": 1}
