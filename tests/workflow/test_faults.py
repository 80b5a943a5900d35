"""A study on one machine that is killed, or runs out of disk, and goes on."""

import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import faults
import pytest
from faults import wait_for


@pytest.fixture(scope="module")
def undisturbed(shared_workflow, published, tiny_folder):
    """Results of the study without a fault."""
    shared_workflow.configure(faults.study(published, tiny_folder("llama")))
    shared_workflow.run()
    assert faults.leftovers(shared_workflow) == []
    return faults.results(shared_workflow)


def test_kills_at_random_change_nothing(workflow, published, tiny_folder, undisturbed):
    # Twenty are made by benchmarks/faults.py; these few come late enough to meet jobs.
    workflow.configure(faults.study(published, tiny_folder("llama")))
    record, _ = faults.kill_at_random(workflow, random.Random(0), kills=4, longest=40)
    assert record
    assert faults.different(workflow, undisturbed) == []
    assert faults.leftovers(workflow) == []


def test_what_a_job_finishes_after_its_driver_was_killed_is_not_made_again(
    workflow, published, tiny_folder, undisturbed
):
    workflow.configure(faults.study(published, tiny_folder("llama")))
    run = workflow.folder / "results" / faults.STUDY / faults.MODEL / "gender/seed0"
    target = str((run / "training.tsv").relative_to(workflow.folder))
    process = faults.driver(workflow, target, "--cores", "2")
    wait_for(lambda: list(run.parent.glob(".checkpoints-seed0/checkpoint-*")))
    process.kill()
    process.wait()
    wait_for(lambda: not faults.orphans(workflow))
    workflow.run("--unlock")
    # A start that does not need the training leaves what is kept of it.
    workflow.run(f"results/{faults.STUDY}/items/Religion.parquet", "--forceall")
    workflow.run(target)
    assert "made already, of the same" in (run / "train_dpo.log").read_text()
    assert faults.different(workflow, undisturbed, partial=True) == []
    assert faults.leftovers(workflow) == []


def test_files_that_are_removed_are_made_again(shared_workflow, undisturbed):
    folder = shared_workflow.folder / "results" / faults.STUDY
    run = folder / faults.MODEL / "gender/seed0"
    shutil.rmtree(run / "predictions")
    (folder / "spillover.tsv").unlink()
    (folder / "figures/bias_scores_gender.svg").unlink()
    shared_workflow.run()
    assert faults.different(shared_workflow, undisturbed) == []
    shutil.rmtree(run / "adapter")
    shared_workflow.run()
    assert faults.different(shared_workflow, undisturbed) == []


@pytest.fixture
def disk(workflow):
    """The folder of results on a disk of its own; a function that gives it room, in kB."""
    folder = workflow.folder / "results"
    folder.mkdir()

    def room(kilobytes: int) -> None:
        mounted = os.path.ismount(folder)
        used = shutil.disk_usage(folder).used // 1024 if mounted else 0
        options = f"size={used + kilobytes}k" + (",remount" if mounted else "")
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("a small disk needs mount, and root")

    yield room
    if os.path.ismount(folder):
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_fills_up_is_told_in_a_line_at_every_stage(
    workflow, published, tiny_folder, undisturbed, disk
):
    workflow.configure(faults.study(published, tiny_folder("llama")))
    for rule in (
        "prepare_items",
        "build_pairs",
        "train_dpo",
        "score_items",
        "compute_metrics",
        "plot_bias_scores",
        "write_findings",
    ):
        disk(100_000)
        workflow.run("--omit-from", rule)
        disk(4)
        done = workflow.run("--until", rule, check=False)
        assert done.returncode, rule
        told = rf"Error in rule {rule}:|{rule}\] error: .*(no space|No space) left on"
        assert re.search(told, done.stderr), done.stderr
        assert re.search(r"error: .*no space left on the disk", done.stderr), done.stderr
        assert "Traceback" not in done.stderr
        assert faults.different(workflow, undisturbed, partial=True) == []
    disk(100_000)
    workflow.run()
    assert faults.different(workflow, undisturbed) == []
    assert faults.leftovers(workflow) == []


def test_read_only_resources_are_no_obstacle_once_all_is_fetched(
    workflow, shared_workflow, undisturbed
):
    target = workflow.folder / "resources"
    shutil.rmtree(target)
    shutil.copytree(shared_workflow.folder / "resources", target, symlinks=True)
    shutil.copytree(
        shared_workflow.folder / ".snakemake/metadata", workflow.folder / ".snakemake/metadata"
    )
    shutil.copy(shared_workflow.folder / "study.yaml", workflow.folder)
    command = ["mount", "--bind", str(target), str(target)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a folder that nobody can write to needs mount, and root")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(target)], check=True)
        workflow.run()
        assert faults.different(workflow, undisturbed) == []
        shared = Path(target / "models" / "new")
        config = (workflow.folder / "study.yaml").read_text().replace("tiny:", "new:")
        (workflow.folder / "study.yaml").write_text(config)
        done = workflow.run(check=False)
        assert done.returncode
        assert "Read-only file system" in done.stderr
        assert not shared.exists()
    finally:
        subprocess.run(["umount", "-l", str(target)], check=True)
