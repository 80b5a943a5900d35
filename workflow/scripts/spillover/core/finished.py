"""What a job has finished, kept beside its results: as hard links, which take no room, if it can.

Snakemake removes all that a job makes before it starts. A driver that is killed leaves its jobs
running, and the next one does not know that they have ended: days of training are kept from being
made again, until a driver has seen them. And of the tables of one job those that are still right
are kept when one of them is lost.
"""

import logging
import os
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from spillover.core.files import file_sha256, replacing

logger = logging.getLogger(__name__)

MADE_OF = "made_of.txt"


def keep(folder: str | Path, files: Collection[str | Path], made_of: str) -> None:
    """Keep a job's results.

    Parameters
    ----------
    folder : to keep them in; on the file system of the results.
    files : the results, by the paths that they are taken to again.
    made_of : what they depend on, as text.
    """
    with replacing(folder) as temporary:
        temporary.mkdir()
        kept = [temporary / _name(*of) for of in enumerate(files)]
        for file, link in zip(files, kept, strict=True):
            _link(Path(file), link)
        (temporary / MADE_OF).write_text(_record(files, made_of, kept))


def take(folder: str | Path, files: Collection[str | Path], made_of: str) -> bool:
    """Put kept results in their places, if they are whole and of the same; whether they were."""
    kept = [Path(folder) / _name(*of) for of in enumerate(files)]
    try:
        same = (Path(folder) / MADE_OF).read_text() == _record(files, made_of, kept)
    except OSError:
        return False
    if not same:
        return False
    for file, link in zip(map(Path, files), kept, strict=True):
        # Two links to one file are not renamed over each other.
        if not (file.exists() and file.samefile(link)):
            with replacing(file) as temporary:
                _link(link, temporary)
    logger.info("%s: made already, of the same; taken from %s", next(iter(files)), folder)
    return True


def discard(folder: str | Path) -> None:
    """Remove what was kept: a driver has seen the results."""
    shutil.rmtree(folder, ignore_errors=True)


def _record(files: Collection[str | Path], made_of: str, kept: Sequence[Path]) -> str:
    """What kept results were made of, and which they are: adapters on the way are several."""
    named = zip(map(file_sha256, kept), map(str, files), strict=True)
    return "\n".join([made_of, *map(" ".join, named)])


def _name(number: int, file: str | Path) -> str:
    """Name of a kept result: files of several adapters are called alike."""
    return f"{number}-{Path(file).name}"


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
