"""Several GPUs in one machine: as many jobs at once, each on one of its own."""

import re
import subprocess
import sys
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations
from pathlib import Path

import pretended_gpus
import pytest

SEEDS = [0, 1, 2, 3]
RUNS = ["base", *(f"gender/seed{seed}" for seed in SEEDS)]
ITEMS = "results/tiny/items/Religion.parquet"
WORKSTATION = ("--profile", "profiles/workstation")


@pytest.fixture(scope="module")
def study(shared_workflow, published, tiny_folder):
    """One model aligned with four seeds. With no GPU that torch finds, it computes on a CPU."""
    shared_workflow.configure(
        {
            "study": "tiny",
            "bbq": {"type": "path", "path": str(published)},
            "models": {
                "llama": {
                    "source": {"type": "path", "path": str(tiny_folder("llama"))},
                    "quantization": "none",
                    "dtype": "float32",
                }
            },
            "alignments": {
                "gender": {
                    "target": ["Gender_identity"],
                    "pairs": {"max_items": 16},
                    "training": {"pairs_per_step": 8},
                }
            },
            "seeds": SEEDS,
            "evaluation": {
                "attributes": ["Gender_identity", "Religion"],
                "blocks_per_attribute": 3,
            },
            "machine": {"device": "auto"},
        }
    )
    return shared_workflow


def run(study, environment: dict[str, str], *arguments: str) -> str:
    """What Snakemake prints."""
    command = [sys.executable, "-m", "snakemake", *arguments, "--configfile", "study.yaml"]
    done = subprocess.run(
        command, cwd=study.folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@dataclass
class Job:
    """When a job had which GPU, and whether it waited for that."""

    gpu: str
    start: datetime
    end: datetime
    waited: bool

    def overlaps(self, other: "Job") -> bool:
        return self.start < other.end and other.start < self.end


def job(log: Path) -> Job:
    text = log.read_text()
    time, gpu = re.search(r"^(\S+ \S+) INFO spillover.core.gpus: GPU (\S+)$", text, re.M).groups()
    return Job(
        gpu=gpu,
        start=datetime.strptime(time, "%Y-%m-%d %H:%M:%S,%f"),
        end=datetime.fromtimestamp(log.stat().st_mtime),
        waited="waiting for a GPU" in text,
    )


def on_one_gpu_at_once(jobs: list[Job]) -> list[tuple[Job, Job]]:
    """Pairs of jobs that had the same GPU at the same time."""
    return [
        (one, other)
        for one, other in combinations(jobs, 2)
        if one.gpu == other.gpu and one.overlaps(other)
    ]


@pytest.mark.parametrize(
    ("arguments", "at_once"),
    [
        ([], 1),
        (["--resources", "mem_mb=64000"], 1),
        (WORKSTATION, 4),
        ([*WORKSTATION, "--resources", "gpu=3"], 3),
    ],
)
def test_a_profile_or_the_command_line_says_how_many_jobs_have_gpus(
    study, tmp_path, arguments, at_once
):
    environment = pretended_gpus.environment(tmp_path)
    output = run(study, environment, ITEMS, "--forceall", "--cores", "2", *arguments)
    # gpu=4, or in some versions gpu=Resource("gpu", 4)
    assert int(re.search(r"Provided resources: .*\bgpu=\D*(\d+)", output)[1]) == at_once
    note = f"GPUs in sight: 4; jobs that may have one at once: {at_once} ("
    assert (note in output) == (at_once != 4)


@pytest.mark.parametrize(
    ("arguments", "threads"), [([], 8), (WORKSTATION, 4), ([*WORKSTATION, "--cores", "2"], 1)]
)
def test_jobs_that_run_at_once_share_the_cores(study, tmp_path, arguments, threads):
    environment = pretended_gpus.environment(tmp_path)
    training = f"results/tiny/llama/{RUNS[1]}/training.tsv"
    cores = [] if "--cores" in arguments else ["--cores", "16"]
    output = run(study, environment, training, "--dry-run", "--forceall", *cores, *arguments)
    (of_training,) = re.findall(r"rule train_dpo:\n(?:    .*\n)*?    threads: (\d+)", output) or "1"
    assert int(of_training) == threads


@pytest.fixture(scope="module")
def trained(study, tmp_path_factory):
    """The study with all its adapters, trained on four GPUs."""
    environment = pretended_gpus.environment(tmp_path_factory.mktemp("four"))
    targets = [f"results/tiny/llama/{name}/training.tsv" for name in RUNS[1:]]
    run(study, environment, *targets, "--cores", "4", *WORKSTATION)
    return study


def test_jobs_at_once_have_a_gpu_each(trained):
    folder = trained.folder / "results/tiny/llama"
    jobs = [job(folder / name / "train_dpo.log") for name in RUNS[1:]]
    assert {job.gpu for job in jobs} == set(pretended_gpus.UUIDS)
    assert all(one.overlaps(other) for one, other in combinations(jobs, 2))
    assert not any(job.waited for job in jobs)


def test_jobs_too_many_wait_for_a_gpu(trained, tmp_path):
    environment = pretended_gpus.environment(tmp_path, pretended_gpus.UUIDS[:2])
    three = RUNS[:3]
    targets = [f"results/tiny/llama/{name}/predictions/Religion.parquet" for name in three]
    output = run(trained, environment, *targets, "--cores", "4", *WORKSTATION)
    assert "at once: 4; jobs too many wait for one (" in output
    assert "waiting for a GPU: other jobs have all of them (2)" in output
    folder = trained.folder / "results/tiny/llama"
    jobs = [job(folder / name / "predictions" / "score_items.log") for name in three]
    assert {job.gpu for job in jobs} == set(pretended_gpus.UUIDS[:2])
    assert not on_one_gpu_at_once(jobs)
    assert any(job.waited for job in jobs)
