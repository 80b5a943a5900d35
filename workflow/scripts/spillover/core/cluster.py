"""A SLURM cluster, as Snakemake's plugin (2.8.0) sees it: what it would wait for in vain."""

import re
import subprocess
import time
from collections.abc import Callable, Collection
from pathlib import Path

# The plugin looks at its jobs ever more seldom, at last every 180 s; a look takes its time, and one
# that fails is made again.
SECONDS_BETWEEN_LOOKS = 240


def _ask(*command: str) -> str | None:
    """What a command of SLURM prints; None if it fails or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _site() -> dict[str, str]:
    """The site's settings, by name."""
    shown = _ask("scontrol", "show", "config") or ""
    return dict(re.findall(r"^(\w+)\s*=\s*(.*?)\s*$", shown, re.M))


def _keeps_accounts(found: dict[str, str]) -> bool:
    # Newer SLURMs, which have no plugin called none any more, say (null).
    return not found.get("AccountingStorageType", "").endswith(("/none", "(null)"))


def _min_job_age(found: dict[str, str]) -> int | None:
    """Seconds for which squeue shows a job that has ended; 0 is for ever."""
    age = re.match(r"\d+", found.get("MinJobAge", ""))
    return int(age[0]) if age else None


def obstacle(status_command: str) -> str | None:
    """Why the plugin would never learn that a job has ended, in words; None if it will.

    Parameters
    ----------
    status_command : what the plugin asks for jobs: ``squeue`` or ``sacct``.
    """
    found = _site()
    if not found:
        return "scontrol show config says nothing: is this machine one of a SLURM cluster?"
    accounting = _keeps_accounts(found)
    if status_command == "sacct" and not accounting:
        return (
            "this cluster keeps no accounts (AccountingStorageType), so sacct never tells that a "
            "job has ended; use --slurm-status-command squeue, as profiles/slurm does"
        )
    age = _min_job_age(found)
    if status_command == "squeue" and age is not None and 0 < age < SECONDS_BETWEEN_LOOKS:
        instead = "use --slurm-status-command sacct" if accounting else "ask for a longer MinJobAge"
        return (
            f"this cluster's squeue shows jobs for {age} s after their end (MinJobAge), and is "
            f"asked up to {SECONDS_BETWEEN_LOOKS} s later; {instead}"
        )
    return None


def keep_to_squeue() -> None:
    """Have the plugin never take sacct instead, where sacct knows nothing or squeue knows all.

    It does so at any look for which it does not learn MinJobAge, as when the controller is away,
    or learns that it is 0. Called where ``squeue`` is what it is to ask.
    """
    import snakemake_executor_plugin_slurm as plugin

    found = _site()
    if _keeps_accounts(found) and _min_job_age(found) != 0:
        return
    there = plugin.is_query_tool_available
    plugin.is_query_tool_available = lambda tool: tool != "sacct" and there(tool)


def note(no_requeue: bool) -> str | None:
    """One line if jobs may be preempted that SLURM is not to requeue; else None.

    The plugin leaves a preempted job to SLURM, and waits for it.
    """
    preempts = _site().get("PreemptType", "none").rpartition("/")[2]
    if not no_requeue or preempts in ("none", "(null)"):
        return None
    return (
        "this cluster may preempt jobs (PreemptType); one that is would be waited for in vain. On "
        "a partition that preempts, take slurm-no-requeue out of the profile"
    )


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
    rows = [line.split("|", 2) for line in shown.splitlines()]
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
