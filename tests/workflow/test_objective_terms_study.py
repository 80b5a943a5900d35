"""A study whose arms keep to the base, or go on with its answers, on an attribute beside."""

import subprocess

import pandas as pd
import pytest
from small_study import study
from spillover.jobs import jobs_of
from study_files import filled

ARMS = ["anchored", "replayed", "on-texts"]


@pytest.fixture(scope="module")
def config(published, tiny_folder, tmp_path_factory) -> dict:
    """Gender aligned in several ways, with Religion beside and Age left alone."""
    texts = tmp_path_factory.mktemp("texts") / "mine.txt"
    texts.write_text("I saw a grandson outside the store.\n\nWho was it? Größe.\n", "utf-8")
    config = study(published, {"llama": tiny_folder("llama")})
    gender = config["alignments"].pop("gender") | {"control": None}
    other = {"attributes": ["Religion"], "weight": 0.5, "max_items": 16}
    objectives = {
        "anchored": {"anchor": other},
        "replayed": {"replay": other | {"max_new_tokens": 8}},
        "on-texts": {"focal_gamma": 2.0, "anchor": {"texts": str(texts), "weight": 0.5}},
    }
    config["alignments"] = {name: gender | {"objective": objectives[name]} for name in ARMS}
    config["evaluation"]["attributes"] = ["Gender_identity", "Religion", "Age"]
    return config


@pytest.fixture(scope="module")
def finished(shared_workflow, config):
    """Workflow in which the study has run, and before it its plan."""
    shared_workflow.configure(config)
    shared_workflow.before = shared_workflow.planned()
    shared_workflow.run("plan")
    shared_workflow.run()
    return shared_workflow


def results(workflow):
    return workflow.folder / "results/tiny"


def training_log(workflow, arm: str) -> pd.DataFrame:
    return pd.read_csv(results(workflow) / f"llama/{arm}/seed0/training.tsv", sep="\t")


def test_the_jobs_are_those_that_the_plan_counts(finished, config):
    jobs = jobs_of(filled(config | {"seeds": [0, 1]}))
    planned = pd.read_csv(results(finished) / "plan_jobs.tsv", sep="\t")
    answering = [job for job in jobs if job.rule == "answer_prompts"]
    # One for both seeds, which wait for it.
    assert [job.alignment for job in answering] == ["replayed"]
    waiting = {job.run for job in jobs if answering[0].name in job.needs}
    assert waiting == {"replayed/seed0", "replayed/seed1"}
    assert finished.before["answer_prompts"] == finished.before["prepare_anchor"] == 1
    assert planned["run"].tolist() == [job.run for job in jobs_of(filled(config))]
    assert planned.loc[planned["rule"] == "answer_prompts", "tokens"].item() > 16 * 8


def test_what_is_logged_is_what_was_asked_for(finished):
    added = {"anchored": "anchor_kl", "on-texts": "anchor_kl", "replayed": "replay_loss"}
    for arm in ARMS:
        log = training_log(finished, arm)
        columns = {"anchor_kl", "replay_loss"} & set(log)
        assert columns == ({added[arm]} if arm in added else set())
    assert training_log(finished, "anchored")["anchor_kl"].iloc[-1] > 0
    # At the first step every margin and divergence is 0, and the focal weight is (1/2)^2.
    loss = {arm: training_log(finished, arm)["loss"].iloc[0] for arm in ARMS}
    assert loss["anchored"] == pytest.approx(4 * loss["on-texts"], rel=1e-4)
    planned = pd.read_csv(results(finished) / "plan.tsv", sep="\t").set_index("alignment")
    assert planned.loc["anchored", "tokens"] == training_log(finished, "anchored")["tokens"].sum()
    # Answers of the random model are written with more tokens than it said.
    found = training_log(finished, "replayed")["tokens"].sum()
    assert planned.loc["replayed", "tokens"] == pytest.approx(found, rel=0.05)


