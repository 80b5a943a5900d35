"""The whole workflow on tiny random models: results, restarts, and what reruns what."""

import shutil
import time

import pandas as pd
import pytest
import tiny_models
from small_study import study


@pytest.fixture(scope="module")
def finished(shared_workflow, published, tiny_folder):
    """Workflow in which a study of one model in two precisions has run."""
    models = {"llama-nf4": tiny_folder("llama"), "llama": tiny_folder("llama")}
    shared_workflow.config = study(published, models)
    shared_workflow.config["contrasts"] = {"nf4-alone": {"of": "llama-nf4", "minus": "llama"}}
    shared_workflow.configure(shared_workflow.config)
    shared_workflow.run()
    return shared_workflow


def table(workflow, name: str) -> pd.DataFrame:
    return pd.read_csv(workflow.folder / "results/tiny" / f"{name}.tsv", sep="\t")


def test_every_model_attribute_and_context_has_a_row(finished):
    spillover = table(finished, "spillover")
    assert len(spillover) == 2 * 2 * 2 * 2
    assert set(spillover["model"]) == {"llama", "llama-nf4"}
    assert set(spillover["alignment"]) == {"gender", "shuffled"}
    assert spillover["changed"].between(0, 1).all()
    assert spillover["option_kl"].ge(0).all()
    assert spillover["option_kl"].max() > 1e-3
    assert spillover.loc[spillover["targeted"], "attribute"].unique() == ["Gender_identity"]
    assert spillover["n_items"].eq(6).all()
    metrics = table(finished, "metrics")
    assert set(metrics["run"]) == {"base", "gender/seed0", "shuffled/seed0"}
    rates = metrics.filter(like="_rate").sum(axis=1)
    assert rates.round(9).eq(1).all()


def test_every_change_stands_beside_its_controls(finished):
    contrasts = table(finished, "contrasts")
    # two attributes in two contexts; pooled, untargeted and all, in those and in both
    assert contrasts.groupby(["contrast", "model"]).size().to_dict() == {
        ("gender", "llama"): 10,
        ("gender", "llama-nf4"): 10,
        ("nf4-alone", "llama-nf4"): 7,
    }
    spillover = table(finished, "spillover").set_index(
        ["model", "alignment", "attribute", "context"]
    )
    for row in contrasts[contrasts["attribute"] == "Religion"].itertuples():
        if row.contrast == "gender":
            change, of_control = (
                spillover.loc[(row.model, name, row.attribute, row.context), "delta_accuracy"]
                for name in ("gender", "shuffled")
            )
            assert row.difference == pytest.approx(change - of_control)
    metrics = table(finished, "metrics")
    base = metrics[(metrics["run"] == "base") & (metrics["label_type"] == "all")]
    base = base.set_index(["model", "attribute", "context"])["accuracy"]
    for row in contrasts[contrasts["contrast"] == "nf4-alone"].itertuples():
        assert (row.of, row.minus) == ("llama-nf4", "llama")
        if row.attribute == "Religion":
            assert row.change_of == base[("llama-nf4", "Religion", row.context)]
            assert row.change_minus == base[("llama", "Religion", row.context)]


def test_a_control_sees_the_same_prompts_and_is_diagnosed_on_correct_preferences(finished):
    pairs = finished.folder / "results/tiny/pairs"
    one, other = (
        pd.read_parquet(pairs / name / "train.parquet") for name in ("gender", "shuffled")
    )
    assert one["prompt"].map(str).equals(other["prompt"].map(str))
    swapped = one["chosen"].map(str) != other["chosen"].map(str)
    assert swapped.groupby(one["item_id"]).sum().eq(1).all()
    runs = [finished.folder / f"results/tiny/llama/{name}/seed0" for name in ("gender", "shuffled")]
    one, other = (pd.read_csv(run / "diagnostics.tsv", sep="\t") for run in runs)
    assert one.loc[0].equals(other.loc[0])  # the base, on the same held-out pairs


def test_predictions_have_their_outcome(finished):
    path = "results/tiny/llama/gender/seed0/predictions/Religion.parquet"
    predictions = pd.read_parquet(finished.folder / path)
    assert len(predictions) == 3 * 4
    assert predictions["item_id"].is_unique
    rules = table(finished, "cloze_rules")
    assert len(rules) == 2 * 3 * 3 * 2
    assert rules["agree_all"].between(0, 1).all()
    assert (rules["agree_all"] <= rules["agree_sum_per_token"]).all()
    assert predictions["outcome"].isin(["target", "nontarget", "unknown"]).all()
    assert predictions["option_mass"].between(0, 1).all()


