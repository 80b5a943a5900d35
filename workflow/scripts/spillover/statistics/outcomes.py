"""From answers to outcomes.

An answer is the index of the option that was chosen, or null where none could be parsed.
"""

import numpy as np
import pandas as pd
from scipy.special import logsumexp

from spillover.core.errors import InputError

OUTCOMES = ("target", "nontarget", "unknown", "unparsed")
CONTEXTS = ("ambig", "disambig")
LOGP = ["logp_0", "logp_1", "logp_2"]
# Of an answer's three options, normalised.
OPTION_LOGP = ["option_logp_0", "option_logp_1", "option_logp_2"]
COLUMNS = [
    "item_id",
    "attribute",
    "example_id",
    "template",
    "context_condition",
    "gold",
    "unknown",
    "target",
    "label_type",
]


def label_outcomes(items: pd.DataFrame, predicted: pd.Series) -> pd.Series:
    """What every answer was: ``target``, ``nontarget``, ``unknown`` or ``unparsed``.

    Parameters
    ----------
    items : one row an answer, with ``unknown`` (0-2) and ``target`` (0-2 or null).
    predicted : option chosen (0-2), null where no answer could be parsed; one a row of ``items``.

    Returns
    -------
    Series with the index of ``items``; null for an answer that names somebody on an item that
    has no target, for it is neither.

    Raises
    ------
    InputError
        If an answer is neither 0, 1, 2 nor null.
    """
    codes = _outcome_codes(items, _option_codes(predicted))
    names = np.array([*OUTCOMES, None], dtype=object)  # code -1 is the last
    return pd.Series(names[codes], index=items.index, name="outcome", dtype="str")


def label_predictions(items: pd.DataFrame, predictions: pd.DataFrame) -> pd.Series:
    """``label_outcomes`` of predictions, whose rows name their item by ``item_id``."""
    asked = items.set_index("item_id").loc[predictions["item_id"]].set_axis(predictions.index)
    return label_outcomes(asked, predictions["predicted"])


def in_order(items: pd.DataFrame) -> pd.DataFrame:
    """Items in the order of publication, rows numbered, without their texts.

    Sums over items then come out the same to the last bit, in whatever order the rows came.
    """
    rows = items[COLUMNS].sort_values(["attribute", "example_id"], kind="stable")
    return rows.reset_index(drop=True)


