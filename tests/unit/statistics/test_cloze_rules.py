"""Three ways to decide among answers of different lengths."""

import numpy as np
import pandas as pd
import pytest
from small_bbq import make_items, oracle
from spillover.statistics.cloze_rules import COLUMNS, cloze_rules


def test_rules_are_compared_on_what_each_would_have_answered():
    items = make_items(blocks=(1, 1))
    n = len(items)
    lengths = np.array([2, 4, 3])
    # The sum prefers option 0, the mean over tokens option 1, the unconditional score option 2.
    total = np.tile([-3.0, -4.0, -5.0], (n, 1))
    predictions = pd.DataFrame({"item_id": items["item_id"], "order": "012"})
    for option in range(3):
        predictions[f"logp_{option}"] = total[:, option]
        predictions[f"logp_per_token_{option}"] = total[:, option] / lengths[option]
        predictions[f"logp_unconditional_{option}"] = [2.0, 2.5, 4.0][option]
    # but for one ambiguous item, where all of them agree
    for column in ("logp_1", "logp_per_token_1", "logp_unconditional_1"):
        predictions.loc[0, column] = 9.0
    table = cloze_rules(items, predictions).set_index(["attribute", "context"])
    assert list(table.reset_index().columns) == COLUMNS
    assert list(table.index) == [
        ("Age", "ambig"),
        ("Age", "disambig"),
        ("all", "ambig"),
        ("all", "disambig"),
    ]
    row = table.loc[("all", "ambig")]
    ambiguous = items[items["context_condition"] == "ambig"]
    assert row["n_items"] == len(ambiguous) == 4
    assert row["agree_all"] == row["agree_sum_per_token"] == 0.25
    assert table.loc[("all", "disambig"), "agree_all"] == 0
    chosen = {"sum": [1, 0, 0, 0], "per_token": [1, 1, 1, 1], "unconditional": [1, 2, 2, 2]}
    for rule, options in chosen.items():
        assert row[f"accuracy_{rule}"] == np.mean(ambiguous["gold"].to_numpy() == options)
        assert row[f"unknown_rate_{rule}"] == np.mean(ambiguous["unknown"].to_numpy() == options)
    assert table.loc[("all", "disambig"), "tokens_sum"] == 2
    assert table.loc[("all", "disambig"), "tokens_per_token"] == pytest.approx(4)


def test_answers_by_letter_have_no_such_rules():
    items = make_items()
    table = cloze_rules(items, oracle("perfect", items))
    assert table.empty
    assert list(table.columns) == COLUMNS