def test_the_targeted_attribute_is_evaluated_on_held_out_items(finished):
    results = finished.folder / "results/tiny"
    heldout = pd.read_parquet(results / "pairs/gender/heldout.parquet")
    train = pd.read_parquet(results / "pairs/gender/train.parquet")
    path = results / "llama-nf4/base/predictions/Gender_identity.parquet"
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
    assert "Filled points" in page
    assert "contrasts.tsv" in page
    assert "findings.html" in page


def test_the_page_says_what_was_learnt_and_cites_what_was_used(finished):
    page = (finished.folder / "results/tiny/findings.html").read_text()
    assert "held-out pairs" in page
    assert "training met a pair for the first time" in page
    assert "Base and aligned runs compute with the same NF4 weights" in page
    assert "no held-out item has one of these templates" in page
    assert "llama-nf4 less llama, as they are" in page
    assert "dettmers2023qlora" in page
    assert "rafailov2023direct" in page
    # The configuration as it was given, without the machine.
    assert "resamples: 200" in page
    assert "checkpoint_steps" not in page


def test_logs_hold_no_progress_bars_and_no_warnings_that_mean_nothing(finished):
    logs = [*finished.folder.glob("re*/**/*.log")]
    assert len(logs) > 15
    for log in logs:
        assert "%|" not in log.read_text(), log
        assert "gemm_4bit" not in log.read_text(), log
        assert "is_gradient_checkpointing" not in log.read_text(), log


def test_nothing_is_left_to_do(finished):
    assert finished.planned() == {}


def test_settings_of_the_machine_rerun_nothing(finished):
    finished.configure(
        finished.config
        | {"machine": {"device": "auto", "tokens_per_batch": 512, "gpu_tflops": 100}},
        "study.yaml",
    )
    try:
        assert finished.planned() == {}
    finally:
        finished.configure(finished.config)


TABLES = {"compute_metrics": 1, "test_spillover": 1, "test_contrasts": 1}
FIGURES = {"plot_accuracy_change": 1, "plot_bias_scores": 1, "write_findings": 1}


def test_a_lost_prediction_comes_back_and_the_tables_are_made_again(finished):
    results = finished.folder / "results/tiny"
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    lost = results / "llama/base/predictions/Religion.parquet"
    lost.unlink()
    assert finished.planned() == {"score_items": 1} | TABLES | FIGURES
    finished.run()
    tables = {path for path in before if path.suffix in (".parquet", ".tsv", ".svg")}
    tables -= set(results.rglob("*.benchmark.tsv"))
    assert {path: path.read_bytes() for path in tables} == {path: before[path] for path in tables}
    log = (results / "llama/base/predictions/score_items.log").read_text()
    assert log.count("made already") == 2
    assert "attention" not in log, "a model was loaded"


def test_a_prediction_that_is_to_be_replaced_does_not_stay_when_that_fails(
    workflow, published, tiny_copy
):
    config = study(published, {"qwen2": tiny_copy("qwen2")}) | {"alignments": {}}
    config["evaluation"] = {"attributes": ["Religion", "Age"], "scoring": "letter"}
    config["evaluation"]["blocks_per_attribute"] = 4
    config["evaluation"]["option_orders"] = "given"
    workflow.configure(config)
    workflow.run("predictions")
    table = workflow.folder / "results/tiny/qwen2/base/predictions/Religion.parquet"
    assert pd.read_parquet(table)["order"].unique().tolist() == ["012"]

    config["evaluation"]["option_orders"] = "cyclic"
    workflow.configure(config)
    model = workflow.folder / "resources/models/qwen2"
    weights = model / "model.safetensors"
    weights.rename(model / "away")
    weights.write_bytes(b"no weights")
    failed = workflow.run("predictions", "--rerun-triggers", "params", check=False)
    assert failed.returncode == 1
    assert "score_items" in failed.stderr
    weights.unlink()
    (model / "away").rename(weights)

    again = {"score_items": 1, "predictions": 1}
    assert workflow.planned("predictions", "--rerun-triggers", "params") == again
    workflow.run("predictions", "--rerun-triggers", "params")
    assert pd.read_parquet(table)["order"].nunique() == 3


def test_a_figures_code_reruns_the_figures_only(finished):
    finished.edit("report/figures", "#D55E00", "#D55E01")
    assert finished.planned() == FIGURES
    finished.edit("report/figures", "#D55E01", "#D55E00")


def test_a_comment_reruns_nothing(finished):
    finished.edit("scoring/score", "import logging", "# a comment\nimport logging")
    assert finished.planned() == {}


