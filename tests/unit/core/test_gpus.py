"""Jobs that run at once have a GPU each, however they end."""

import os
import selectors
import subprocess
import sys
from pathlib import Path

import pretended_gpus
import pytest
from pretended_gpus import UUIDS

SCRIPTS = Path(__file__).parents[3] / "workflow" / "scripts"
JOB = """
import logging, os, sys
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
sys.path.insert(0, sys.argv[1])
from spillover.core.gpus import take_gpu
take_gpu(int(sys.argv[2]))
print("sees", os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
child = sys.argv[3]
if child == "program":
    import subprocess
    print(subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL).pid, flush=True)
elif child == "fork":
    pid = os.fork()
    if pid == 0:
        import time
        time.sleep(60)
        os._exit(0)
    print(pid, flush=True)
sys.stdin.read()
"""


class Job:
    """A process that takes a GPU, and ends when told to."""

    def __init__(self, environment: dict[str, str], needed: int = 1, child: str = ""):
        self.process = subprocess.Popen(
            [sys.executable, "-c", JOB, str(SCRIPTS), str(needed), child],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
        )

    def line(self, seconds: float = 60) -> str:
        """The next line that it prints; an error if none comes in time."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            assert selector.select(seconds), f"nothing printed in {seconds} s"
        # One line a time: readline would keep in its buffer what select then does not see.
        text = b""
        while not text.endswith(b"\n"):
            character = os.read(self.process.stdout.fileno(), 1)
            assert character, f"ended, and printed last: {text.decode()}"
            text += character
        return text.decode().removesuffix("\n")

    def sees(self) -> str:
        """What it has under CUDA_VISIBLE_DEVICES, behind all that it logs."""
        while not (line := self.line()).startswith("sees "):
            pass
        return line.removeprefix("sees ")

    def prints_nothing(self, seconds: float) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            return not selector.select(seconds)


@pytest.fixture
def start():
    """Start jobs, and end those that still run."""
    jobs = []

    def started(*arguments, **keywords) -> Job:
        jobs.append(Job(*arguments, **keywords))
        return jobs[-1]

    yield started
    for job in jobs:
        job.process.kill()
        job.process.communicate()


def test_jobs_at_once_have_different_gpus_and_one_too_many_has_that_of_a_killed_one(
    start, tmp_path
):
    environment = pretended_gpus.environment(tmp_path)
    jobs = [start(environment) for _ in UUIDS]
    seen = [job.sees() for job in jobs]
    assert sorted(seen) == sorted(UUIDS)
    fifth = start(environment)
    assert fifth.line() == "waiting for a GPU: other jobs have all of them (4)"
    assert fifth.prints_nothing(2.5)
    jobs[2].process.kill()
    assert fifth.line() == f"GPU {seen[2]}"
    assert fifth.sees() == seen[2]


def test_a_gpu_is_free_again_when_its_job_ended(start, tmp_path):
    environment = pretended_gpus.environment(tmp_path)
    first = start(environment)
    gpu = first.sees()
    first.process.communicate()
    assert first.process.returncode == 0
    assert start(environment).sees() == gpu


@pytest.mark.parametrize("child", ["program", "fork"])
def test_a_child_that_outlives_a_killed_job_has_no_gpu(start, tmp_path, child):
    environment = pretended_gpus.environment(tmp_path, UUIDS[:1])
    job = start(environment, child=child)
    assert job.sees() == UUIDS[0]
    orphan = int(job.line())
    job.process.kill()
    job.process.wait()
    try:
        os.kill(orphan, 0)  # it lives
        assert start(environment).line() == f"GPU {UUIDS[0]}"
    finally:
        os.kill(orphan, 9)


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("1", [1]),
        ("2,0", [2, 0]),
        (UUIDS[3], [3]),
        (UUIDS[3][:10], [3]),
        ("1, 3", [1, 3]),
        ("1,1", [1]),
        ("2,-1,0", [2]),
        ("0,7,1", [0]),
        ("0,GPU-,1", [0]),
    ],
)
def test_only_gpus_that_the_user_names_are_taken(start, tmp_path, named, expected):
    environment = pretended_gpus.environment(tmp_path, CUDA_VISIBLE_DEVICES=named)
    for index in expected:
        assert start(environment).sees() == UUIDS[index]
    assert start(environment).line().startswith("waiting for a GPU")


def test_a_gpu_is_one_whether_named_by_index_or_uuid_or_not_at_all(start, tmp_path):
    by_index = pretended_gpus.environment(tmp_path, UUIDS[:2], CUDA_VISIBLE_DEVICES="1")
    by_uuid = by_index | {"CUDA_VISIBLE_DEVICES": UUIDS[1]}
    not_at_all = pretended_gpus.environment(tmp_path, UUIDS[:2])
    assert start(by_index).sees() == UUIDS[1]
    assert start(not_at_all).sees() == UUIDS[0]
    assert start(by_uuid).line().startswith("waiting for a GPU")


def test_instances_of_mig_are_shared_out_by_their_names(start, tmp_path):
    names = ["MIG-5c1d8a1c-0000-5000-8000-000000000000", f"MIG-{UUIDS[0]}/1/0"]
    environment = pretended_gpus.environment(tmp_path, CUDA_VISIBLE_DEVICES=",".join(names))
    assert [start(environment).sees() for _ in names] == names


@pytest.mark.parametrize(
    ("variables", "needed"),
    [
        ({"SLURM_JOB_ID": "7"}, 1),
        ({"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "0"}, 1),
        ({}, 0),
        ({"CUDA_VISIBLE_DEVICES": "0"}, 0),
        ({"CUDA_VISIBLE_DEVICES": ""}, 1),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, 1),
    ],
)
def test_nothing_is_done_under_slurm_without_need_or_where_gpus_are_hidden(
    start, tmp_path, variables, needed
):
    environment = pretended_gpus.environment(tmp_path, **variables)
    job = start(environment, needed)
    assert job.sees() == str(variables.get("CUDA_VISIBLE_DEVICES"))
    assert list((tmp_path / "tmp").iterdir()) == []


# What may stand in a UUID's place, and bytes that are no text.
LOST = "#!/bin/sh\nprintf '0, [GPU is lost]\\n\\377\\n'\n"


@pytest.mark.parametrize(
    "nvidia_smi", ["#!/bin/sh\nexit 9\n", "#!/bin/sh\necho No devices\n", LOST, None]
)
def test_nothing_is_done_where_nvidia_smi_lists_nothing(start, tmp_path, nvidia_smi):
    environment = pretended_gpus.environment(tmp_path, CUDA_VISIBLE_DEVICES="1")
    script = tmp_path / "bin" / "nvidia-smi"
    if nvidia_smi is None:
        script.unlink()
        environment["PATH"] = str(script.parent)
    else:
        script.write_text(nvidia_smi)
    job = start(environment)
    assert job.line() == "no GPU of nvidia-smi's is in sight: which one is used is left to torch"
    assert job.sees() == "1"
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_gpu_that_is_lost_leaves_the_others(start, tmp_path):
    environment = pretended_gpus.environment(tmp_path)
    script = tmp_path / "bin" / "nvidia-smi"
    rows = f"0, [GPU is lost]\\n1, {pretended_gpus.UUIDS[1]}\\n"
    script.write_text(f"#!/bin/sh\nprintf '{rows}'\nexit 15\n")
    assert start(environment).sees() == pretended_gpus.UUIDS[1]


def test_locks_lie_in_a_folder_of_the_users_alone(start, tmp_path):
    environment = pretended_gpus.environment(tmp_path)
    start(environment).sees()
    (folder,) = (tmp_path / "tmp").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("spoiled", ["link", "writable"])
def test_a_folder_of_locks_that_others_may_have_laid_is_refused(start, tmp_path, spoiled):
    environment = pretended_gpus.environment(tmp_path)
    folder = tmp_path / "tmp" / f"spillover-gpus-{os.getuid()}"
    if spoiled == "link":
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    job = start(environment)
    printed, _ = job.process.communicate()
    assert "expected a folder that only you can write to; remove it" in printed
    assert job.process.returncode == 1


def test_a_start_says_if_gpus_and_jobs_are_not_as_many(monkeypatch, tmp_path):
    from spillover.core import gpus

    for name, value in pretended_gpus.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert gpus.note(4) is None
    assert gpus.note(1).startswith("GPUs in sight: 4; jobs that may have one at once: 1 (")
    assert "jobs that may have one at once: 5; jobs too many wait for one (" in gpus.note(5)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert gpus.note(2) is None
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert gpus.note(4) is None


@pytest.mark.parametrize("script", ["train_dpo", "diagnose_alignment", "score_items"])
def test_a_script_imports_nothing_that_looks_at_gpus_before_it_has_one(script):
    head, _, _ = (SCRIPTS / f"{script}.py").read_text().partition("take_gpu(")
    imports = [line.strip() for line in head.splitlines() if line.startswith(("import", "from"))]
    assert "from spillover.core.gpus import take_gpu" in head
    # of an import over several lines its module will do
    modules = [line.split()[1] if line.endswith("(") else line for line in imports]
    lines = [line if " " in line else f"import {line}" for line in modules]
    program = ["import sys", f"sys.path.insert(0, {str(SCRIPTS)!r})", *lines]
    program.append("assert 'spillover.core.gpus' in sys.modules")
    program.append("sys.exit(', '.join({'torch', 'bitsandbytes'} & set(sys.modules)))")
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(program)], capture_output=True, text=True, check=False
    )
    assert done.stderr == "\n"
