"""Checkpoints of a training run: which are whole, and whether they are of this run.

Nothing in them is executed: the Trainer loads them with ``weights_only=True``. (It also
writes ``training_args.bin``, a pickle, which nobody reads.)
"""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from spillover.core.errors import InputError
from spillover.core.files import replacing, to_disk

logger = logging.getLogger(__name__)

FINGERPRINT = "fingerprint.json"
# Written last, with every file's size: a checkpoint without it, or with other sizes, is not
# whole.
MARK = "whole.json"
KEPT = 2  # should the last one be spoiled


def open_folder(folder: Path, fingerprint: Mapping) -> Path | None:
    """Make a folder ready for a run's checkpoints; the last whole one of the run, if any.

    Checkpoints of another run, and those that a kill has cut off, are removed.

    Parameters
    ----------
    fingerprint : everything that the result depends on, as JSON can hold it.

    Raises
    ------
    InputError
        If one of another run cannot be removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fingerprint = json.loads(json.dumps(fingerprint))
    file = folder / FINGERPRINT
    if file.is_file():
        found = _read(file)
        different = sorted(
            key
            for key in found.keys() | fingerprint.keys()
            if found.get(key) != fingerprint.get(key)
        )
        if different:
            logger.warning(
                "%s: the checkpoints are of a run with another %s; starting over",
                folder,
                ", ".join(different),
            )
            _remove_all(folder)
    else:
        _remove_all(folder)
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(fingerprint, indent=1, sort_keys=True) + "\n")
    _remove_cut(folder)
    return last(folder)


def mark_whole(checkpoint: Path) -> None:
    """Note that a checkpoint has been written to its end, and is on the disk."""
    sizes = {
        str(file.relative_to(checkpoint)): file.stat().st_size
        for file in sorted(checkpoint.rglob("*"))
        if file.is_file()
    }
    to_disk(checkpoint)
    with replacing(checkpoint / MARK) as temporary:
        temporary.write_text(json.dumps(sizes, indent=1))
    to_disk(checkpoint)


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end, and all its files are as long as then."""
    try:
        sizes = _read(checkpoint / MARK)
        return bool(sizes) and all(
            (checkpoint / name).stat().st_size == size for name, size in sizes.items()
        )
    except OSError:
        return False


def _read(file: Path) -> dict:
    """What a file says; nothing if it was cut, as by a loss of power."""
    try:
        found = json.loads(file.read_text())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def last(folder: Path) -> Path | None:
    """The whole checkpoint of the latest step."""
    return next((path for path in reversed(_all(folder)) if is_whole(path)), None)


def on_the_way(folder: Path, share: float) -> Path:
    """Where the adapter after a share of training is kept until training has ended."""
    return folder / f"at-{share:.2f}"


def keep_last(folder: Path) -> None:
    """Remove all checkpoints but the last whole ones."""
    kept = [path for path in _all(folder) if is_whole(path)][-KEPT:]
    _remove([path for path in _all(folder) if path not in kept])


def give_back(folder: Path) -> None:
    """Remove what a full disk has cut off; all of the folder, if nothing whole is in it."""
    _remove_cut(folder)
    if last(folder) is None and not any(folder.glob("at-*")):
        discard(folder)


def discard(folder: str | Path) -> None:
    """Remove a run's checkpoints. Call it when the adapter is in its place, not before."""
    shutil.rmtree(folder, ignore_errors=True)


def _all(folder: Path) -> list[Path]:
    """Checkpoints, by step."""
    return sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def _remove_all(folder: Path) -> None:
    """Remove what is of another run, and end if it stays."""
    _remove([*_all(folder), *folder.glob("at-*")])
    left = [*filter(is_whole, _all(folder)), *folder.glob("at-*")]
    if left:
        raise InputError(f"{left[0]}: of another run, and cannot be removed")


def _remove_cut(folder: Path) -> None:
    _remove([path for path in _all(folder) if not is_whole(path)])


def _remove(checkpoints: list[Path]) -> None:
    for path in checkpoints:
        shutil.rmtree(path, ignore_errors=True)
