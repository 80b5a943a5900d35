"""Prompts of other attributes than the targets, and texts: what an objective takes beside pairs."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from spillover.core.errors import InputError
from spillover.data.prompts import cloze_chat, cloze_reply
from spillover.data.samples import exclude_groups, split_heldout, spread_blocks

COLUMNS = ["item_id", "prompt", "replies"]


def split_each(
    items: pd.DataFrame, split: Mapping, exclude: str | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and held-out items of other attributes, each split by itself as targets are.

    Parameters
    ----------
    items : item tables of one or more attributes.
    split : ``by``, ``heldout`` and ``seed``, as in
        :func:`spillover.data.samples.split_heldout`.
    exclude : as in :func:`spillover.data.samples.exclude_groups`.

    Raises
    ------
    InputError
        If either side would be left without items of an attribute.
    """
    left = exclude_groups(items, exclude)
    gone = sorted(set(items["attribute"]) - set(left["attribute"]))
    if gone:
        raise InputError(f"exclude_groups: of {gone[0]} no item is left")
    sides = [
        split_heldout(table, split["by"], split["heldout"], split["seed"])
        for _, table in left.groupby("attribute", sort=False)
    ]
    train, heldout = (pd.concat(tables, ignore_index=True) for tables in zip(*sides, strict=True))
    return train, heldout


def build(
    items: pd.DataFrame, split: Mapping, exclude: str | None, max_items: int | None
) -> pd.DataFrame:
    """Questions without options, as pairs of format ``cloze`` ask them, with their answers.

    Parameters
    ----------
    items, split, exclude : as in :func:`split_each`; only items of the training side are taken.
    max_items : at most so many of all attributes together, as whole blocks spread over the
        templates.

    Returns
    -------
    ``item_id``, ``prompt`` (a list of messages) and ``replies`` (the three answers' texts).
    """
    train, _ = split_each(items, split, exclude)
    if max_items is not None:
        train = spread_blocks(train, max_items // 4, split["seed"])
    rows = [
        (item["item_id"], cloze_chat(item), [cloze_reply(text) for text in item["options"]])
        for item in train.to_dict("records")
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def read_texts(path: str | Path) -> pd.DataFrame:
    """Texts of a file of the user's, one a line: ``item_id`` (the line) and ``text``.

    Empty lines are passed over.

    Raises
    ------
    InputError
        If the file is not UTF-8 or has no text.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8, a text a line; {error}") from error
    texts = [
        (f"line {number} of {path}", line.strip())
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not texts:
        raise InputError(f"{path}: expected a text a line, found none")
    return pd.DataFrame(texts, columns=["item_id", "text"])
