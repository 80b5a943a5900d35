"""The runs of a study, read for the tables: predictions made here, or answers made elsewhere."""

from collections.abc import Mapping, Sequence

import pandas as pd

from spillover.core.errors import InputError
from spillover.core.files import read_table
from spillover.data import answers
from spillover.data.samples import asked_items, heldout_for
from spillover.scoring import parsing
from spillover.statistics.changes import net_change


def read_run(files: Sequence[str], items: pd.DataFrame, asked: pd.DataFrame) -> pd.DataFrame:
    """Predictions of one run.

    Parameters
    ----------
    files : Parquet files, one an attribute, or one file of answers made elsewhere.
    items : item tables of the study's attributes.
    asked : the items that answers made elsewhere must cover; others that they hold are left
        aside, as long as they are items of the study.
    """
    if str(files[0]).endswith(".parquet"):
        return pd.concat(map(read_table, files), ignore_index=True)
    return answers.read(files[0], items, required=asked, parse=parsing.parse)


def read_seeds(
    files_by_run: Mapping[str, Sequence[str]],
    alignment: str,
    items: pd.DataFrame,
    asked: pd.DataFrame,
) -> dict[str, pd.DataFrame]:
    """Predictions of an alignment's runs by seed, read as :func:`read_run` does."""
    return {
        run.rpartition("/")[2]: read_run(files, items, asked)
        for run, files in files_by_run.items()
        if run.rpartition("/")[0] == alignment
    }


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


def read_change(
    files_by_run: Mapping[str, Sequence[str]],
    of: str,
    minus: str | None,
    items: pd.DataFrame,
    heldout: Mapping[str, pd.DataFrame],
    n_blocks: int | None,
) -> pd.Series:
    """Each item's change of correctness by an alignment, net of another's, by ``item_id``.

    Parameters
    ----------
    files_by_run : files of the ``base`` and of each aligned run.
    of, minus : the alignment and, if there is one, its control.
    items : item tables of the study's attributes.
    heldout, n_blocks : what decides on the items that were asked
        (:func:`spillover.data.samples.asked_items`).
    """
    asked = asked_items(items, heldout_for(of, heldout), n_blocks)
    base = read_run(files_by_run["base"], items, asked)
    change, control = (
        name and read_seeds(files_by_run, name, items, asked) for name in (of, minus)
    )
    answered = items_of(items, next(iter(change.values())))
    return net_change(answered, base, change, control)
