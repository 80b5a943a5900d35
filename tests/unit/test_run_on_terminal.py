"""Progress on a terminal, in one line; elsewhere nothing but the command."""

import functools
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "workflow/scripts/run_on_terminal.py"
# What Snakemake and its jobs say, in short.
SAID = """\
Building DAG of jobs...
Job stats:
job          count
---------  -------
train_dpo        1
total            3

Select jobs to execute...
Execute 1 jobs...
[model/gender/seed0/train_dpo] training: 256 pairs in 32 steps
[model/gender/seed0/train_dpo] step 15 of 32: loss 0.7038, 3.09 pairs/s, 44 s left
[model/base/predictions/score_items] block 2 of 10, 3.0 items/s, 1 min 10 s left
[model/gender/seed0/train_dpo] step 32 of 32: loss 0.5645, 3.11 pairs/s, 0 s left
[Thu Nov 26 21:14:44 2026]
localrule train_dpo:
    input: results/x
    jobid: 3
[Thu Nov 26 21:14:44 2026]
Finished jobid: 3 (Rule: train_dpo)
1 of 3 steps (33%) done
Shutting down, this might take some time.
"""
# A workflow whose second job fails.
FAILS = """
rule two:
    input: "one.txt"
    output: "two.txt"
    log: "two.log"
    shell: "echo what went wrong > {log}; exit 1"

rule one:
    output: "one.txt"
    shell: "touch {output}"
"""


@pytest.fixture
def snakemake(tmp_path):
    """A program in Snakemake's place; what its arguments are, and its code of exit."""
    (tmp_path / "said").write_text(SAID)
    program = tmp_path / "snakemake"
    program.write_text(
        f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\ncat {tmp_path}/said\nexit 3\n'
    )
    program.chmod(0o755)
    return program


def on_terminal(command: list) -> tuple[str, int]:
    """What a terminal gets to see, and the exit code."""
    main, terminal = pty.openpty()
    termios.tcsetwinsize(main, (40, 200))
    with subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal) as running:
        os.close(terminal)
        seen = b""
        while True:
            try:
                part = os.read(main, 4096)
            except OSError:  # nobody has the other end any more
                break
            if not part:
                break
            seen += part
    os.close(main)
    return seen.decode(), running.returncode


def test_on_a_terminal_progress_is_one_line_and_the_rest_stands_above(snakemake, tmp_path):
    command = [sys.executable, SCRIPT, snakemake, "plan", "--cores", "2"]
    seen, code = on_terminal(command)
    assert code == 3
    assert (tmp_path / "arguments").read_text() == "plan --cores 2\n"
    states = re.sub(r"\d\d:\d\d", "00:00", seen).replace("\n", "\r").split("\r")
    assert (
        "0 of 3 jobs |                | 00:00, model/gender/seed0/train_dpo: step 15 of 32, "
        "44 s left · model/base/predictions/score_items: block 2 of 10, 1 min 10 s left"
    ) in {state.rstrip() for state in states}
    assert any(state.startswith("1 of 3 jobs |") for state in states)
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in seen.split("\n")]
    assert "Shutting down, this might take some time." in lines
    assert "[model/gender/seed0/train_dpo] training: 256 pairs in 32 steps" in lines
    for hidden in ("Finished jobid", "Select jobs", "localrule", "    jobid"):
        assert not any(hidden in line for line in lines), hidden


def test_a_job_that_fails_is_named_and_its_log_is_shown(tmp_path):
    (tmp_path / "Snakefile").write_text(FAILS)
    options = ["--cores", "1", "--show-failed-logs", "--directory", tmp_path, "-s"]
    snakemake = shutil.which("snakemake", path=Path(sys.executable).parent)
    seen, code = on_terminal([sys.executable, SCRIPT, snakemake, *options, tmp_path / "Snakefile"])
    assert code == 1
    lines = [line.rstrip("\r").rpartition("\r")[2].strip() for line in seen.split("\n")]
    assert {"Error in rule two:", "what went wrong"} <= set(lines)
    assert "localrule two:" not in lines
    assert "1 of 2 jobs |" in seen


def test_without_its_terminal_the_command_goes_on(snakemake, tmp_path):
    # More than a pipe holds; and a terminal that is closed at once.
    (tmp_path / "said").write_text(SAID * 2000)
    main, terminal = pty.openpty()
    command = [sys.executable, SCRIPT, snakemake]
    ignore = functools.partial(signal.signal, signal.SIGHUP, signal.SIG_IGN)
    running = subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, preexec_fn=ignore
    )
    os.close(terminal)
    os.read(main, 1)
    os.close(main)
    assert running.wait(timeout=60) == 3


def test_elsewhere_it_becomes_the_command(snakemake, tmp_path):
    command = [sys.executable, SCRIPT, snakemake, "--cores", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == (SAID, "", 3)
    assert (tmp_path / "arguments").read_text() == "--cores 2\n"


def test_ctrl_c_is_the_commands_to_answer(tmp_path):
    program = tmp_path / "snakemake"
    program.write_text(
        "#!/bin/sh\ntrap 'echo ended its jobs; exit 130' INT\necho go\nsleep 60 & wait\n"
    )
    program.chmod(0o755)
    main, terminal = pty.openpty()
    running = subprocess.Popen(
        [sys.executable, SCRIPT, program],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    seen = b""
    while b"go" not in seen:
        seen += os.read(main, 4096)
    os.killpg(running.pid, signal.SIGINT)
    while b"ended its jobs" not in seen:
        seen += os.read(main, 4096)
    assert running.wait(timeout=30) == 130
    os.close(main)
