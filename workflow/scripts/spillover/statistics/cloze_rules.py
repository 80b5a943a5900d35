"""Do the three ways to decide among answers of different lengths agree?"""

from itertools import combinations

import numpy as np
import pandas as pd

# Each rule's columns in the predictions.
RULES = {
    "sum": "logp_{}",
    "per_token": "logp_per_token_{}",
    "unconditional": "logp_unconditional_{}",
}
COLUMNS = [
    "attribute",
    "context",
    "n_items",
    *(f"accuracy_{rule}" for rule in RULES),
    *(f"unknown_rate_{rule}" for rule in RULES),
    *(f"tokens_{rule}" for rule in RULES),
    *(f"agree_{one}_{other}" for one, other in combinations(RULES, 2)),
    "agree_all",
]


def cloze_rules(items: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """What each rule would have answered, and how often two of them, or all three, agree.

    Parameters
    ----------
    items : one row an item; every one must have been answered.
    predictions : of a run scored by cloze; of any other, the table is empty. With
        ``unknowns: all`` the unknown option has one phrase's scores, that of the rule that
        decided.

    Returns
    -------
    One row an attribute and context, and for ``all`` of them: ``accuracy_*`` and
    ``unknown_rate_*`` (shares of the items), ``tokens_*`` (mean number of tokens of the chosen
    answer) of each rule; ``agree_*``, shares of the items.
    """
    names = {rule: [column.format(i) for i in range(3)] for rule, column in RULES.items()}
    if not {name for columns in names.values() for name in columns} <= set(predictions):
        return pd.DataFrame(columns=COLUMNS)
    table = items[["item_id", "attribute", "context_condition", "gold", "unknown"]]
    table = table.merge(predictions, on="item_id", validate="one_to_one")
    lengths = (
        table[names["sum"]].to_numpy(dtype=float)
        / table[names["per_token"]].to_numpy(dtype=float)
    )  # fmt: skip
    chosen = {
        rule: table[columns].to_numpy(dtype=float).argmax(axis=1) for rule, columns in names.items()
    }
    found = table[["attribute", "context_condition"]].rename(
        columns={"context_condition": "context"}
    )
    for rule, options in chosen.items():
        found[f"accuracy_{rule}"] = options == table["gold"]
        found[f"unknown_rate_{rule}"] = options == table["unknown"]
        found[f"tokens_{rule}"] = lengths[np.arange(len(table)), options]
    for one, other in combinations(RULES, 2):
        found[f"agree_{one}_{other}"] = chosen[one] == chosen[other]
    found["agree_all"] = found.filter(like="agree_").all(axis=1)
    rows = pd.concat([found, found.assign(attribute="all")])
    grouped = rows.groupby(["attribute", "context"], sort=False)
    means = grouped.mean().assign(n_items=grouped.size()).reset_index()
    order = [*sorted(items["attribute"].unique()), "all"]
    means["place"] = means["attribute"].map(order.index)
    return means.sort_values(["place", "context"])[COLUMNS].reset_index(drop=True)
