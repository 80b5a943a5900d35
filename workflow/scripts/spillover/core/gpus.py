"""One GPU a job: the GPUs of a machine shared out among the jobs that run on it at once.

Snakemake counts GPUs, but does not say which one a job has: without this all would use the first.
"""

import logging
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

from spillover.core.errors import InputError

logger = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
SECONDS_BETWEEN_TRIES = 1

# Locks of this process. The kernel takes them back when it ends, in whatever way: not before,
# for as long as it lives it has memory on the GPU.
_held = []


def take_gpu(needed: int) -> None:
    """Have one GPU of this machine for this process alone, and CUDA see no other.

    Waits until one is free. To be called before anything looks at the GPUs: CUDA reads
    ``CUDA_VISIBLE_DEVICES`` once. Nothing is done under SLURM, which has shared its GPUs out
    already, nor where :func:`visible_gpus` finds none.

    Parameters
    ----------
    needed : GPUs that the job counts for. It has one; with 0 nothing is done.

    Raises
    ------
    InputError
        If the folder of the locks is not this user's alone.
    """
    if needed < 1 or under_slurm():
        return
    gpus = visible_gpus()
    if not gpus:
        logger.info("no GPU of nvidia-smi's is in sight: which one is used is left to torch")
        return
    folder = _locks_folder()
    gpu = _take_free(gpus, folder)
    if gpu is None:
        logger.info("waiting for a GPU: other jobs have all of them (%d)", len(gpus))
    while gpu is None:
        time.sleep(SECONDS_BETWEEN_TRIES)
        gpu = _take_free(gpus, folder)
    # By its UUID: CUDA numbers GPUs in another order than nvidia-smi does.
    os.environ[VISIBLE] = gpu
    logger.info("GPU %s", gpu)


def note(at_once: int) -> str | None:
    """One line if the jobs that may have a GPU at once are not as many as GPUs; else None."""
    n_gpus = len(visible_gpus())
    if under_slurm() or n_gpus in (0, at_once):
        return None
    waiting = "; jobs too many wait for one" if at_once > n_gpus else ""
    return (
        f"GPUs in sight: {n_gpus}; jobs that may have one at once: {at_once}{waiting} "
        "(gpu in profiles/workstation, or --resources gpu=)"
    )


def under_slurm() -> bool:
    """Whether SLURM has shared the GPUs out already."""
    return bool(os.environ.get("SLURM_JOB_ID"))


def visible_gpus() -> list[str]:
    """UUIDs of the GPUs that jobs may use: all that nvidia-smi lists, or those that the user names.

    ``CUDA_VISIBLE_DEVICES`` may name them by nvidia-smi's index, by UUID or its beginning, and
    instances of MIG by their names, which are left as they are. As for CUDA, what stands behind
    a name that is none does not count, and an empty text stands for no GPU.
    """
    listed = _listed_gpus()
    named = os.environ.get(VISIBLE)
    if named is None or not listed:
        return list(listed.values())
    gpus = []
    for name in map(str.strip, named.split(",")):
        matches = [uuid for index, uuid in listed.items() if _names(name, index, uuid)]
        if name.startswith("MIG-"):
            matches = [name]
        if len(matches) != 1:
            break
        gpus += matches
    return list(dict.fromkeys(gpus))


def _names(name: str, index: str, uuid: str) -> bool:
    return name == index or (name.startswith("GPU-") and uuid.startswith(name))


def _listed_gpus() -> dict[str, str]:
    """UUIDs by index, as nvidia-smi lists them; none where it is missing.

    It ends with an error where one GPU is lost, and lists the others all the same.
    """
    query = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            query, capture_output=True, text=True, errors="replace", timeout=60, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    # In the place of a UUID an error may stand: "[GPU is lost]".
    return dict(re.findall(r"^\s*(\d+), *(GPU-\S+)\s*$", done.stdout, re.M))


def _locks_folder() -> Path:
    """A folder of this user's for the locks, where nobody else can put a file or a link."""
    folder = Path(tempfile.gettempdir()) / f"spillover-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise InputError(f"{folder}: expected a folder that only you can write to; remove it")
    return folder


def _take_free(gpus: list[str], folder: Path) -> str | None:
    """Lock the first GPU that no process has, and keep it; None if there is no such."""
    # Only here: Snakemake itself, which counts GPUs, may run without it.
    from filelock import FileLock, Timeout

    from spillover.core.locks import NO_LOCKS

    for gpu in gpus:
        file = folder / f"{gpu.replace('/', '_')}.lock"
        lock = FileLock(file, fallback_to_soft=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            continue
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            logger.warning("%s: no locks on this file system; another job may take this GPU", file)
            return gpu
        # Temporary files that look old are removed on many machines.
        os.utime(file)
        _held.append(lock)
        return gpu
    return None
