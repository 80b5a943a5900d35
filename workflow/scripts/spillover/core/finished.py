"""What a job has finished, kept until the driver has seen it.

A driver that is killed leaves its jobs running. The next one does not know that they have ended:
Snakemake removes what they made, and has it made again. Days of training are kept from that as
hard links, which take no room, and removed once a driver has come to its end.
"""

import logging
import os
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path

from spillover.core.files import replacing

logger = logging.getLogger(__name__)

MADE_OF = "made_of.txt"


def keep(folder: str | Path, files: Collection[str], made_of: str) -> None:
    """Keep a job's results.

    Parameters
    ----------
    folder : to keep them in; on the file system of the results.
    files : the results, by the paths that they are taken to again.
    made_of : what they depend on, as text.
    """
    with replacing(folder) as temporary:
        temporary.mkdir()
        for number, file in enumerate(files):
            _link(Path(file), temporary / _name(number, file))
        (temporary / MADE_OF).write_text(_record(files, made_of))


def take(folder: str | Path, files: Collection[str], made_of: str) -> bool:
    """Put kept results in their places, if they were made of the same; whether they were."""
    folder = Path(folder)
    try:
        same = (folder / MADE_OF).read_text() == _record(files, made_of)
    except OSError:
        return False
    if not same or not all((folder / _name(*of)).is_file() for of in enumerate(files)):
        return False
    for number, file in enumerate(map(Path, files)):
        kept = folder / _name(number, file)
        # Two links to one file are not renamed over each other.
        if not (file.exists() and file.samefile(kept)):
            with replacing(file) as temporary:
                _link(kept, temporary)
    logger.info("made by a job of an earlier start that had ended since; taken from %s", folder)
    return True


def discard(folders: Iterable[Path]) -> None:
    """Remove what was kept: a driver has seen the results."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _record(files: Collection[str], made_of: str) -> str:
    """What kept results were made of, and which they are: adapters on the way are several."""
    return "\n".join([made_of, *map(str, files)])


def _name(number: int, file: str | Path) -> str:
    """Name of a kept result: files of several adapters are called alike."""
    return f"{number}-{Path(file).name}"


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)
