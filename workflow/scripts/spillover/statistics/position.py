"""How far the place of an option on the page decides."""

import numpy as np
import pandas as pd

from spillover.statistics import outcomes
from spillover.statistics.bias import bias_values
from spillover.statistics.tables import exact_zeros, mean

POSITION_COLUMNS = [
    "attribute",
    "context",
    "n_items",
    "n_orders",
    "content_share",
    "position_share",
    "mixed_share",
    "unparsed_share",
    "first_place_rate",
    "second_place_rate",
    "third_place_rate",
    "accuracy_averaged",
    "unknown_rate_averaged",
]


def position(items: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """How far the place of an option on the page decides, by attribute and context.

    Over the option orders that an item was asked in, a choice is decided by ``content`` if the
    same option was always chosen, by ``position`` if the same place was, ``unparsed`` if an
    answer could not be parsed, and ``mixed`` otherwise. Choosing at random among three orders
    gives 1/9 each of content and position.

    Were an option's log-probability a part of its content plus a part of its place, then its
    mean over orders that put every option in every place equally often, as cyclic and all
    orders do, would be free of the place (cyclic permutation, Zheng et al. 2024, arXiv
    2309.03882). What would be chosen so gives ``accuracy_averaged``.

    Returns
    -------
    One row an attribute and context, over the items asked in more than one order (no row where
    there is none): ``n_items``, ``n_orders``, the four shares, the share of answers that chose
    the first, second and third place; ``accuracy_averaged`` and ``unknown_rate_averaged``,
    shares of the items (empty without probabilities); and, if there are rows, accuracy and bias
    score for each order alone.
    """
    items = outcomes.in_order(items)
    answers = outcomes.align(items, predictions)
    item, predicted = answers["item"].to_numpy(), answers["predicted"].to_numpy()
    # order[k] is the option at place k: the place of option p is where p stands in order
    codes, names = pd.factorize(answers["order"])
    place_of = np.array([[*(name.find(option) for option in "012"), -1] for name in names])
    place = place_of[codes, predicted]  # -1, unparsed, picks the last column

    n = len(items)
    asked = np.bincount(item, minlength=n)
    chosen = np.column_stack(
        [np.bincount(item, weights=predicted == p, minlength=n) for p in range(3)]
    )
    placed = np.column_stack([np.bincount(item, weights=place == p, minlength=n) for p in range(3)])
    decided = np.select(
        [
            chosen.sum(axis=1) < asked,
            chosen.max(axis=1) == asked,
            placed.max(axis=1) == asked,
        ],
        ["unparsed", "content", "position"],
        default="mixed",
    )
    averaged = answers.groupby("item")[outcomes.OPTION_LOGP].mean().to_numpy()
    known, best = ~np.isnan(averaged).any(axis=1), averaged.argmax(axis=1)
    by_order = {}
    for order, alone in answers.groupby("order", observed=True):
        asked_so = items.loc[alone["item"]].reset_index(drop=True)
        table = outcomes.shares(asked_so, alone.assign(item=np.arange(len(alone))))
        by_order[order] = table.set_axis(alone["item"]).reindex(items.index)
    rows = []
    for keys, cell in outcomes.cells(items):
        cell = cell[asked[cell.index] > 1]
        if keys["label_type"] != "all" or cell.empty:
            continue
        here = cell.index.to_numpy()
        row = {key: keys[key] for key in ("attribute", "context")}
        row |= {"n_items": len(here), "n_orders": asked[here].max()}
        for reason in ("content", "position", "mixed", "unparsed"):
            row[f"{reason}_share"] = np.mean(decided[here] == reason)
        for p, name in enumerate(("first", "second", "third")):
            row[f"{name}_place_rate"] = placed[here, p].sum() / asked[here].sum()
        for name, option in (("accuracy", cell["gold"]), ("unknown_rate", cell["unknown"])):
            share = np.mean(best[here] == option.to_numpy())
            row[f"{name}_averaged"] = share if known[here].all() else np.nan
        for order, table in by_order.items():
            table = table.iloc[here]
            scored = table.dropna()  # items asked in this order that have a target
            row[f"accuracy_{order}"] = table["correct"].mean()
            row[f"bias_score_{order}"] = mean(bias_values(scored, keys["context"]))
        rows.append(row)
    return exact_zeros(pd.DataFrame(rows, columns=None if rows else POSITION_COLUMNS))