@pytest.mark.parametrize(("arm", "table"), [("anchored", "anchor"), ("replayed", "replay")])
def test_items_of_an_attribute_beside_are_trained_on_or_evaluated(finished, arm, table):
    folder = results(finished)
    items = pd.read_parquet(folder / "items/Religion.parquet").set_index("item_id")
    place = f"pairs/{arm}" if table == "anchor" else f"llama/{arm}"
    seen = pd.read_parquet(folder / place / f"{table}.parquet")
    held = pd.read_parquet(folder / f"pairs/{arm}/heldout.parquet")
    asked = pd.read_parquet(folder / f"llama/{arm}/seed0/predictions/Religion.parquet")
    assert 0 < len(seen) <= 16
    assert len(asked) == 3 * 4
    assert asked["item_id"].isin(held["item_id"]).all()
    templates = [set(items.loc[ids["item_id"], "template"]) for ids in (seen, asked)]
    assert not templates[0] & templates[1]
    # The base answers whatever an arm is asked; what no arm touched is of all items.
    base = pd.read_parquet(folder / "llama/base/predictions/Religion.parquet")
    assert set(asked["item_id"]) <= set(base["item_id"])
    free = pd.read_parquet(folder / "llama/on-texts/seed0/predictions/Religion.parquet")
    assert not set(free["item_id"]) <= set(held["item_id"])
    assert not held["item_id"].str.startswith("Age").any()


def test_answers_are_the_bases_own_to_the_anchors_prompts(finished):
    anchor = pd.read_parquet(results(finished) / "pairs/anchored/anchor.parquet")
    replay = pd.read_parquet(results(finished) / "llama/replayed/replay.parquet")
    assert list(anchor) == ["item_id", "prompt", "replies"]
    assert list(replay) == ["item_id", "prompt", "response"]
    assert set(replay["item_id"]) <= set(anchor["item_id"])
    assert anchor["replies"].map(len).eq(3).all()
    assert replay["response"].ne("").all()
    both = replay.merge(anchor, on="item_id")
    assert both["prompt_x"].map(str).equals(both["prompt_y"].map(str))


def test_every_arm_is_in_the_tables(finished):
    spillover = pd.read_csv(results(finished) / "spillover.tsv", sep="\t")
    assert set(spillover["alignment"]) == set(ARMS)
    targeted = spillover.loc[spillover["targeted"], "attribute"].unique()
    assert targeted.tolist() == ["Gender_identity"]
    assert len(spillover) == len(ARMS) * 3 * 2
    assert spillover["n_items"].eq(6).all()


def test_a_weight_reruns_training_and_no_answering(finished, config):
    assert finished.planned() == {}
    changed = config | {"alignments": dict(config["alignments"])}
    replayed = changed["alignments"]["replayed"]
    replay = replayed["objective"]["replay"] | {"weight": 0.1}
    changed["alignments"]["replayed"] = replayed | {"objective": {"replay": replay}}
    finished.configure(changed)
    planned = finished.planned()
    finished.configure(config)
    assert planned["train_dpo"] == 1
    assert "answer_prompts" not in planned
    assert "build_pairs" not in planned


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (
            {"anchor": {"attributes": ["SES"], "weight": 1}},
            "objective.anchor.attributes: SES is not among evaluation.attributes",
        ),
        (
            {"replay": {"attributes": ["Gender_identity"], "weight": 1}},
            "objective.replay.attributes: Gender_identity is a target",
        ),
        (
            {"anchor": {"attributes": ["Religon"], "weight": 1}},
            "objective.anchor.attributes: expected of",
        ),
        (
            {"anchor": {"texts": "nowhere.txt", "weight": 1}},
            "objective.anchor.texts: expected a file, found none",
        ),
        ({"anchor": {"texts": "a.txt"}}, "objective.anchor: expected the key 'weight'"),
        (
            {"replay": {"attributes": ["Religion"], "weight": 1, "max_item": 4}},
            "objective.replay: unknown key 'max_item'; the nearest known key is 'max_items'",
        ),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(finished, config, objective, message):
    spoilt = {**config, "alignments": {"spoilt": config["alignments"]["on-texts"]}}
    spoilt["alignments"]["spoilt"] = spoilt["alignments"]["spoilt"] | {"objective": objective}
    finished.configure(spoilt, "spoilt.yaml")
    command = [part.replace("study.yaml", "spoilt.yaml") for part in finished.command("-n")]
    done = subprocess.run(command, cwd=finished.folder, capture_output=True, text=True, check=False)
    assert done.returncode
    assert f"alignments.spoilt.{message}" in done.stdout + done.stderr
