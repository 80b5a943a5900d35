"""Companion sets of a study's own: a data set of the hub, or a file, and what its columns are."""

import json
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path

import pandas as pd

from spillover.core.errors import InputError, first_line
from spillover.data.companions import SETS, CompanionSet


def _json_lines(path: str) -> pd.DataFrame:
    return pd.DataFrame(
        [json.loads(line) for line in Path(path).open(encoding="utf-8") if line.strip()]
    )


# How a file of the user's is read, by its suffix. JSON is not pandas': "2" is a label, 2 an index.
FORMATS = {
    ".jsonl": _json_lines,
    ".json": lambda path: pd.DataFrame(json.loads(Path(path).read_text(encoding="utf-8"))),
    ".csv": pd.read_csv,
    ".parquet": pd.read_parquet,
}
LETTERS = 4


def set_of(name: str, own: Mapping[str, Mapping]) -> CompanionSet:
    """How a set is asked and measured: a published one, or of a study's own texts or questions.

    Parameters
    ----------
    own : the study's own sets by name.
    """
    if name in SETS:
        return SETS[name]
    if "text" in own[name]:
        return CompanionSet(None, "language")
    return CompanionSet(None, "ability", letters=own[name].get("letters", LETTERS))


def check(key: str, own: Mapping) -> None:
    """Check that a set has one source, and says what its columns are.

    Raises
    ------
    InputError
        For the first fault.
    """
    if ("repo" in own) == ("path" in own):
        raise InputError(f"{key}: expected repo, a data set of the hub, or path, a file of yours")
    if "path" in own and Path(own["path"]).suffix not in FORMATS:
        raise InputError(f"{key}.path: expected {', '.join(FORMATS)}, found {own['path']}")
    questions = {"question", "options", "gold"}
    if ("text" in own) == bool(questions & set(own)):
        raise InputError(
            f"{key}: expected text, the column of running text, or question, options and gold"
        )
    for setting in ("name", "revision", "split"):
        if "path" in own and setting in own:
            raise InputError(f"{key}.{setting}: goes with repo, not with path")
    missing = sorted(questions - set(own)) if "text" not in own else []
    if missing:
        raise InputError(f"{key}: questions go with the key {missing[0]!r}, found none")


def fetch(key: str, own: Mapping) -> pd.DataFrame:
    """The rows of a set, as they are.

    Parameters
    ----------
    key : of the configuration, for errors.
    own : ``repo`` with ``revision`` and, where there are several, ``name``; or ``path``. ``split``.

    Raises
    ------
    InputError
        If it cannot be had: there is none, or no network.
    """
    source = own.get("repo") or own["path"]
    try:
        if "path" in own:
            return FORMATS[Path(source).suffix](source)
        import datasets

        datasets.disable_progress_bars()
        settings = {"revision": own.get("revision", "main"), "split": own.get("split", "test")}
        return datasets.load_dataset(source, own.get("name"), **settings).to_pandas()
    except Exception as error:  # whatever the libraries and the network raise
        raise InputError(f"{key}: {source} cannot be had: {first_line(error)}") from error


def items(key: str, own: Mapping, rows: pd.DataFrame) -> pd.DataFrame:
    """Items of a set, with the columns that readers of published sets give.

    Parameters
    ----------
    rows : as published.
    own : names of columns, those within others with a dot: ``text``; or ``question``, ``gold``
        (an option's index as a number, its letter, its text or its label), ``options`` (a column
        of lists, or several columns); ``labels``, ``context`` and ``cluster`` if there are any.

    Raises
    ------
    InputError
        If a column is not there, a text is missing, options are alike, or an item's gold is none
        of them.
    """
    n = len(rows)
    if n == 0:
        raise InputError(f"{key}: expected rows, found none")
    texts = {
        part: _texts(f"{key}.{part}", _column(key, own, part, rows))
        for part in ("text", "question", "context", "cluster")
        if part in own
    }
    empty = [""] * n
    own_cluster = [str(number) for number in range(n)]
    if "text" in own:
        options, labels, gold = [[text] for text in texts["text"]], [["text"]] * n, [None] * n
    else:
        options = _options(key, own, rows)
        given = list(_column(key, own, "gold", rows))
        names = list(_column(key, own, "labels", rows)) if "labels" in own else [None] * n
        by_row = zip(given, options, names, strict=True)
        gold = [_gold(key, at, *of) for at, of in enumerate(by_row)]
        labels = [[chr(ord("A") + i) for i in range(len(row))] for row in options]
    return pd.DataFrame(
        {
            "block": own_cluster,
            "cluster": texts.get("cluster", own_cluster),
            "group": "",
            "condition": "",
            "context": texts.get("context", empty),
            "question": texts.get("question", empty),
            "options": options,
            "labels": labels,
            "gold": gold,
        }
    )


def _column(key: str, own: Mapping, part: str, rows: pd.DataFrame) -> Sequence:
    return _named(f"{key}.{part}", own[part], rows)


def _named(key: str, name: str, rows: pd.DataFrame) -> Sequence:
    """A column by its name, or a part of each of its values by name.name."""
    first, *within = name.split(".")
    if first not in rows:
        raise InputError(f"{key}: expected of {', '.join(map(str, rows))}; found {name!r}")
    values = list(rows[first])
    for part in within:
        try:
            values = [value[part] for value in values]
        except (TypeError, KeyError, IndexError) as error:
            raise InputError(f"{key}: {first} has no {part!r} in every row") from error
    return values


def _options(key: str, own: Mapping, rows: pd.DataFrame) -> list[list[str]]:
    if isinstance(own["options"], str):
        lists = _column(key, own, "options", rows)
    else:
        columns = [_named(f"{key}.options", name, rows) for name in own["options"]]
        lists = zip(*columns, strict=True)
    found = [_texts(f"{key}.options", row, at) for at, row in enumerate(lists)]
    most, least = max(map(len, found)), min(map(len, found))
    allowed = own.get("letters", LETTERS)
    if most > allowed or least < 2:
        raise InputError(
            f"{key}.options: expected 2 to {allowed} an item (letters), found {least} to {most}"
        )
    for at, row in enumerate(found):
        if len(set(row)) < len(row):
            raise InputError(f"{key}.options: row {at}: expected options that differ, found {row}")
    return found


def _texts(key: str, values: Sequence, row: int | None = None) -> list[str]:
    """Values as texts, none of them missing or empty."""
    found = []
    for at, value in enumerate(values):
        text = "" if value is None or value != value else str(value).strip()
        if not text:
            raise InputError(
                f"{key}: row {at if row is None else row}: expected a text, found none"
            )
        found.append(text)
    return found


def _gold(key: str, at: int, given: object, options: Sequence[str], labels: Sequence | None) -> int:
    """Index of the right option: a number is an index, a string a label, a text or a letter."""
    text = str(given).strip()
    if labels is not None:
        known = [str(label).strip() for label in labels]
    elif isinstance(given, Integral):
        known = list(map(str, range(len(options))))
    elif text in options:
        known = list(options)
    else:
        known = [chr(ord("A") + place) for place in range(len(options))]
        text = text.upper()
    if text not in known:
        raise InputError(
            f"{key}.gold: row {at}: expected one of {', '.join(known)}, found {text!r}"
            + ("" if labels is not None else "; if options have labels, name their column: labels")
        )
    return known.index(text)
