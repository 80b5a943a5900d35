"""The whole workflow on tiny random models: results, restarts, and what reruns what."""

import shutil
import time
from pathlib import Path

import pandas as pd
import pytest

ATTRIBUTES = ["Gender_identity", "Religion"]


def study(published: Path, models: dict[str, Path], **training) -> dict:
    return {
        "study": "tiny",
        "bbq": {"type": "path", "path": str(published)},
        "models": {
            name: {
                "source": {"type": "path", "path": str(folder)},
                "quantization": "nf4" if name == "llama" else "none",
                "dtype": "float32",
            }
            for name, folder in models.items()
        },
        "alignments": {
            "gender": {
                "target": ["Gender_identity"],
                "exclude_groups": "^(trans|nonTrans)",
                "pairs": {"max_items": 16},
                "training": {"pairs_per_step": 8, "learning_rate": 1.0e-3} | training,
            }
        },
        "evaluation": {"attributes": ATTRIBUTES, "blocks_per_attribute": 3},
        "statistics": {"resamples": 200},
        "machine": {"device": "cpu"},
    }


@pytest.fixture(scope="module")
def finished(shared_workflow, published, tiny_folder):
    """Workflow in which the study of three architectures has run."""
    models = {name: tiny_folder(name) for name in ("llama", "mistral", "qwen2")}
    shared_workflow.config = study(published, models)
    shared_workflow.configure(shared_workflow.config)
    shared_workflow.run()
    return shared_workflow


def table(workflow, name: str) -> pd.DataFrame:
    return pd.read_csv(workflow.folder / "results/tiny" / f"{name}.tsv", sep="\t")


def test_every_model_attribute_and_context_has_a_row(finished):
    spillover = table(finished, "spillover")
    assert len(spillover) == 3 * 2 * 2
    assert set(spillover["model"]) == {"llama", "mistral", "qwen2"}
    assert spillover.loc[spillover["targeted"], "attribute"].unique() == ["Gender_identity"]
    assert spillover["n_items"].eq(6).all()
    metrics = table(finished, "metrics")
    assert set(metrics["run"]) == {"base", "gender/seed0"}
    rates = metrics.filter(like="_rate").sum(axis=1)
    assert rates.round(9).eq(1).all()


def test_predictions_have_every_order_and_their_outcome(finished):
    path = "results/tiny/qwen2/gender/seed0/predictions/Religion.parquet"
    predictions = pd.read_parquet(finished.folder / path)
    assert len(predictions) == 3 * 4 * 3
    assert predictions.groupby("item_id")["order"].agg(set).map(len).eq(3).all()
    assert predictions["outcome"].isin(["target", "nontarget", "unknown"]).all()
    assert predictions["option_mass"].between(0, 1).all()


def test_the_targeted_attribute_is_evaluated_on_held_out_items(finished):
    results = finished.folder / "results/tiny"
    heldout = pd.read_parquet(results / "pairs/gender/heldout.parquet")
    train = pd.read_parquet(results / "pairs/gender/train.parquet")
    path = results / "llama/base/predictions/Gender_identity.parquet"
    asked = set(pd.read_parquet(path)["item_id"])
    assert asked <= set(heldout["item_id"])
    assert not asked & set(train["item_id"])


def test_figures_and_report_are_made(finished):
    figures = finished.folder / "results/tiny/figures"
    for name in ("accuracy_change_gender", "bias_scores_gender"):
        assert (figures / f"{name}.svg").read_text().count("<path") > 20
        assert (figures / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    finished.run("--report", "report.html")
    page = (finished.folder / "report.html").read_text()
    assert "accuracy_change_gender.svg" in page
    assert "Filled points hold after correction" in page


def test_nothing_is_left_to_do(finished):
    assert finished.planned() == {}


def test_settings_of_the_machine_rerun_nothing(finished):
    finished.configure(
        finished.config | {"machine": {"device": "auto", "tokens_per_batch": 512}}, "study.yaml"
    )
    try:
        assert finished.planned() == {}
    finally:
        finished.configure(finished.config)


TABLES = {"compute_metrics": 1, "test_spillover": 1}
FIGURES = {"plot_accuracy_change": 1, "plot_bias_scores": 1}


def test_a_lost_prediction_reruns_its_scoring_and_the_tables(finished):
    path = finished.folder / "results/tiny/llama/base/predictions/Religion.parquet"
    kept = path.with_suffix(".kept")
    path.rename(kept)
    try:
        assert finished.planned() == {"score_items": 1} | TABLES | FIGURES
    finally:
        kept.rename(path)


def test_a_figures_code_reruns_the_figures_only(finished):
    finished.edit("report/figures", "#D55E00", "#D55E01")
    assert finished.planned() == FIGURES
    finished.edit("report/figures", "#D55E01", "#D55E00")


def test_a_comment_reruns_nothing(finished):
    finished.edit("scoring/score", "import logging", "# a comment\nimport logging")
    assert finished.planned() == {}


def test_code_of_scoring_reruns_scoring_and_what_follows_not_training(finished):
    finished.edit("scoring/score", "SECONDS_BETWEEN_REPORTS = 10", "SECONDS_BETWEEN_REPORTS = 11")
    assert finished.planned() == {"score_items": 12} | TABLES | FIGURES
    finished.edit("scoring/score", "SECONDS_BETWEEN_REPORTS = 11", "SECONDS_BETWEEN_REPORTS = 10")


def test_a_new_model_runs_its_own_jobs_only(finished, tiny_folder):
    config = finished.config | {"models": dict(finished.config["models"])}
    config["models"]["llama-again"] = finished.config["models"]["llama"]
    finished.configure(config)
    try:
        own = {"fetch_model": 1, "train_dpo": 1, "diagnose_alignment": 1, "score_items": 4}
        assert finished.planned() == own | TABLES | FIGURES
    finally:
        finished.configure(finished.config)


def test_a_model_made_anew_gives_the_same_bytes(finished):
    results = finished.folder / "results/tiny"
    before = {path: path.read_bytes() for path in sorted(results.glob("*.tsv"))}
    assert len(before) == 5
    shutil.rmtree(results / "llama")
    finished.run()
    assert {path: path.read_bytes() for path in before} == before


def test_training_goes_on_after_a_kill(workflow, published, tiny_folder, kill):
    config = study(published, {"llama": tiny_folder("llama")}, epochs=40)
    config["machine"]["checkpoint_steps"] = 5
    workflow.configure(config)
    target = "results/tiny/llama/gender/seed0/training.tsv"
    checkpoints = workflow.folder / "results/tiny/llama/gender/.checkpoints-seed0"
    process = workflow.start(target)
    deadline = time.monotonic() + 300
    while not (checkpoints / "checkpoint-10").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    kill(process)
    process.wait()
    assert not (workflow.folder / target).exists()
    assert not list((workflow.folder / "results/tiny/llama/gender/seed0").rglob("*.safetensors"))

    workflow.run("--unlock")
    done = workflow.run(target)
    assert "going on from" in done.stderr
    steps = pd.read_csv(workflow.folder / target, sep="\t")["step"]
    assert list(steps) == list(range(1, 161))
    assert not checkpoints.exists()
