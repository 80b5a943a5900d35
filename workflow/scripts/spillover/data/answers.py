"""Answers made elsewhere: a file of another program's instead of a model."""

import gzip
import json
import logging
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pandas as pd

from spillover.core.errors import InputError
from spillover.data import (
    answers_csv,
    answers_every_eval_ever,
    answers_inspect,
    answers_lm_eval,
)
from spillover.data.answers_matching import Matcher, Record

logger = logging.getLogger(__name__)

LOGP = ["logp_0", "logp_1", "logp_2"]

# A line of JSON is whose it has the keys of.
LINES = (answers_lm_eval, answers_every_eval_ever)
# Files that lie beside those with the answers, by keys that only they have.
BESIDE = {
    "evaluation_results": "a record of Every Eval Ever without answers: give its …_samples.jsonl",
    "configs": "lm-eval's results without answers: run with --log_samples, give samples_….jsonl",
    "eval": "an Inspect log without samples: run with log_samples, and not only the header",
}


def read(
    path: str | Path,
    items: pd.DataFrame,
    required: pd.DataFrame | None = None,
    parse: Callable | None = None,
) -> pd.DataFrame:
    """Read the answers that some other program gave to ``items``.

    What the file is, its content says: a CSV file (:mod:`answers_csv`), lm-eval's
    ``samples_*.jsonl`` of a bbq task, an Inspect log (JSON or ``.eval``), or samples of Every
    Eval Ever; each may be compressed by gzip. Rows of items that the study does not have are left
    aside, and so are those that fit none or several; how many goes to the log.

    Parameters
    ----------
    items : the items that may have been answered.
    required : those of them that must have been; all by default.
    parse : option that a text names, given text, options, unknown and order (``""`` if none was
        shown) as by :func:`scoring.parsing.parse`. Without it answers in free text are unparsed.

    Returns
    -------
    Predictions in the order of ``required``, one row an item and option order: ``item_id``,
    ``order``, ``logp_0``-``logp_2`` and ``option_mass`` (null: not known), ``predicted`` (0-2 or
    null).

    Raises
    ------
    InputError
        If the file is nothing of these or could be read in two ways, or an answer is missing,
        given twice or out of range; with counts, in one line.
    """
    path = Path(path)
    try:
        rows, aside, kind = _read(path, items, parse)
    except FileNotFoundError:
        raise InputError(f"{path}: expected a file of answers, found none") from None
    except (OSError, EOFError, UnicodeDecodeError, zipfile.BadZipFile) as problem:
        first_line = str(problem).strip().splitlines()[0]
        raise InputError(
            f"{path}: expected a file of answers, could not read it: {first_line}"
        ) from None
    table = pd.DataFrame(rows, columns=["item_id", "order", *LOGP, "option_mass", "predicted"])
    left = ", ".join(f"{count} {reason}" for reason, count in aside.items()) or "none"
    logger.info("%s: %s, %d answers read; left aside: %s", path, kind, len(table), left)

    twice = table.duplicated(["item_id", "order"])
    if twice.any():
        raise InputError(
            f"{path}: expected one row an item and option order; found an item again in "
            f"{twice.sum()} of {len(table)} rows (first: {table['item_id'][twice].iloc[0]})"
        )
    if required is None:
        required = items
    missing = required.loc[~required["item_id"].isin(table["item_id"]), "item_id"]
    if len(missing):
        raise InputError(
            f"{path}: expected an answer to each of {len(required)} items, {len(missing)} are "
            f"missing (first: {missing.iloc[0]}), and one that could not be parsed is a row as "
            f"well; rows left aside: {left}"
        )
    place = pd.Index(required["item_id"]).get_indexer(table["item_id"])
    table = table.assign(place=place)[place >= 0].sort_values("place", kind="stable")
    numbers = dict.fromkeys([*LOGP, "option_mass"], "Float64") | {"predicted": "Int64"}
    return table.drop(columns="place").astype(numbers).reset_index(drop=True)


def _read(path: Path, items: pd.DataFrame, parse: Callable | None) -> tuple[list, Counter, str]:
    """Rows of predictions, how many rows were left aside by reason, and what the file is."""
    with path.open("rb") as file:
        head = file.read(4)
    if head.startswith(b"PK"):
        kind, records = "an Inspect log", answers_inspect.archived(path)
    else:
        with _text(path) as file:
            start = file.readline()
        if not start.lstrip().startswith("{"):
            with _text(path) as file:
                return *answers_csv.read(path, file, items), "CSV"
        kind, records = _json(path, start)
    matcher, aside, rows = Matcher(items, parse), Counter(), []
    for number, record in enumerate(_checked(path, kind, records), start=1):
        found = record if isinstance(record, str) else matcher.row(record, f"{path}: row {number}")
        if isinstance(found, str):
            aside[found] += 1
        else:
            rows.append(found)
    return rows, aside, kind


def _text(path: Path):
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    opener = gzip.open if compressed else open
    return opener(path, "rt", encoding="utf-8-sig", newline="")


def _json(path: Path, start: str) -> tuple[str, Iterable]:
    """What a file of JSON is, and its records."""
    try:
        first = json.loads(start)
    except ValueError:
        first = {}
    for module in LINES:
        if first.keys() >= module.KEYS:
            return module.KIND, module.records(_lines(path))
    try:
        with _text(path) as file:
            whole = json.load(file)
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}; the file may be cut") from None
    if "eval" in whole and whole.get("samples"):
        return answers_inspect.KIND, answers_inspect.records(whole["samples"])
    for key, what in BESIDE.items():
        if key in whole:
            raise InputError(f"{path}: {what}")
    raise InputError(
        f"{path}: expected samples of lm-eval or of Every Eval Ever, or an Inspect log; found JSON "
        f"with the keys {', '.join(list(whole)[:8])}"
    )


def _lines(path: Path) -> Iterator[dict]:
    with _text(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except ValueError as error:
                raise InputError(
                    f"{path}: line {number} is not JSON: {error}; the file may be cut"
                ) from None


def _checked(path: Path, kind: str, records: Iterable) -> Iterator[Record | str]:
    """The records, one that is not as its program writes it refused in one line."""
    number = 0
    try:
        for record in records:
            number += 1
            yield record
    except InputError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise InputError(
            f"{path}: row {number + 1} is not as in {kind}: {type(error).__name__}: {error}"
        ) from error
