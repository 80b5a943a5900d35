"""What became of the answers: how many items went from which state to which."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from spillover.statistics import outcomes
from spillover.statistics.changes import answers_of

STATES = ("gold", "target", "nontarget", "unknown", "unparsed", "other")


def transitions(
    items: pd.DataFrame, base: pd.DataFrame, aligned: Mapping[object, pd.DataFrame]
) -> pd.DataFrame:
    """What became of the answers: how many items went from which state to which.

    An answer is in exactly one state: ``gold`` if it is right, whatever it names; else
    ``unparsed``, ``unknown`` (wrong in disambiguated contexts only), ``target`` or ``nontarget``;
    and ``other`` if it wrongly names somebody on an item without target.

    Returns
    -------
    One row an attribute, context, state ``before`` and state ``after`` (``other`` only where it
    occurs), with the number of ``items`` (fractional: an item's answers count one in all, over
    option orders and seeds) and their ``share`` of the attribute's items in that context.
    """
    items, before, after = answers_of(items, base, aligned)
    n, k = len(items), len(STATES)
    item = before["item"].to_numpy()
    weight = 1 / (np.bincount(item, minlength=n)[item] * len(after))
    first = _states(before)
    counts = np.zeros((n, k * k))
    for answers in after:
        step = first * k + _states(answers)
        counts += np.bincount(item * k * k + step, weights=weight, minlength=n * k * k).reshape(
            n, -1
        )
    tables = []
    steps = pd.MultiIndex.from_product([STATES, STATES], names=["before", "after"])
    for keys, cell in outcomes.cells(items):
        if keys["label_type"] != "all":
            continue
        table = pd.DataFrame({"items": counts[cell.index].sum(axis=0)}, index=steps).reset_index()
        rare = (table["before"] == "other") | (table["after"] == "other")
        table = table[~rare | (table["items"] > 0)]
        table = table.assign(share=table["items"] / len(cell))
        table.insert(0, "attribute", keys["attribute"])
        table.insert(1, "context", keys["context"])
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _states(answers: pd.DataFrame) -> np.ndarray:
    """Place in ``STATES`` of every answer; outcome -1 is the last, ``other``."""
    of_outcome = np.array([STATES.index(name) for name in (*outcomes.OUTCOMES, "other")])
    state = of_outcome[answers["outcome"].to_numpy()]
    return np.where(answers["correct"].to_numpy(), STATES.index("gold"), state)
