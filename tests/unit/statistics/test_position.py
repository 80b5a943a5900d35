import numpy as np
import pandas as pd
import pytest
from small_bbq import make_items, make_predictions, oracle
from spillover.statistics.position import POSITION_COLUMNS, position

pytestmark = pytest.mark.filterwarnings("error")  # undefined is NaN, without a fuss


def test_content_and_position_are_told_apart():
    items = make_items()
    for name, column in (("biased", "content_share"), ("position", "position_share")):
        table = position(items, oracle(name, items))
        assert (table[column] == 1).all()
        assert (table["n_orders"] == 3).all()
    assert (table["first_place_rate"] == 1).all()
    unparsable = position(items, oracle("unparsable", items))
    assert (unparsable["unparsed_share"] == 1).all()


def test_a_choice_that_follows_neither_is_mixed():
    items = make_items()
    answers = {"012": 0 * items["gold"], "120": 0 * items["gold"] + 1, "201": 0 * items["gold"]}
    table = position(items, make_predictions(items, answers))
    assert (table["mixed_share"] == 1).all()
    # option 0 stands first in 012 and second in 201; option 1 stands first in 120
    assert table["first_place_rate"].tolist() == pytest.approx([2 / 3] * 2)
    assert table["second_place_rate"].tolist() == pytest.approx([1 / 3] * 2)


def test_averaging_over_the_orders_takes_the_place_out():
    items = make_items()
    gold = items["gold"].to_numpy()
    # content favours the right option by 1 nat, the place favours the third by 3
    answers = []
    for order in ("012", "120", "201"):
        place = np.array([order.index(option) for option in "012"])
        logp = 3.0 * (place == 2) + 1.0 * (gold[:, None] == np.arange(3))
        answers.append(
            pd.DataFrame(
                {
                    "item_id": items["item_id"],
                    "order": order,
                    "predicted": logp.argmax(axis=1),
                    **{f"logp_{i}": logp[:, i] for i in range(3)},
                }
            )
        )
    table = position(items, pd.concat(answers, ignore_index=True))
    assert (table["position_share"] == 1).all()
    assert (table["accuracy_averaged"] == 1).all()
    assert table.set_index("context")["unknown_rate_averaged"].to_dict() == {
        "ambig": 1,
        "disambig": 0,
    }
    without = position(items, oracle("position", items))
    assert without["accuracy_averaged"].isna().all()


def test_random_choices_are_decided_by_either_one_time_in_nine():
    items = make_items(blocks=(50,) * 40)
    table = position(items, oracle("random", items))
    error = np.sqrt(1 / 9 * 8 / 9 / 4000)
    for column in ("content_share", "position_share"):
        assert np.abs(table[column] - 1 / 9).max() < 4 * error


def test_each_order_has_a_score_of_its_own():
    items = make_items()
    answers = {"012": items["gold"], "120": items["target"], "201": [None] * len(items)}
    row = position(items, make_predictions(items, answers)).iloc[0]
    assert (row["accuracy_012"], row["accuracy_120"], row["accuracy_201"]) == (1, 0, 0)
    assert row["bias_score_120"] == 1
    assert np.isnan(row["bias_score_012"])


def test_one_order_tells_nothing_of_position():
    items = make_items()
    table = position(items, make_predictions(items, items["gold"]))
    assert table.empty
    assert list(table.columns) == POSITION_COLUMNS


def test_the_columns_of_an_empty_table_of_positions_are_those_of_a_full_one():
    items = make_items()
    orders = [
        make_predictions(items, items["gold"]).assign(order=order) for order in ("012", "120")
    ]
    table = position(items, pd.concat(orders))
    assert list(table.columns[: len(POSITION_COLUMNS)]) == POSITION_COLUMNS
