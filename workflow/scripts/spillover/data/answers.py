"""Answers made elsewhere: a CSV file instead of a model."""

from pathlib import Path

import pandas as pd

from spillover.core.errors import InputError

COLUMNS = ("attribute", "example_id", "predicted_option")


def read(
    path: str | Path, items: pd.DataFrame, required: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Read the answers that some other program gave to ``items``.

    Parameters
    ----------
    path : CSV file with the columns ``attribute``, ``example_id`` and ``predicted_option``: 0, 1
        or 2, the place among the item's options as BBQ gives them, or empty where no answer could
        be parsed. Other columns are left aside.
    items : the items that may have been answered, each at most once.
    required : those of them that must have been; all by default.

    Returns
    -------
    Predictions, one row an item in the order of ``required``: ``item_id``, ``order`` (``012``),
    ``logp_0``-``logp_2`` and ``option_mass`` (null: not known), ``predicted`` (0-2 or null).

    Raises
    ------
    InputError
        If the file cannot be read as such a table, or an answer is missing, given twice, out of
        range or for no item; with counts, in one line.
    """
    table = _read_text(path)
    item_id = table["attribute"] + ":" + table["example_id"]
    option = table["predicted_option"]
    _refuse(
        path,
        ~table["attribute"].isin(items["attribute"]),
        table["attribute"],
        "column attribute: expected " + ", ".join(sorted(items["attribute"].unique())),
        "another name",
    )
    _refuse(
        path,
        ~item_id.isin(items["item_id"]),
        item_id,
        f"column example_id: expected those of the study's {len(items)} items",
        "no such item",
    )
    _refuse(path, item_id.duplicated(), item_id, "expected one row an item", "an item again")
    _refuse(
        path,
        ~option.isin(["", *_spellings()]),
        item_id + "=" + option,
        "column predicted_option: expected 0, 1, 2 or nothing",
        "something else",
    )
    if required is None:
        required = items
    missing = required.loc[~required["item_id"].isin(item_id), "item_id"]
    if len(missing):
        raise InputError(
            f"{path}: expected an answer to each of {len(required)} items, {len(missing)} are "
            f"missing (first: {missing.iloc[0]}); an answer that could not be parsed is a row "
            "with an empty predicted_option"
        )
    chosen = option.map(_spellings()).set_axis(item_id).reindex(required["item_id"])
    null = pd.array([pd.NA] * len(required), dtype="Float64")
    return pd.DataFrame(
        {
            "item_id": required["item_id"].to_numpy(),
            "order": "012",
            "logp_0": null,
            "logp_1": null,
            "logp_2": null,
            "option_mass": null,
            "predicted": pd.array(chosen, dtype="Int64"),
        }
    )


def _spellings() -> dict[str, int]:
    """How an option may be written: a column with empty cells makes other programs write 2.0."""
    return {str(n): n for n in range(3)} | {f"{n}.0": n for n in range(3)}


def _read_text(path: str | Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise InputError(f"{path}: expected a CSV file, found none") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as problem:
        first_line = str(problem).strip().splitlines()[0]
        raise InputError(f"{path}: expected a CSV file, could not read it: {first_line}") from None
    absent = [column for column in COLUMNS if column not in table.columns]
    if absent:
        raise InputError(
            f"{path}: expected the columns {', '.join(COLUMNS)}; missing {', '.join(absent)}, "
            f"found {', '.join(table.columns)}"
        )
    return table[list(COLUMNS)].apply(lambda column: column.str.strip())


def _refuse(path, wrong: pd.Series, shown: pd.Series, expected: str, found: str) -> None:
    if wrong.any():
        raise InputError(
            f"{path}: {expected}; found {found} in {wrong.sum()} of {len(wrong)} rows "
            f"(first: {shown[wrong].iloc[0]})"
        )