def test_code_of_scoring_reruns_scoring_and_what_follows_not_training(finished):
    finished.edit("scoring/score", "SECONDS_BETWEEN_REPORTS = 10", "SECONDS_BETWEEN_REPORTS = 11")
    assert finished.planned() == {"score_items": 6} | TABLES | FIGURES
    finished.edit("scoring/score", "SECONDS_BETWEEN_REPORTS = 11", "SECONDS_BETWEEN_REPORTS = 10")


def test_a_new_model_runs_its_own_jobs_only(finished, tiny_folder):
    config = finished.config | {"models": dict(finished.config["models"])}
    config["models"]["llama-again"] = finished.config["models"]["llama-nf4"]
    finished.configure(config)
    try:
        own = {"fetch_model": 1, "quantize_model": 1, "train_dpo": 2, "diagnose_alignment": 2}
        own["score_items"] = 3
        assert finished.planned() == own | TABLES | FIGURES
    finally:
        finished.configure(finished.config)


def test_a_model_made_anew_gives_the_same_bytes(finished):
    results = finished.folder / "results/tiny"
    before = {path: path.read_bytes() for path in sorted(results.glob("*.tsv"))}
    assert len(before) == 8
    shutil.rmtree(results / "llama-nf4")
    finished.run()
    assert {path: path.read_bytes() for path in before} == before


def test_training_goes_on_after_a_kill(workflow, published, tiny_folder, kill):
    config = study(published, {"llama-nf4": tiny_folder("llama")}, epochs=40)
    config["machine"]["checkpoint_steps"] = 5
    workflow.configure(config)
    target = "results/tiny/llama-nf4/gender/seed0/training.tsv"
    checkpoints = workflow.folder / "results/tiny/llama-nf4/gender/.checkpoints-seed0"
    process = workflow.start(target)
    deadline = time.monotonic() + 300
    while not (checkpoints / "checkpoint-10").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    kill(process)
    process.wait()
    assert not (workflow.folder / target).exists()
    assert not list(
        (workflow.folder / "results/tiny/llama-nf4/gender/seed0").rglob("*.safetensors")
    )

    workflow.run("--unlock")
    done = workflow.run(target)
    assert "going on from" in done.stderr
    steps = pd.read_csv(workflow.folder / target, sep="\t")["step"]
    assert list(steps) == list(range(1, 161))
    assert not checkpoints.exists()


def test_scoring_goes_on_after_a_kill(workflow, published, tiny_folder, kill):
    config = study(published, {"qwen2": tiny_folder("qwen2")}) | {"alignments": {}}
    config["evaluation"] = {"attributes": ["Religion", "Age"], "scoring": "letter"}
    config["evaluation"]["blocks_per_attribute"] = 60
    workflow.configure(config)
    predictions = workflow.folder / "results/tiny/qwen2/base/predictions"
    process = workflow.start("predictions")
    deadline = time.monotonic() + 300
    while not (predictions / "Religion.parquet").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    kill(process)
    process.wait()
    assert not (predictions / "Age.parquet").exists()

    workflow.run("--unlock")
    workflow.run("predictions")
    assert "Religion.parquet: made already" in (predictions / "score_items.log").read_text()
    assert pd.read_parquet(predictions / "Age.parquet")["item_id"].nunique() == 240


def test_what_is_there_is_kept_as_long_as_model_items_and_settings_are_the_same(
    workflow, published, tiny_copy
):
    folder = tiny_copy("qwen2")
    config = study(published, {"qwen2": folder}) | {"alignments": {}}
    config["evaluation"] = {"attributes": ["Religion"], "scoring": "letter"}
    config["evaluation"]["blocks_per_attribute"] = 2
    workflow.configure(config)
    workflow.run("predictions")
    predictions = workflow.folder / "results/tiny/qwen2/base/predictions"
    first = pd.read_parquet(predictions / "Religion.parquet")
    assert first.groupby("item_id")["order"].agg(tuple).unique().tolist() == [("012", "120", "201")]

    # another attribute: it alone is scored
    config["evaluation"]["attributes"] = ["Religion", "Age"]
    workflow.configure(config)
    workflow.run("predictions")
    assert "Religion.parquet: made already" in (predictions / "score_items.log").read_text()
    assert set(pd.read_parquet(predictions / "Age.parquet")["item_id"].str.split(":").str[0]) == {
        "Age"
    }
    assert pd.read_parquet(predictions / "Religion.parquet").equals(first)
    assert not (predictions.parent / ".partial-predictions").exists()

    # other weights in the same place: nothing that was computed with the old ones stays
    tiny_models.make(folder, "qwen2", seed=1)
    workflow.run("predictions")
    assert "made already" not in (predictions / "score_items.log").read_text()
    assert not pd.read_parquet(predictions / "Religion.parquet")["logp_0"].equals(first["logp_0"])
