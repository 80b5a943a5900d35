"""A job holds a lock, so that nothing is made twice at once.

A driver that is killed leaves its jobs running, on a cluster and on one machine; the next one
starts them again. The kernel takes a lock from a process that is killed, whoever kills it, also
over a network file system (NFS: when the node's lease ends, if it was the node that died).
"""

import errno
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

# What a file system says that has no locks (Lustre mounted without flock, for one).
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
SECONDS_BETWEEN_LOOKS = 1.0


@contextmanager
def alone(path: str | Path) -> Iterator[None]:
    """Hold a lock file; wait, and say for whom, while another process holds it.

    Where the file system has no locks this is said, and the job goes on without.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, fallback_to_soft=False, poll_interval=SECONDS_BETWEEN_LOOKS)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info("waiting for %s, which makes the same", holder(path))
            lock.acquire()
            logger.info("going on: the other job has ended")
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise
        logger.warning("%s: no locks on this file system; start nothing twice at once", path)
        yield
        return
    try:
        # A courtesy to those who wait, for which a full disk may have no room.
        with suppress(OSError):
            path.write_text(json.dumps(_me()))
        yield
    finally:
        # The file stays: over NFS one that is removed may still be locked by those who wait.
        with suppress(OSError):
            path.write_text("")
        lock.release()


def holder(path: Path) -> str:
    """Who holds a lock, in words."""
    try:
        who = json.loads(path.read_text())
        job = f"SLURM job {who['slurm_job']}, " if who["slurm_job"] else ""
        return f"{job}process {who['process']} on {who['host']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "another process"


def _me() -> dict:
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }
