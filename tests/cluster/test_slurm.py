"""The workflow on a real SLURM: what jobs ask for, what they survive."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import faults
import psutil
import pytest
import slurm
from checkout import Workflow
from faults import wait_for
from snakemake.utils import available_cpu_count
from spillover.core import cluster as plugin

PROFILE = ("--profile", "profiles/slurm")
# Jobs of seconds are looked at sooner than those of hours.
SOON = (*PROFILE, "--slurm-init-seconds-before-status-checks", "3")
LONG = 900
# Of the rules that have several; the profile sets none.
THREADS = {"quantize_model": 2, "train_dpo": 8, "diagnose_alignment": 2, "score_items": 4}


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    import tiny_models

    return tiny_models.make(tmp_path_factory.mktemp("model") / "model", "llama")


@pytest.fixture(scope="session")
def undisturbed(published, model, tmp_path_factory):
    """Results of the study on this machine, without a cluster and without a fault.

    With as many threads a job as on the cluster, for how a product is divided among them moves its
    last bits: what the profile leaves the rules, but no more than the machine has.
    """
    workflow = Workflow(tmp_path_factory.mktemp("undisturbed") / "checkout")
    workflow.configure(study(published, model))
    here = available_cpu_count()
    threads = [f"{rule}={min(most, here)}" for rule, most in THREADS.items()]
    process = faults.driver(workflow, "--cores", str(slurm.CPUS), "--set-threads", *threads)
    assert process.wait(LONG) == 0, log(workflow)
    return faults.results(workflow)


def study(data: Path, model: Path) -> dict:
    """Long enough for faults to come in time: a cluster takes seconds for each."""
    return faults.study(data, model, epochs=60)


def log(workflow) -> str:
    return (workflow.folder / "driver.log").read_text()


def comment(rule: str, *wildcards: str) -> str:
    return plugin.comment(rule, wildcards)


def training(alignment: str) -> str:
    return comment("train_dpo", faults.STUDY, faults.MODEL, alignment, "0")


def scoring(run: str) -> str:
    return comment("score_items", faults.STUDY, faults.MODEL, run)


def job_at_work(site, comment: str, seconds: float = LONG) -> str:
    """Wait until a job is running; its number."""

    def running():
        return [j["id"] for j in site.jobs("RUNNING") if j["comment"] == comment]

    return wait_for(running, seconds, 0.2)[-1]


def checkpoint(workflow, alignment: str, step: int) -> None:
    """Wait until training has written a checkpoint of this step or a later one."""
    folder = workflow.folder / "results" / faults.STUDY / faults.MODEL / alignment

    def steps():
        found = folder.glob(".checkpoints-seed0/checkpoint-*/whole.json")
        return any(int(path.parent.name.split("-")[1]) >= step for path in found)

    wait_for(steps, LONG, 0.05)


def script_of(workflow, rule: str) -> psutil.Process:
    """The process in which a job's script runs."""

    def found():
        scripts = faults.orphans(workflow)
        with suppress(psutil.Error):
            return [script for script in scripts if script.cmdline()[-1].endswith(f"{rule}.py")]

    return wait_for(found, LONG, 0.1)[0]


def test_a_study_runs_by_the_profile_alone_where_no_accounts_are_kept(
    site, workflow, published, model, undisturbed
):
    cluster = site(accounting=False)
    workflow.configure(study(published, model))
    process = faults.driver(workflow, *PROFILE)
    shown = {}

    def ended():
        for job in cluster.jobs():
            with suppress(RuntimeError):
                shown.setdefault(job["comment"], cluster.show(job["id"]))
        return process.poll() is not None

    wait_for(ended, LONG)
    assert process.returncode == 0, log(workflow)
    assert faults.different(workflow, undisturbed) == []

    # Jobs tell model, run and attribute, and ask for what the profile says.
    asked = {
        name: (job["NumCPUs"], job["MinMemoryNode"], job["TimeLimit"], job.get("TresPerJob"))
        for name, job in shown.items()
        if name.startswith(("rule_train", "rule_score", "rule_quantize", "rule_diagnose"))
    }
    gpu = "gres:gpu:1"
    assert asked == {
        comment("quantize_model", faults.MODEL): ("2", "32000M", "01:00:00", None),
        **{
            training(name): (str(THREADS["train_dpo"]), "32000M", "12:00:00", gpu)
            for name in ("gender", "shuffled")
        },
        **{
            comment("diagnose_alignment", faults.STUDY, faults.MODEL, name, "0"): (
                ("2", "24000M", "02:00:00", gpu)
            )
            for name in ("gender", "shuffled")
        },
        **{
            scoring(run): ("4", "24000M", "04:00:00", gpu)
            for run in ("base", "gender_seed0", "shuffled_seed0")
        },
    }
    # What needs the network, or takes seconds, is no job of the cluster.
    others = {name.split("_wildcards_")[0] for name in shown} - {
        name.split("_wildcards_")[0] for name in asked
    }
    assert others == {"rule_compute_metrics", "rule_test_spillover", "rule_test_contrasts"}


def test_a_driver_that_is_killed_leaves_jobs_that_the_next_waits_for(
    site, workflow, published, model, undisturbed
):
    cluster = site(accounting=False)
    workflow.configure(study(published, model))
    process = faults.driver(workflow, *SOON)
    left = job_at_work(cluster, training("gender"))
    checkpoint(workflow, "gender", 4)
    # What is left stands still until the next start has seen it.
    scripts = faults.orphans(workflow)
    for script in scripts:
        script.suspend()
    process.kill()
    process.wait()
    subprocess.run(
        [sys.executable, "-m", "snakemake", "--unlock", "--configfile", "study.yaml"],
        cwd=workflow.folder,
        check=True,
        capture_output=True,
    )
    process = faults.driver(workflow, *SOON, log="next.log")
    said = workflow.folder / "next.log"
    left_behind = rf"an earlier start has left jobs in the queue .*scancel [\d ]*\b{left}\b"
    wait_for(lambda: re.search(left_behind, said.read_text()) or process.poll() is not None, LONG)
    for script in scripts:
        script.resume()
    assert process.wait(LONG) == 0, said.read_text()
    # Each was trained once: by the job that was left.
    trained = [job for job in cluster.jobs() if job["comment"] == training("gender")]
    ours = [job["id"] for job in trained if job["folder"] == str(workflow.folder)]
    assert ours == [left]
    assert faults.different(workflow, undisturbed) == []


