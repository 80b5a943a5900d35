"""A table of answers: comma, semicolon or tab between the columns, as programs export it."""

import csv
from collections import Counter
from pathlib import Path
from typing import TextIO

import pandas as pd

from spillover.core.errors import InputError
from spillover.data.answers_matching import NO_ITEM, SETS

COLUMNS = ("attribute", "example_id", "predicted_option")
LOGP = ("logp_0", "logp_1", "logp_2")
SEPARATORS = ",;\t"
# What programs write for nothing.
NOTHING = ("", "na", "n/a", "nan", "null", "none", "<na>")


def read(path: Path, file: TextIO, items: pd.DataFrame) -> tuple[list[dict], Counter]:
    """Rows of predictions, and how many rows were left aside by reason.

    Columns: ``attribute``, ``example_id`` and ``predicted_option`` (0-2, the place among the
    item's options as BBQ gives them; nothing, or a word for it, where no answer could be parsed);
    optionally ``order`` (option index at each place, ``012`` without), ``logp_0``-``logp_2`` (of
    the item's own options, nats) and ``option_mass``. Others are left aside, and so are rows of
    BBQ's sets that are not among ``items``. A number may be written 12, 12.0 or 12,0.

    Raises
    ------
    InputError
        If columns are missing, or a value is none that its column can have; with counts.
    """
    table = _table(path, file)

    def refuse(wrong: pd.Series, shown: pd.Series, expected: str, found: str) -> None:
        if wrong.any():
            raise InputError(
                f"{path}: {expected}; found {found} in {wrong.sum()} of {len(wrong)} rows "
                f"(first: {shown[wrong].iloc[0]})"
            )

    attributes = items["attribute"].unique()
    refuse(
        ~table["attribute"].isin([*SETS, *attributes]),
        table["attribute"],
        "column attribute: expected " + ", ".join(sorted({*SETS, *attributes})),
        "another name",
    )
    other = ~table["attribute"].isin(attributes)
    aside = Counter({NO_ITEM: int(other.sum())} if other.any() else {})
    table = table[~other]
    number = table["example_id"].str.replace(r"[.,]0+$", "", regex=True)
    item_id = table["attribute"] + ":" + number.str.replace(r"^0+(?=\d)", "", regex=True)
    refuse(
        ~item_id.isin(items["item_id"]),
        table["attribute"] + ":" + table["example_id"],
        f"column example_id: expected those of the study's {len(items)} items",
        "no such item",
    )
    option = table["predicted_option"].str.replace(r"[.,]0+$", "", regex=True)
    empty = _is_nothing(option)
    refuse(
        ~(empty | option.isin(["0", "1", "2"])),
        item_id + "=" + table["predicted_option"],
        "column predicted_option: expected 0, 1, 2 or nothing",
        "something else",
    )
    predicted = pd.to_numeric(option.mask(empty))
    rows = pd.DataFrame({"item_id": item_id, "order": "012", "predicted": predicted})
    if "order" in table:
        # spreadsheets take it for a number
        rows["order"] = table["order"].str.replace(r"[.,]0+$", "", regex=True).str.zfill(3)
        refuse(
            rows["order"].map(sorted).map("".join) != "012",
            item_id + "=" + table["order"],
            "column order: expected the options 0, 1, 2 in the order shown, such as 120",
            "something else",
        )
    given = [name for name in (*LOGP, "option_mass") if name in table]
    if set(given) & set(LOGP) and not set(LOGP) <= set(given):
        raise InputError(f"{path}: expected all of {', '.join(LOGP)} or none; found {given}")
    for name in given:
        empty = _is_nothing(table[name])
        text = table[name].mask(empty).str.replace(",", ".")
        rows[name] = pd.to_numeric(text, errors="coerce")
        high = 0.0 if name in LOGP else float("inf")
        refuse(
            ~empty & ~(rows[name] <= high),
            item_id + "=" + table[name],
            f"column {name}: expected a "
            + ("log-probability, at most 0" if name in LOGP else "probability"),
            "something else",
        )
    return rows.to_dict("records"), aside


def _is_nothing(column: pd.Series) -> pd.Series:
    return column.str.lower().isin(NOTHING)


def _table(path: Path, file: TextIO) -> pd.DataFrame:
    """The columns that are read, as text without blanks around it."""
    header = file.readline().rstrip("\r\n")
    names = {
        separator: [name.strip() for name in next(csv.reader([header], delimiter=separator), [])]
        for separator in SEPARATORS
    }
    fitting = [separator for separator, found in names.items() if set(COLUMNS) <= set(found)]
    if not fitting:
        found = max(names.values(), key=len)
        absent = [name for name in COLUMNS if name not in found]
        raise InputError(
            f"{path}: expected the columns {', '.join(COLUMNS)}, between them comma, semicolon or "
            f"tab; missing {', '.join(absent)}, found {', '.join(found) or 'nothing'}"
        )
    [separator] = fitting  # the names have none of them inside
    columns = names[separator]
    try:
        rows = [row for row in csv.reader(file, delimiter=separator, strict=True) if row]
    except csv.Error as problem:
        raise InputError(f"{path}: expected a CSV file, could not read it: {problem}") from None
    uneven = [n for n, row in enumerate(rows, start=1) if len(row) != len(columns)]
    if uneven:
        raise InputError(
            f"{path}: expected {len(columns)} columns; {len(uneven)} of {len(rows)} rows have more "
            f"or fewer (first: row {uneven[0]}); the file may be cut"
        )
    used = [name for name in (*COLUMNS, "order", *LOGP, "option_mass") if name in columns]
    table = pd.DataFrame(rows, columns=columns, dtype=str)[used]
    return table.apply(lambda column: column.str.strip())
