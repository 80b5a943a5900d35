"""Items whose answer changed, in both directions, chosen by rule."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd

from spillover.statistics import outcomes

WAYS = {True: "wrong before, right after", False: "right before, wrong after"}
EACH = 3  # examples of a direction and context


@dataclass(frozen=True)
class Example:
    """An item, and what was answered before and after.

    Attributes
    ----------
    options : each with its probability before and after, normalised over the three; None of
        answers without probabilities.
    before, after, gold : places among the options; of an answer that could not be read -1.
    responses : what was generated before and after, if anything was.
    """

    item_id: str
    attribute: str
    context_name: str
    context: str
    question: str
    options: list[tuple[str, float | None, float | None]]
    before: int
    after: int
    gold: int
    responses: tuple[str, str] | None


def examples(
    items: pd.DataFrame, base: pd.DataFrame, aligned: pd.DataFrame, targets: Collection[str]
) -> dict[str, list[Example]]:
    """Items of attributes that were not aligned for whose answer became right, or wrong.

    Parameters
    ----------
    items : item tables, with their texts.
    base, aligned : predictions; what both answer is looked at, in the first order of options.

    Returns
    -------
    By :data:`WAYS` and context up to :data:`EACH`: those whose right option gained, or lost, the
    most probability, of an attribute one at most; without probabilities the first by name.
    """
    both = set(base["item_id"]) & set(aligned["item_id"])
    asked = items[items["item_id"].isin(both) & ~items["attribute"].isin(list(targets))]
    asked = asked.sort_values(["attribute", "example_id"], kind="stable").reset_index(drop=True)
    if asked.empty:
        return {}
    first = [_first(asked, predictions) for predictions in (base, aligned)]
    right = [answers["correct"].to_numpy() for answers in first]
    gold = asked["gold"].to_numpy()
    before, after = (
        np.exp(answers[outcomes.OPTION_LOGP].to_numpy()[np.arange(len(asked)), gold])
        for answers in first
    )
    gain = np.nan_to_num(after - before)
    texts = [_responses(asked, predictions) for predictions in (base, aligned)]
    found = {}
    for to_right, way in WAYS.items():
        here = (right[0] != to_right) & (right[1] == to_right)
        shown = []
        for context in outcomes.CONTEXTS:
            rows = np.flatnonzero(here & (asked["context_condition"] == context).to_numpy())
            rows = rows[np.argsort(-gain[rows] if to_right else gain[rows], kind="stable")]
            # Of an attribute one: no subject is shown for being frequent.
            unique = asked["attribute"].iloc[rows].drop_duplicates().index[:EACH]
            shown += [_example(asked.iloc[row], row, first, texts) for row in unique]
        found[way] = shown
    return found


def _first(items: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """Answers to items in the first of the orders that they were asked in."""
    return outcomes.align(items, predictions).drop_duplicates("item").reset_index(drop=True)


def _responses(items: pd.DataFrame, predictions: pd.DataFrame) -> list[str] | None:
    """What was generated, item by item, in the first order."""
    if "response" not in predictions:
        return None
    texts = predictions.sort_values("order", kind="stable").drop_duplicates("item_id")
    return texts.set_index("item_id")["response"].reindex(items["item_id"]).fillna("").tolist()


def _example(item: pd.Series, row: int, first: list[pd.DataFrame], texts: list) -> Example:
    chances = [np.exp(answers.loc[row, outcomes.OPTION_LOGP].to_numpy(float)) for answers in first]
    known = all(np.isfinite(chance).all() for chance in chances)
    return Example(
        item["item_id"],
        item["attribute"],
        item["context_condition"],
        item["context"],
        item["question"],
        [
            (text, *((float(chance[place]) for chance in chances) if known else (None, None)))
            for place, text in enumerate(item["options"])
        ],
        *(int(answers.loc[row, "predicted"]) for answers in first),
        int(item["gold"]),
        (texts[0][row], texts[1][row]) if None not in texts else None,
    )