def test_the_controller_may_be_away_for_a_minute(site, workflow, published, model, undisturbed):
    cluster = site(accounting=False)
    workflow.configure(study(published, model))
    target = f"results/{faults.STUDY}/{faults.MODEL}/gender/seed0/training.tsv"
    process = faults.driver(workflow, target, *SOON)
    job_at_work(cluster, training("gender"))
    cluster.stop_controller()
    time.sleep(60)  # some looks
    cluster.start_controller()
    assert process.wait(LONG) == 0, log(workflow)
    assert faults.different(workflow, undisturbed, partial=True) == []


def test_sacct_without_accounts_is_refused_in_a_line(site, workflow, published, model):
    site(accounting=False)
    workflow.configure(study(published, model))
    process = faults.driver(workflow, *PROFILE, "--slurm-status-command", "sacct")
    try:
        assert process.wait(120) == 1
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert "this cluster keeps no accounts" in log(workflow)
    assert "--slurm-status-command squeue" in log(workflow)
    assert "has been submitted" not in log(workflow)


def test_jobs_are_cancelled_requeued_and_killed(site, workflow, published, model, undisturbed):
    cluster = site(accounting=True)
    workflow.configure(study(published, model))
    process = faults.driver(workflow, *SOON)
    logs = workflow.folder / "results" / faults.STUDY / faults.MODEL

    # Scoring is put back into the queue, which the profile forbids SLURM to do by itself.
    base = job_at_work(cluster, scoring("base"))
    slurm.run("scontrol", "update", f"JobId={base}", "Requeue=1")
    slurm.run("scontrol", "requeue", base)

    first = job_at_work(cluster, training("gender"))
    checkpoint(workflow, "gender", 4)
    slurm.run("scancel", first)

    cluster.stop_controller()
    cluster.start_controller()
    slurm.run("scontrol", "update", f"NodeName={cluster.host}", "State=DRAIN", "Reason=test")
    slurm.run("scontrol", "update", f"NodeName={cluster.host}", "State=RESUME")

    job_at_work(cluster, training("gender"))
    script_of(workflow, "train_dpo").kill()

    aligned = job_at_work(cluster, scoring("shuffled_seed0"))
    slurm.run("scancel", aligned)

    assert process.wait(LONG) == 0, log(workflow)
    assert "going on from" in (logs / "gender/seed0/train_dpo.log").read_text()
    assert faults.different(workflow, undisturbed) == []
    assert faults.leftovers(workflow) == []


def test_training_writes_a_checkpoint_before_its_time_is_up(
    site, workflow, published, model, undisturbed
):
    cluster = site(accounting=True)
    workflow.configure(study(published, model))
    target = f"results/{faults.STUDY}/{faults.MODEL}/gender/seed0/training.tsv"
    process = faults.driver(workflow, target, *SOON)
    job = job_at_work(cluster, training("gender"))
    checkpoint(workflow, "gender", 8)
    # The profile asks for a signal three minutes before the end. SLURM looks at limits twice a
    # minute: until then training stands still. With its signal SLURM lets it go on.
    script_of(workflow, "train_dpo").suspend()
    slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=3")
    said = r"ended by SIGTERM at step (\d+) of \d+; the checkpoint is written"
    step = int(wait_for(lambda: re.search(said, log(workflow)), LONG)[1])
    assert process.wait(LONG) == 0, log(workflow)
    again = (workflow.folder / target).with_name("train_dpo.log").read_text()
    # Nothing is done twice.
    assert f"checkpoint-{step}" in re.search(r"going on from (.*)", again)[1]
    assert faults.different(workflow, undisturbed, partial=True) == []


def test_a_node_fails_while_jobs_run(site, workflow, published, model, undisturbed):
    cluster = site(accounting=True)
    workflow.configure(study(published, model))
    folder = f"results/{faults.STUDY}/{faults.MODEL}"
    targets = (f"{folder}/gender/seed0/training.tsv", f"{folder}/base/predictions/Religion.parquet")
    process = faults.driver(workflow, *targets, *SOON)
    job_at_work(cluster, training("gender"))
    checkpoint(workflow, "gender", 4)
    cluster.stop_node()
    for of_a_job in faults.orphans(workflow, "--target-jobs"):
        of_a_job.kill()
    wait_for(lambda: "down" in slurm.run("sinfo", "-h", "-o", "%T"), 120)
    cluster.start_node()
    slurm.run("scontrol", "update", f"NodeName={cluster.host}", "State=RESUME", check=False)
    # The plugin excludes a failed node, rightly; here that is the whole cluster, and this start
    # ends. It leaves nothing in the queue, and the next one goes on.
    if process.wait(LONG):
        assert "excluded from subsequent submissions" in log(workflow)
        assert cluster.jobs("PENDING,RUNNING") == []
        assert faults.driver(workflow, *targets, *SOON).wait(LONG) == 0, log(workflow)
    assert "going on from" in (workflow.folder / targets[0]).with_name("train_dpo.log").read_text()
    assert faults.different(workflow, undisturbed, partial=True) == []
