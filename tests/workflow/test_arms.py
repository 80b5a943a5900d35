"""What is derived, on the way of a training, or compared as an arm: through the whole workflow."""

import numpy as np
import pandas as pd
import pytest
from small_study import study

PREDICTED = ["logp_0", "logp_1", "logp_2"]
# Of the figures those that only such a study has.
FIGURES = ["ranking_llama", "along_training_gender_llama", "along_items_gender_llama"]
TARGETS = ["adapters", "predictions", "tables"]
TARGETS += [f"results/tiny/figures/{name}.svg" for name in FIGURES]


@pytest.fixture(scope="module")
def finished(shared_workflow, published, tiny_folder):
    """A study of one model with an arm of every kind that needs no training of its own."""
    config = study(published, {"llama": tiny_folder("llama")})
    alignments = config["alignments"]
    alignments["smaller"] = alignments["gender"] | {"pairs": {"max_items": 8}, "control": None}
    alignments["religion"] = alignments["smaller"] | {"target": ["Religion"]}
    alignments |= {
        "none": {"derive": {"from": "gender", "strength": 0}},
        "half": {"derive": {"from": "gender", "strength": 0.5}},
        "whole": {"derive": {"from": "gender", "strength": 1.0}},
        "rank-2": {"derive": {"from": "gender", "truncate_rank": 2}},
        "all-ranks": {"derive": {"from": "gender", "truncate_rank": 99}},
        "alone": {"derive": {"merge": ["gender"], "method": "linear"}},
        "both": {"derive": {"merge": ["gender", "religion"], "method": "cat"}},
    }
    config["evaluation"] |= {
        "checkpoints": [0.25, 0.5],
        "attributes": ["Gender_identity", "Religion", "Age"],
    }
    config["ranking"] = {"reference": "gender", "arms": ["smaller", "half", "both"]}
    shared_workflow.config = config
    shared_workflow.configure(config)
    shared_workflow.run(*TARGETS)
    return shared_workflow


def table(workflow, name: str) -> pd.DataFrame:
    return pd.read_csv(workflow.folder / f"results/tiny/{name}.tsv", sep="\t")


def answers(workflow, run: str, attribute: str = "Age") -> np.ndarray:
    path = workflow.folder / f"results/tiny/llama/{run}/predictions/{attribute}.parquet"
    return pd.read_parquet(path)[PREDICTED].to_numpy()


@pytest.mark.parametrize(
    ("run", "same_as"),
    [
        ("none/seed0", "base"),
        ("whole/seed0", "gender/seed0"),
        ("all-ranks/seed0", "gender/seed0"),
        ("alone/seed0", "gender/seed0"),
    ],
)
def test_what_changes_nothing_gives_the_same_answers(finished, run, same_as):
    assert np.abs(answers(finished, run) - answers(finished, same_as)).max() < 1e-4
    other = "gender/seed0" if same_as == "base" else "base"
    assert np.abs(answers(finished, run) - answers(finished, other)).max() > 1e-2


def test_what_is_derived_is_evaluated_on_what_its_sources_held_out(finished):
    pairs = finished.folder / "results/tiny/pairs"
    held = {
        name: set(pd.read_parquet(pairs / name / "heldout.parquet")["item_id"])
        for name in ("gender", "religion", "half", "both")
    }
    assert held["half"] == held["gender"]
    assert held["both"] == held["gender"] | held["religion"]
    spillover = table(finished, "spillover").set_index(["alignment", "attribute"])
    assert spillover.loc[("both", "Religion"), "targeted"].all()
    assert not spillover.loc[("half", "Religion"), "targeted"].any()


def test_derived_adapters_are_folders_that_peft_loads(finished, tiny_folder):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run = finished.folder / "results/tiny/llama/both/seed0"
    assert (run / "adapter/README.md").is_file()
    base = AutoModelForCausalLM.from_pretrained(tiny_folder("llama"))
    PeftModel.from_pretrained(base, run / "adapter")
    # At a strength there is no adapter of its own.
    assert not (finished.folder / "results/tiny/llama/half/seed0/adapter").exists()


def test_every_series_is_followed(finished):
    trajectory = table(finished, "trajectory")
    points = trajectory[trajectory["minus"].isna()].groupby(["along", "of"])["at"].unique()
    assert {key: sorted(at) for key, at in points.items()} == {
        ("training", "gender"): [0.25, 0.5, 1],
        ("training", "smaller"): [0.25, 0.5, 1],
        ("training", "religion"): [0.25, 0.5, 1],
        ("items", "gender"): [8, 16],
        ("strength", "gender"): [0, 0.5, 1],
        ("rank", "gender"): [2, 16, 99],
    }
    end = trajectory[(trajectory["along"] == "training") & (trajectory["at"] == 1)]
    spillover = table(finished, "spillover")
    joined = end[end["minus"].isna()].merge(spillover, on=["alignment", "attribute", "context"])
    assert len(joined) == 4 * 3 * 2  # gender, its control, smaller, religion
    assert np.allclose(joined["delta_accuracy_x"], joined["delta_accuracy_y"])
    at_0 = trajectory[(trajectory["along"] == "strength") & (trajectory["at"] == 0)]
    assert at_0["delta_accuracy"].eq(0).all()
    timing = table(finished, "timing")
    assert set(timing["of"]) == {"gender", "shuffled", "smaller", "religion"}


def test_arms_are_ranked_by_attributes_that_none_was_trained_on(finished):
    ranking = table(finished, "ranking")
    assert set(ranking["arm"]) == {"gender", "smaller", "half", "both"}
    assert set(ranking["worst_attribute"]) == {"Age"}
    assert (ranking.loc[ranking["arm"] == "gender", "verdict"] == "reference").all()
    figures = finished.folder / "results/tiny/figures"
    for name in FIGURES:
        assert (figures / f"{name}.svg").stat().st_size > 5_000


def test_nothing_is_left_to_do(finished):
    assert finished.planned(*TARGETS) == {}


def test_a_further_arm_runs_its_own_jobs_and_the_tables_only(finished):
    config = finished.config
    arm = {"derive": {"from": "gender", "truncate_rank": 1}}
    finished.configure(config | {"alignments": config["alignments"] | {"rank-1": arm}})
    planned = finished.planned()
    assert planned["derive_adapter"] == planned["inherit_heldout"] == 1
    # Its own, and the base's, which finds that what it answers is there already.
    assert planned["score_items"] == 2
    assert not {"train_dpo", "build_pairs", "prepare_items"} & set(planned)
    finished.configure(config)


def test_what_is_kept_on_the_way_changes_no_bit_of_the_end(
    finished, workflow, published, tiny_folder
):
    workflow.configure(study(published, {"llama": tiny_folder("llama")}))
    run = "results/tiny/llama/gender/seed0"
    workflow.run(f"{run}/adapter/adapter_model.safetensors")
    for file in ("adapter/adapter_model.safetensors", "adapter/README.md", "training.tsv"):
        assert (workflow.folder / run / file).read_bytes() == (
            finished.folder / run / file
        ).read_bytes()
