"""Files that are either whole or absent, and checked against their hashes."""

import errno
import hashlib
import os
import shutil
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from spillover.core.errors import InputError

TORCH_CANNOT_WRITE = ("PytorchStreamWriter failed writing file", "unexpected pos")


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_sha256(folder: str | Path, suffixes: Collection[str]) -> str:
    """Hexadecimal SHA-256 over names and contents of a folder's files with these suffixes."""
    total = hashlib.sha256()
    for file in sorted(Path(folder).iterdir()):
        if file.suffix in suffixes:
            total.update(file.name.encode())
            total.update(bytes.fromhex(file_sha256(file)))
    return total.hexdigest()


def check_links(folder: str | Path) -> None:
    """Refuse a folder whose files are links to what is gone, as when a cache was deleted.

    Raises
    ------
    InputError
        If a link leads nowhere.
    """
    for file in sorted(Path(folder).glob("*")):
        if not file.exists():
            raise InputError(
                f"{file}: links to {file.readlink()}, which is gone; delete {folder} to have it "
                "fetched again"
            )


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` if nothing was raised.

    The temporary name is hidden and keeps the suffix, for writers that look at it. Files
    and folders alike: a folder takes the place of the one that is there. What a process of this
    machine that was killed has left of its own is removed.

    Raises
    ------
    InputError
        If the disk is full; the temporary file is removed.
    """
    path = Path(path)
    temporary = _own(path)
    try:
        yield temporary
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except BaseException as error:
        _remove(temporary)
        if disk_is_full(error):
            free = shutil.disk_usage(path.parent).free / 1e6
            raise InputError(f"{path}: no space left on the disk ({free:.0f} MB free)") from error
        raise


def to_disk(folder: str | Path) -> None:
    """Have all of a folder on the disk, its own entry included, and not in the kernel's memory."""
    folder = Path(folder)
    for path in (*folder.rglob("*"), folder, folder.parent):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            # Some file systems do not know it of a folder.
            if error.errno != errno.EINVAL or not path.is_dir():
                raise
        finally:
            os.close(descriptor)


@contextmanager
def scratch(folder: str | Path) -> Iterator[Path]:
    """A hidden folder inside of ``folder`` for what is not kept, removed as :func:`replacing`'s."""
    place = _own(Path(folder) / "scratch")
    place.mkdir()
    try:
        yield place
    finally:
        _remove(place)


def _own(path: Path) -> Path:
    """A hidden name beside ``path`` that is this process's; those of dead ones are removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = f".{path.stem}.{socket.gethostname()}-"
    for left in path.parent.iterdir():
        process = left.name.removeprefix(mine).removesuffix(path.suffix)
        if left.name.startswith(mine) and process.isdecimal() and not _is_running(int(process)):
            _remove(left)
    return path.with_name(f"{mine}{os.getpid()}{path.suffix}")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


def disk_is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, is the disk's having no space.

    Libraries in Rust and C++ (safetensors, Arrow) wrap the system's error in their own, so its
    text is looked at as well; torch's writer has a text of its own for what it could not write.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(text in str(error) for text in (os.strerror(errno.ENOSPC), *TORCH_CANNOT_WRITE)):
            return True
        error = error.__cause__ or error.__context__
    return False


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write ``.parquet`` or ``.tsv``, whole or not at all, the same bytes for the same table.

    Floats in TSV have ten significant digits; undefined values are empty, never 0.
    """
    with replacing(path) as temporary:
        if temporary.suffix == ".parquet":
            table.to_parquet(temporary, index=False)
        else:
            table.to_csv(
                temporary, sep="\t", index=False, float_format="%.10g", lineterminator="\n"
            )


# Columns of names that users choose: "nan" and "007" are names too.
NAMES = ("contrast", "model", "of", "to", "minus", "alignment", "run", "arm")


def read_table(path: str | Path) -> pd.DataFrame:
    """Read what :func:`write_table` wrote.

    Raises
    ------
    InputError
        If the file is not there or is not a whole Parquet file.
    """
    try:
        if Path(path).suffix == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(
            path, sep="\t", dtype=dict.fromkeys(NAMES, str), keep_default_na=False, na_values=[""]
        )
    except FileNotFoundError as error:
        raise InputError(f"{path}: the file is missing") from error
    except (OSError, ValueError) as error:  # Arrow's and pandas' parsers raise kinds of these
        raise InputError(
            f"{path}: cannot be read as a table; delete it to have it made again"
        ) from error
