"""The runs of a study, read for the tables: predictions made here, or answers made elsewhere."""

from collections.abc import Mapping, Sequence

import pandas as pd

from spillover.core.errors import InputError
from spillover.core.files import read_table
from spillover.data import answers
from spillover.data.bbq import evaluated_items


def read_run(files: Sequence[str], items: pd.DataFrame, asked: pd.DataFrame) -> pd.DataFrame:
    """Predictions of one run.

    Parameters
    ----------
    files : Parquet files, one an attribute, or one CSV file of answers made elsewhere.
    items : item tables of the study's attributes.
    asked : the items that answers made elsewhere must cover; others that they hold are left
        aside, as long as they are items of the study.
    """
    if str(files[0]).endswith(".parquet"):
        return pd.concat(map(read_table, files), ignore_index=True)
    return answers.read(files[0], items, required=asked)


def asked_items(
    items: pd.DataFrame, heldout: Sequence[pd.DataFrame], n_blocks: int | None
) -> pd.DataFrame:
    """Items to evaluate over all attributes: samples, of held-out items where targeted.

    Parameters
    ----------
    heldout : held-out items (``item_id``), a table an alignment.
    """
    parts = []
    for _, table in items.groupby("attribute", sort=False):
        targeted = [held for held in heldout if table["item_id"].isin(held["item_id"]).any()]
        parts.append(evaluated_items(table, targeted, n_blocks))
    return pd.concat(parts, ignore_index=True)


def heldout_for(run: str, heldout: Mapping[str, pd.DataFrame]) -> list[pd.DataFrame]:
    """What a run is evaluated on of the targeted attributes, of held-out items by alignment.

    An aligned run on what its alignment held out, the base on what any did.
    """
    return [
        held
        for name, held in heldout.items()
        if run in ("base", name) or run.startswith(f"{name}/")
    ]


def items_of(items: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """Items that predictions answer.

    Raises
    ------
    InputError
        If predictions are of items that the study does not have.
    """
    asked = items[items["item_id"].isin(predictions["item_id"])]
    unknown = predictions["item_id"].nunique() - len(asked)
    if unknown:
        raise InputError(f"predictions: {unknown} of their items are not among the study's items")
    return asked
