"""A SLURM cluster, as Snakemake's plugin (2.8.0) sees it: what it would wait for in vain."""

import re
import subprocess
import time
from collections.abc import Callable, Collection
from pathlib import Path

# The plugin looks at its jobs ever more seldom, and at last every so many seconds.
SECONDS_BETWEEN_LOOKS = 180


def _ask(*command: str) -> str | None:
    """What a command of SLURM prints; None if it fails or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def obstacle(status_command: str) -> str | None:
    """Why the plugin would never learn that a job has ended, in words; None if it will.

    Parameters
    ----------
    status_command : what the plugin asks for jobs: ``squeue`` or ``sacct``.
    """
    shown = _ask("scontrol", "show", "config") or ""
    found = dict(re.findall(r"^(\w+)\s*=\s*(.*?)\s*$", shown, re.M))
    if not found:
        return "scontrol show config says nothing: is this machine one of a SLURM cluster?"
    accounting = not found.get("AccountingStorageType", "").endswith("/none")
    if status_command == "sacct" and not accounting:
        return (
            "this cluster keeps no accounts (AccountingStorageType), so sacct never tells that a "
            "job has ended; use --slurm-status-command squeue, as profiles/slurm does"
        )
    age = re.match(r"\d+", found.get("MinJobAge", ""))
    if status_command == "squeue" and age and int(age[0]) <= SECONDS_BETWEEN_LOOKS:
        instead = "use --slurm-status-command sacct" if accounting else "ask for a longer MinJobAge"
        return (
            f"this cluster's squeue shows jobs for {age[0]} s after their end (MinJobAge), and is "
            f"asked every {SECONDS_BETWEEN_LOOKS} s; {instead}"
        )
    return None


def jobs_left(comments: Collection[str], folder: str | Path) -> list[str] | None:
    """Jobs of an earlier start, queued or running, that would make what this start makes.

    Parameters
    ----------
    comments : of the jobs of this start, as the plugin writes them (:func:`comment`).
    folder : the working directory.

    Returns
    -------
    Job numbers; None if SLURM does not answer, which it does not always.
    """
    shown = _ask("squeue", "--me", "-h", "-o", "%A|%k|%Z")
    if shown is None:
        return None
    rows = [line.split("|") for line in shown.splitlines()]
    return [
        row[0]
        for row in rows
        if len(row) == 3 and row[1] in comments and Path(row[2]).resolve() == Path(folder).resolve()
    ]


def comment(rule: str, wildcards: Collection[str]) -> str:
    """What the plugin notes of a job: its rule and the values of its wildcards."""
    values = "_".join(wildcards).replace("/", "_")
    return f"rule_{rule}_wildcards_{values}" if values else f"rule_{rule}"


def wait_for_jobs_left(
    comments: Collection[str], folder: str | Path, say: Callable[[str], None], every: float = 20
) -> bool:
    """Wait until an earlier start's jobs have ended; whether there were any."""
    told, waited = [], False
    while (left := jobs_left(comments, folder)) != []:
        if left is None:
            say("squeue does not answer, so jobs of an earlier start may be left; asking again")
        elif left != told:
            say(
                f"an earlier start has left jobs in the queue that make the same; waiting for them "
                f"(to begin without them: scancel {' '.join(left)})"
            )
            told, waited = left, True
        time.sleep(every)
    return waited
