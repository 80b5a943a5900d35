"""A job's log: everything in its file, progress and errors on the terminal as well."""

import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spillover.core import signals
from spillover.core.errors import InputError
from spillover.core.files import disk_is_full
from spillover.core.locks import alone

logger = logging.getLogger(__name__)

# A bar is for a terminal; in a log it is one line of thousands of characters. Read when tqdm is
# imported, which is later.
os.environ.setdefault("TQDM_DISABLE", "1")
# What a user can do nothing about, and what changes no result: TRL and PEFT call gradient
# checkpointing by the name that transformers used to have for it.
MEANINGLESS = (".*gradient_checkpointing",)
QUIET = ("bitsandbytes.backends.cpu.ops",)


@contextmanager
def log_to(path: str | Path) -> Iterator[None]:
    """Log to ``path`` what the job prints, and to the terminal what it reports.

    Whatever libraries write to standard output and error goes into the file alone. An
    :class:`InputError` ends the job with status 1 and its one line, a signal that asks for the
    end with its own; any other exception leaves its traceback in the file and one line on the
    terminal. The same job, started a second time, waits until the first has ended.
    """
    path = Path(path)
    sys.stdout.flush()
    sys.stderr.flush()
    # Unbuffered: a signal may come in the middle of a line, and has one of its own.
    raw = io.FileIO(os.dup(2), "w")
    terminal = logging.StreamHandler(io.TextIOWrapper(raw, write_through=True))
    terminal.setFormatter(logging.Formatter(f"[{_job(path)}] %(message)s"))
    terminal.addFilter(logging.Filter("spillover"))
    logging.basicConfig(level=logging.WARNING, handlers=[terminal], force=True)
    logging.getLogger("spillover").setLevel(logging.INFO)
    lock = path.with_name(f".{path.stem}.lock")
    try:
        with alone(lock), signals.handled(signals.end), _recorded(path, terminal):
            yield
    except OSError as error:  # of the lock or the log itself
        logger.error("error: %s", _told(error))
        sys.exit(1)


@contextmanager
def _recorded(path: Path, terminal: logging.Handler) -> Iterator[None]:
    """Open the log file, which the same job may have been writing until now."""
    file = path.open("w")
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    record = logging.StreamHandler(file)
    record.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(record)
    logging.captureWarnings(True)
    for message in MEANINGLESS:
        warnings.filterwarnings("ignore", message)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    except InputError as error:
        logger.error("error: %s", error)
        sys.exit(1)
    except Exception as error:
        told = _told(error)
        if not disk_is_full(error):
            told += f" (traceback in {path})"
            record.handle(
                logger.makeRecord(
                    logger.name, logging.ERROR, __file__, 0, "unexpected", (), sys.exc_info()
                )
            )
        logger.error("error: %s", told)
        sys.exit(1)


def duration(seconds: float) -> str:
    """A time in words, as exact as people need it: ``2 h 05 min``, ``1 min 37 s``, ``8 s``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


def _told(error: Exception) -> str:
    if disk_is_full(error):
        return f"no space left on the disk: {error}"
    return f"{type(error).__name__}: {error}"


def _job(path: Path) -> str:
    """A job's short name: its log's path without the folders that all share and the suffix."""
    parts = path.with_suffix("").parts
    return "/".join(parts[2:] if parts[0] == "results" else parts[-1:])
