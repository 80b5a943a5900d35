"""A study to be interrupted, and what must be the same afterwards: for tests and benchmarks."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from checkout import Workflow

ATTRIBUTES = ["Gender_identity", "Religion"]
STUDY = "faults"
MODEL = "tiny"


def study(data: Path, model: Path, epochs: int = 10) -> dict:
    """A model in NF4, aligned for gender, and its control: long enough to be met at work."""
    gender = {
        "target": ["Gender_identity"],
        "exclude_groups": "^(trans|nonTrans)",
        "pairs": {"max_items": 16},
        "training": {"pairs_per_step": 8, "learning_rate": 1.0e-3, "epochs": epochs},
    }
    return {
        "study": STUDY,
        "bbq": {"type": "path", "path": str(data)},
        "models": {
            MODEL: {
                "source": {"type": "path", "path": str(model)},
                "quantization": "nf4",
                "dtype": "float32",
            }
        },
        "alignments": {
            "gender": gender | {"control": "shuffled"},
            "shuffled": gender | {"pairs": {"max_items": 16, "preferences": "shuffled"}},
        },
        "evaluation": {"attributes": ATTRIBUTES, "blocks_per_attribute": 15},
        "statistics": {"resamples": 200},
        "machine": {"device": "cpu", "checkpoint_steps": 4, "tokens_per_batch": 640},
    }


def wait_for(what: Callable, seconds: float = 600, every: float = 0.5):
    """Wait until ``what()`` is true; what it returned."""
    end = time.monotonic() + seconds
    while not (found := what()):
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(every)
    return found


def results(workflow: Workflow) -> dict[str, bytes]:
    """What a study must give to the byte, however it came about: tables, adapters, figures."""
    folder = workflow.folder / "results" / STUDY
    wanted = ("*.tsv", "*.parquet", "*.safetensors", "*.svg", "*.json", "*.md")
    files = sorted({file for pattern in wanted for file in folder.rglob(pattern)})
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in files
        # Of the machine: seconds.
        if not file.name.endswith((".benchmark.tsv", "training_speed.tsv"))
    }


def different(workflow: Workflow, expected: dict[str, bytes], partial: bool = False) -> list[str]:
    """Names of results that are not what they must be, or not there (unless ``partial``)."""
    found = results(workflow)
    names = found.keys() if partial else expected.keys() | found.keys()
    return sorted(name for name in names if expected.get(name) != found.get(name))


def leftovers(workflow: Workflow) -> list[str]:
    """What interruptions must not leave: temporary files, checkpoints, finished blocks, locks."""
    folders = (workflow.folder / "results", workflow.folder / "resources")
    return [
        str(path.relative_to(workflow.folder))
        for folder in folders
        for path in (*folder.rglob(".*"), *folder.rglob("tmp*"))
        # The lock of a job that was killed is a file that nobody holds; one is Snakemake's; and
        # what was scored is kept on purpose.
        if not path.name.endswith((".lock", ".snakemake_timestamp", ".kept"))
    ]


def driver(workflow: Workflow, *arguments: str, log: str = "driver.log") -> subprocess.Popen:
    """Start Snakemake in a process group of its own; what it says is added to a file."""
    with (workflow.folder / log).open("a") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "snakemake", *arguments, "--configfile", "study.yaml"],
            cwd=workflow.folder,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def jobs_of(process: int) -> list[psutil.Process]:
    """The scripts that a driver's jobs run in."""
    try:
        children = psutil.Process(process).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [child for child in children if _is_script(child)]


def orphans(workflow: Workflow, *also: str) -> list[psutil.Process]:
    """Scripts in a folder that no driver runs any more, and processes with these arguments."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            at_work = _is_script(process) or set(also) & set(process.cmdline())
            if at_work and process.cwd() == str(workflow.folder):
                found.append(process)
    return found


def _is_script(process: psutil.Process) -> bool:
    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    return len(command) > 1 and "python" in command[0] and ".snakemake/scripts" in command[-1]


def kill_everything(driver: subprocess.Popen, draw: random.Random) -> str:
    """As when a machine loses its power."""
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    return "driver and jobs"


def kill_driver(driver: subprocess.Popen, draw: random.Random) -> str:
    """The jobs go on without it."""
    n = len(jobs_of(driver.pid))
    driver.kill()
    driver.wait()
    return f"driver, {n} jobs left running"


def kill_job(driver: subprocess.Popen, draw: random.Random) -> str:
    """As the kernel does when memory runs out; the driver says so and ends."""
    jobs = jobs_of(driver.pid)
    if not jobs:
        return kill_everything(driver, draw)
    job = draw.choice(jobs)
    job.kill()
    driver.wait(600)
    return "a job"


KILLS: list[Callable] = [kill_everything, kill_driver, kill_job]


def kill_at_random(
    workflow: Workflow, draw: random.Random, kills: int, longest: float
) -> tuple[list[dict], float]:
    """Run a study to its end on this machine, and kill some of it again and again.

    Parameters
    ----------
    kills : how often at most; the study may end before.
    longest : seconds after a start in which a kill comes, drawn evenly.

    Returns
    -------
    What was killed when (``after`` in seconds from its start, ``killed``), and the seconds
    that all starts took together.
    """
    record: list[dict] = []
    spent = 0.0
    while True:
        begun = time.monotonic()
        process = driver(workflow, "--cores", "2")
        after = draw.uniform(2, longest)
        try:
            process.wait(after if len(record) < kills else 1200)
            spent += time.monotonic() - begun
            if process.returncode:
                raise RuntimeError((workflow.folder / "driver.log").read_text()[-3000:])
            return record, spent
        except subprocess.TimeoutExpired:
            killed = draw.choice(KILLS)(process, draw)
            record.append({"after": after, "killed": killed})
        spent += time.monotonic() - begun
        subprocess.run(
            [sys.executable, "-m", "snakemake", "--unlock", "--configfile", "study.yaml"],
            cwd=workflow.folder,
            capture_output=True,
            check=True,
        )
