"""Partial results of a scoring job: finished blocks, kept beside its output.

An append-only file of JSON lines. Its first line names the fingerprint of whatever the
results depend on; each other line holds the rows of one block. A job that is killed, even
while writing, leaves whole lines and at most one broken one at the end, which is ignored.
"""

import json
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

from spillover.core.errors import InputError
from spillover.core.files import disk_is_full

logger = logging.getLogger(__name__)


class ScoredBlocks:
    """Rows of the blocks that are done, in memory and, with a folder, on disk.

    Parameters
    ----------
    folder : where to keep them; None keeps nothing.
    fingerprint : rows found there under another fingerprint are dropped.
    """

    def __init__(self, folder: str | Path | None, fingerprint: str):
        self._rows: dict[str, list[dict]] = {}
        self._file = None
        if folder is None:
            return
        path = Path(folder) / "blocks.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = self._read(path, fingerprint)
        # Unbuffered: after write() the operating system has the line, whoever is killed.
        self._file = path.open("ab", buffering=0)
        self._file.truncate(whole)
        if whole == 0:
            self._write([{"fingerprint": fingerprint}])

    def _read(self, path: Path, fingerprint: str) -> int:
        """Load the rows on disk; the number of bytes that are whole and of this fingerprint."""
        whole = 0
        if not path.exists():
            return whole
        with path.open("rb") as lines:
            for line in lines:
                try:
                    record = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    record = None
                if record is None:
                    break
                if whole == 0 and record.get("fingerprint") != fingerprint:
                    logger.info("%s: of other settings or another model; starting over", path)
                    return 0
                if whole > 0:
                    self._rows[record["block"]] = record["rows"]
                whole += len(line)
        if self._rows:
            logger.info("%s: %d blocks are done already", path, len(self._rows))
        return whole

    def rows(self, block: str, item_ids: Iterable[str]) -> list[dict] | None:
        """Rows of a block, or None unless they are those of exactly these items."""
        rows = self._rows.get(block)
        if rows is None or {row["item_id"] for row in rows} != set(item_ids):
            return None
        return rows

    def add(self, blocks: dict[str, list[dict]]) -> None:
        """Keep the rows of newly finished blocks.

        Raises
        ------
        InputError
            If the disk is full; what was kept before stays.
        """
        self._rows.update(blocks)
        if self._file is not None:
            self._write([{"block": block, "rows": rows} for block, rows in blocks.items()])

    def _write(self, records: list[dict]) -> None:
        lines = b"".join(json.dumps(record).encode() + b"\n" for record in records)
        try:
            self._file.write(lines)
        except OSError as error:
            if disk_is_full(error):
                raise InputError(f"{self._file.name}: no space left on the disk") from error
            raise

    def close(self) -> None:
        """Close the file; what it holds stays."""
        if self._file is not None:
            self._file.close()


def remove(folder: str | Path) -> None:
    """Remove partial results, once the output that they were for is written."""
    shutil.rmtree(folder, ignore_errors=True)
