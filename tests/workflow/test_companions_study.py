"""Companion sets through the whole workflow: fetched, sampled, scored, compared."""

import random
import shutil

import faults
import pandas as pd
import pytest
from faults import wait_for
from small_study import study

SETS = ["winogender", "piqa", "mine"]
MOVED = {
    "winogender": {"changed", "option_kl"},
    "piqa": {"changed", "changed_letter", "option_kl"},
    "mine": set(),
}
TARGETS = [
    "results/tiny/forgetting.tsv",
    "results/tiny/tradeoff.tsv",
    "results/tiny/figures/tradeoff_llama.svg",
    "companions",
]
TABLES = {"test_forgetting": 1, "test_tradeoff": 1, "plot_tradeoff": 1, "companions": 1}


@pytest.fixture(scope="module")
def finished(shared_workflow, published, tiny_folder, companion_files, tmp_path_factory):
    """A study with an alignment, its control, and the base again as an alignment of strength 0."""
    config = study(published, {"llama": tiny_folder("llama")})
    config["alignments"]["nothing"] = {"derive": {"from": "gender", "strength": 0}}
    config["evaluation"] |= {
        "attributes": ["Gender_identity"],
        "blocks_per_attribute": 1,
        "checkpoints": [0.5],
    }
    texts = tmp_path_factory.mktemp("texts") / "mine.csv"
    lines = [f"{n // 2},I saw {n} grandsons outside the store" for n in range(20)]
    texts.write_text("\n".join(["by,text", *lines]))
    mine = {"path": str(texts), "text": "text", "cluster": "by"}
    config["companions"] = {"sets": SETS, "max_items": 12, "own": {"mine": mine}}
    shared_workflow.config = config
    shared_workflow.configure(config)
    shared_workflow.run(*TARGETS)
    return shared_workflow


def forgetting(workflow) -> pd.DataFrame:
    return pd.read_csv(workflow.folder / "results/tiny/forgetting.tsv", sep="\t")


def test_every_measure_of_every_alignment_has_a_row(finished):
    table = forgetting(finished)
    keys = ["alignment", "minus", "set"]
    assert table.fillna({"minus": ""}).groupby(keys)["measure"].agg(set).to_dict() == {
        (alignment, minus, name): {
            "winogender": {"accuracy", "accuracy_norm", "accuracy_gap"},
            "piqa": {"accuracy", "accuracy_norm", "accuracy_letter"},
            "mine": {"logp_per_token", "logp_per_byte"},
        }[name]
        | (set() if minus else MOVED[name])
        for alignment, minus in (
            ("gender", ""),
            ("gender", "shuffled"),
            ("shuffled", ""),
            ("nothing", ""),
        )
        for name in SETS
    }
    assert table["n_items"].eq(12).all()
    assert table["value"].notna().all()
    moved = table[(table["alignment"] == "gender") & (table["measure"] == "option_kl")]
    assert (moved["value"] > 1e-6).all()


def test_a_run_that_is_the_base_again_has_changed_nothing(finished):
    nothing = forgetting(finished).query("alignment == 'nothing'")
    compared = nothing[nothing["change"].notna()]
    assert len(compared) == 8
    assert (compared["change"] == 0).all()
    assert (compared["p"] == 1).all()
    distances = nothing[nothing["change"].isna()]["value"]
    assert (distances < 1e-6).all()


def test_a_set_is_scored_alone_and_nothing_is_left_to_do(finished):
    assert finished.planned(*TARGETS) == {}
    path = finished.folder / "results/tiny/llama/base/companions/piqa.parquet"
    before = path.read_bytes()
    path.unlink()
    assert finished.planned(*TARGETS) == {"score_companions": 1} | TABLES
    finished.run(*TARGETS)
    assert path.read_bytes() == before
    assert "made already" in path.with_suffix(".log").read_text()


def test_a_further_set_runs_its_own_jobs_only(finished):
    more = finished.config["companions"] | {"sets": [*SETS, "crows_pairs"]}
    config = finished.config | {"companions": more}
    finished.configure(config)
    planned = finished.planned(*TARGETS)
    finished.configure(finished.config)
    # The base, three alignments, and two of them half way.
    assert planned == {"prepare_companions": 1, "score_companions": 6} | TABLES


def test_runs_on_the_way_are_part_of_the_tradeoff(finished):
    results = finished.folder / "results/tiny"
    runs = pd.read_csv(results / "tradeoff_runs.tsv", sep="\t")
    assert set(runs["run"]) == {
        "gender/seed0",
        "gender/seed0@0.50",
        "shuffled/seed0",
        "shuffled/seed0@0.50",
        "nothing/seed0",
    }
    assert set(runs["quantity"]) == {"language", "ability", "fairness"}
    nothing = runs[runs["run"] == "nothing/seed0"]
    assert (nothing[["change", "low", "high"]] == 0).all(axis=None)
    table = pd.read_csv(results / "tradeoff.tsv", sep="\t")
    assert table[["x", "y"]].to_numpy().tolist() == [
        ["language", "ability"],
        ["language", "fairness"],
    ]
    assert table["n_runs"].eq(5).all()
    assert (results / "figures/tradeoff_llama.svg").stat().st_size > 5_000


def test_a_set_whose_job_is_killed_goes_on_from_its_finished_blocks(finished):
    config = finished.config | {
        "companions": {"sets": ["crows_pairs"], "max_items": None},
        # Small batches, so that there is time to meet it at work.
        "machine": finished.config["machine"] | {"tokens_per_batch": 64},
    }
    finished.configure(config)
    path = finished.folder / "results/tiny/llama/base/companions/crows_pairs.parquet"
    target = str(path.relative_to(finished.folder))
    finished.run(target)
    undisturbed = path.read_bytes()
    shutil.rmtree(path.parent)
    process = faults.driver(finished, target, "--cores", "1")
    partial = path.parent / ".partial-crows_pairs" / "blocks.jsonl"
    wait_for(lambda: partial.exists() and partial.read_bytes().count(b"\n") > 20, every=0.02)
    faults.kill_everything(process, random.Random(0))
    assert not path.exists()
    finished.run("--unlock")
    finished.run(target)
    assert "blocks are done already" in path.with_suffix(".log").read_text()
    assert path.read_bytes() == undisturbed
    assert not partial.parent.exists()
    finished.configure(finished.config)
