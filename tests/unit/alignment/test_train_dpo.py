"""The script of the rule train_dpo: what it passes on, and what it writes where."""

import contextlib
import importlib.util
import os
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from preferences import make_pairs
from spillover.alignment import plan
from spillover.core import finished, logs
from spillover.core.files import write_table

SCRIPT = Path(__file__).parents[3] / "workflow" / "scripts" / "train_dpo.py"


class Outputs(SimpleNamespace):
    """Of a rule, as Snakemake gives them: by name, and one after the other."""

    def __iter__(self):
        return iter(vars(self).values())

    def get(self, name, default=None):
        return getattr(self, name, default)


@pytest.fixture
def train(tiny_folder, tmp_path, monkeypatch):
    """Run the script as Snakemake would, on a tiny model; the folder of its results."""
    # pytest holds the streams that a job's log would take.
    monkeypatch.setattr(logs, "log_to", lambda path: contextlib.nullcontext())
    # The script sets these for its process: bring them back behind it.
    monkeypatch.setattr(os, "environ", os.environ.copy())

    def run(report_to=()) -> Path:
        write_table(make_pairs(8, "three_option"), tmp_path / "train.parquet")
        seed = tmp_path / "seed0"
        machine = {"device": "cpu", "gpu_memory": None, "training_tokens_per_batch": None}
        machine |= {"checkpoint_steps": 1, "checkpoint_minutes": 10, "report_to": list(report_to)}
        config = {"evaluation": {"scoring": "letter", "cloze": {}}, "alignments": {}}
        config["companions"] = {"sets": [], "own": {}}
        snakemake = SimpleNamespace(
            input=SimpleNamespace(
                pairs=tmp_path / "train.parquet",
                anchor=[],
                replay=[],
                model=tiny_folder("llama"),
            ),
            output=Outputs(
                weights=str(seed / "adapter" / "adapter_model.safetensors"),
                config=str(seed / "adapter" / "adapter_config.json"),
                card=str(seed / "adapter" / "README.md"),
                training=str(seed / "training.tsv"),
                speed=str(seed / "training_speed.tsv"),
            ),
            log=[str(seed / "train_dpo.log")],
            threads=1,
            resources={},
            config=config | {"machine": machine},
            params=SimpleNamespace(
                model={"quantization": "none", "dtype": "float32"},
                code="",
                objective={},
                lora={},
                training={"pairs_per_step": 8},
                data={
                    "target": ["Age"],
                    "pairs": {"format": "three_option", "preferences": "correct"},
                },
                checkpoints=str(tmp_path / ".checkpoints-seed0"),
                finished=str(tmp_path / ".finished-seed0"),
            ),
            wildcards=SimpleNamespace(study="tiny", seed="0"),
        )
        runpy.run_path(str(SCRIPT), init_globals={"snakemake": snakemake})
        return seed

    return run


def test_results_are_in_their_places_and_the_plans_tokens_are_used(train, tmp_path, monkeypatch):
    whole = pd.read_csv(train() / "training.tsv", sep="\t")
    finished.discard(tmp_path / ".finished-seed0")
    monkeypatch.setattr(plan, "passes", lambda job, machine: {"tokens_per_batch": 1})
    seed = train()
    log = pd.read_csv(seed / "training.tsv", sep="\t")
    # One item at a time: what items begin with runs once an item, not once a step.
    assert (log["tokens"] > whole["tokens"]).all()
    assert (seed / "adapter" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / ".checkpoints-seed0").exists()
    speed = pd.read_csv(seed / "training_speed.tsv", sep="\t")
    assert speed["step"].tolist() == log["step"].tolist() == [1, 2]
    product = speed["tokens_per_second"] * speed["seconds"]
    assert product.to_numpy() == pytest.approx(log["tokens"].to_numpy())
    assert speed["device"].str.fullmatch(r"CPU, (1 thread|\d+ threads)").all()
    assert speed["versions"].str.contains("torch ").all()
    assert not any("second" in column for column in log)
    assert not (seed / "tracking").exists()


def test_what_has_been_finished_unseen_is_not_trained_again(train, tmp_path, monkeypatch):
    seed = train()
    files = {file: file.read_bytes() for file in seed.rglob("*") if file.is_file()}
    # As Snakemake does with what a job has made whose end it has not seen.
    shutil.rmtree(seed)
    monkeypatch.setattr(plan, "passes", lambda job, machine: pytest.fail("trained again"))
    train()
    assert {file: file.read_bytes() for file in files} == files
    train()  # with everything in its place
    assert not [path for path in tmp_path.rglob(".*") if path.name != ".finished-seed0"]


@pytest.mark.parametrize(
    ("tracker", "file"),
    [("tensorboard", "events.out.tfevents.*"), ("wandb", "offline-run-*/*.wandb")],
)
def test_trackers_write_beside_the_training_log(train, tracker, file):
    if importlib.util.find_spec(tracker) is None:
        pytest.skip(f"{tracker} is not installed; the project does not need it")
    seed = train(report_to=[tracker])
    written = list((seed / "tracking").rglob(file))
    assert written
    # Nothing but the results and the tracker's folder: not in the checkpoints, not in ./runs.
    assert not Path("runs").exists()
    assert {path.name for path in seed.iterdir()} == {
        "adapter",
        "tracking",
        "training.tsv",
        "training_speed.tsv",
    }
    if tracker == "tensorboard":
        assert b"tokens_per_second" in b"".join(path.read_bytes() for path in written)