def align(items: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """Answers to ``items``, sorted by item and option order, whatever the order of the rows.

    Predictions of other items are left aside, so that a run over all items can be compared on a
    held-out part; an item without a prediction is an error, never dropped.

    Returns
    -------
    Frame with ``item`` (row number in ``items``), ``order``, ``predicted`` (-1: unparsed),
    ``correct`` (bool), ``outcome`` (place in ``OUTCOMES``; -1: names somebody on an item
    without target) and ``OPTION_LOGP``: log-probabilities of the item's options, normalised
    over the three, NaN where the run has none.

    Raises
    ------
    InputError
        If an item has no prediction, or two for one option order.
    """
    item = pd.Index(items["item_id"]).get_indexer(predictions["item_id"])
    known = item >= 0
    item, predicted = item[known], _option_codes(predictions["predicted"])[known]
    order, names = pd.factorize(predictions["order"][known], sort=True)
    rank = np.lexsort((order, item))
    item, order, predicted = item[rank], order[rank], predicted[rank]

    absent = np.bincount(item, minlength=len(items)) == 0
    if absent.any():
        raise InputError(
            f"predictions: expected an answer to each of {len(items)} items, {absent.sum()} have "
            f"none (first: {items['item_id'].to_numpy()[absent][0]})"
        )
    twice = (np.diff(item) == 0) & (np.diff(order) == 0)
    if twice.any():
        first = items["item_id"].to_numpy()[item[1:][twice][0]]
        raise InputError(
            f"predictions: expected one answer an item and option order, {twice.sum()} come "
            f"twice (first: {first})"
        )
    asked = items[["gold", "unknown", "target"]].iloc[item]
    logp = _option_logp(predictions)[known][rank]
    return pd.DataFrame(
        {
            "item": item,
            "order": pd.Categorical.from_codes(order, names),
            "predicted": predicted,
            "correct": predicted == asked["gold"].to_numpy(),
            "outcome": _outcome_codes(asked, predicted),
            **dict(zip(OPTION_LOGP, logp.T, strict=True)),
        }
    )


def shares(items: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Share of an item's option orders answered correctly, and with each outcome.

    Parameters
    ----------
    items : one row an item.
    answers : what ``align`` gave for them.

    Returns
    -------
    Frame like ``items`` in rows and index: ``correct`` and one column an outcome, each in [0, 1];
    ``target`` and ``nontarget`` are NaN on items without target.
    """
    item = answers["item"].to_numpy()
    asked = np.bincount(item, minlength=len(items))

    def share(holds):
        return np.bincount(item, weights=holds, minlength=len(items)) / asked

    table = {"correct": share(answers["correct"])}
    for code, outcome in enumerate(OUTCOMES):
        table[outcome] = share(answers["outcome"] == code)
    table = pd.DataFrame(table, index=items.index)
    table.loc[items["target"].isna(), ["target", "nontarget"]] = np.nan
    return table


def changed(before: pd.DataFrame, after: pd.DataFrame) -> np.ndarray:
    """Whether each answer is another option than before, or parsed now, or no more (bool)."""
    return before["predicted"].to_numpy() != after["predicted"].to_numpy()


def option_kl(before: pd.DataFrame, after: pd.DataFrame) -> np.ndarray:
    """KL divergence of each answer's three options from those before, in nats.

    sum p log(p / q) over the item's options, p after and q before, each normalised over the
    three. NaN where a run has no probabilities.

    Parameters
    ----------
    before, after : what :func:`align` gave for the same items and option orders.
    """
    p, q = (answers[OPTION_LOGP].to_numpy() for answers in (after, before))
    # Never negative but by rounding, where two distributions are all but the same.
    return np.maximum(np.sum(np.exp(p) * (p - q), axis=1), 0.0)


def cells(items: pd.DataFrame):
    """Yield ``(keys, rows of items)`` of every attribute, context and label type that is there."""
    for attribute, of_attribute in items.groupby("attribute", sort=True):
        both = {"label", "name"} <= set(of_attribute["label_type"].dropna().unique())
        for context in CONTEXTS:
            rows = of_attribute[of_attribute["context_condition"] == context]
            for label_type in ("all", "label", "name") if both else ("all",):
                cell = rows if label_type == "all" else rows[rows["label_type"] == label_type]
                if len(cell):
                    keys = {"attribute": attribute, "context": context, "label_type": label_type}
                    yield keys, cell


def perfect_shares(items: pd.DataFrame) -> pd.DataFrame:
    """``shares`` of an answerer that is always right."""
    right = items[["item_id"]].assign(order="012", predicted=items["gold"])
    return shares(items, align(items, right))


def _option_logp(predictions: pd.DataFrame) -> np.ndarray:
    """Normalised log-probabilities of the options, (answers, 3); NaN where there are none."""
    if not set(LOGP) <= set(predictions):
        return np.full((len(predictions), 3), np.nan)
    logp = predictions[LOGP].to_numpy(dtype=float, na_value=np.nan)
    return logp - logsumexp(logp, axis=1, keepdims=True)


def _option_codes(predicted: pd.Series) -> np.ndarray:
    """Options as int8, -1 where unparsed."""
    values = pd.Series(predicted).astype("Float64").fillna(-1).to_numpy(dtype=float)
    wrong = ~np.isin(values, (-1, 0, 1, 2))
    if wrong.any():
        raise InputError(
            f"predicted: expected 0, 1, 2 or nothing, {wrong.sum()} answers are something else "
            f"(first: {values[wrong][0]:g})"
        )
    return values.astype(np.int8)


def _outcome_codes(items: pd.DataFrame, predicted: np.ndarray) -> np.ndarray:
    """Place in ``OUTCOMES`` an answer, -1 for somebody named on an item without target."""
    target = items["target"].astype("Float64").fillna(-1).to_numpy(dtype=float)
    return np.select(
        [
            predicted < 0,
            predicted == items["unknown"].to_numpy(),
            target < 0,
            predicted == target,
        ],
        [3, 2, -1, 0],
        default=1,
    ).astype(np.int8)
