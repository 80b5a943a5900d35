"""One job at a time, whoever is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from spillover.core import locks

SCRIPTS = Path(locks.__file__).parents[2]
JOB = """
import sys, time
sys.path.insert(0, sys.argv[1])
from spillover.core.logs import log_to
with log_to(sys.argv[2]):
    import logging
    logging.getLogger("spillover").info("at work")
    time.sleep(float(sys.argv[3]))
"""


@pytest.fixture
def job(tmp_path):
    """Start a job that holds its lock for so many seconds; its process."""
    jobs = []

    def start(seconds: float) -> subprocess.Popen:
        command = [sys.executable, "-c", JOB, str(SCRIPTS), str(tmp_path / "job.log"), str(seconds)]
        jobs.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        return jobs[-1]

    yield start
    for process in jobs:
        process.kill()
        process.wait()


def line(process: subprocess.Popen) -> str:
    return process.stderr.readline()


@pytest.mark.parametrize("number", [None, signal.SIGKILL, signal.SIGTERM])
def test_a_second_job_waits_until_the_first_has_ended_or_is_killed(job, tmp_path, number):
    first = job(2 if number is None else 1000)
    assert "at work" in line(first)
    second = job(0)
    assert f"waiting for process {first.pid} on " in line(second)
    assert (tmp_path / "job.log").read_text().count("at work") == 1
    if number is not None:
        assert second.poll() is None
        first.send_signal(number)
    assert first.wait(10) == {None: 0, signal.SIGKILL: -9, signal.SIGTERM: 128 + 15}[number]
    assert "the other job has ended" in line(second)
    assert "at work" in line(second)
    assert second.wait(10) == 0
    assert [path.read_text() for path in tmp_path.glob(".*.lock")] == [""]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_job_that_is_asked_to_end_says_so(job, number):
    process = job(1000)
    assert "at work" in line(process)
    process.send_signal(number)
    assert f"error: ended by {number.name}; what was finished is kept" in line(process)
    assert process.wait(10) == 128 + number


def test_what_a_job_was_started_to_ignore_stays_ignored(job):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = job(1000)  # as under nohup
    finally:
        signal.signal(signal.SIGHUP, before)
    assert "at work" in line(process)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert "ended by SIGTERM" in line(process)


def test_the_holder_is_named_by_its_job(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    with locks.alone(tmp_path / "lock"):
        assert locks.holder(tmp_path / "lock").startswith(f"SLURM job 17, process {os.getpid()} on")
    (tmp_path / "lock").write_text("{")
    assert locks.holder(tmp_path / "lock") == "another process"


def test_without_locks_on_the_file_system_the_job_goes_on(tmp_path, monkeypatch, caplog):
    import fcntl

    def flock(descriptor, operation):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    with caplog.at_level("WARNING", logger="spillover"), locks.alone(tmp_path / "lock"):
        assert "no locks on this file system" in caplog.text


def test_a_lock_file_that_a_kill_left_is_no_lock(tmp_path):
    (tmp_path / ".job.lock").write_text(json.dumps({"host": "x", "process": 1, "slurm_job": None}))
    begun = time.monotonic()
    with locks.alone(tmp_path / ".job.lock"):
        assert time.monotonic() - begun < 5
