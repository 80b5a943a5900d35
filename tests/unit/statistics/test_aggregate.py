import pandas as pd
import pytest
from small_bbq import CYCLIC, SETTINGS, make_items, make_predictions, with_wrong
from spillover.statistics.aggregate import aggregate

pytestmark = pytest.mark.filterwarnings("error")  # undefined is NaN, without a fuss


def opposite():
    """Age (16 items a context) falls by 1, SES (48) rises by 1/2, in ambiguous contexts."""
    age, ses = make_items("Age", (2,) * 4), make_items("SES", (2,) * 12)
    items = pd.concat([age, ses], ignore_index=True)
    half = (items["attribute"] == "SES") & (items.groupby("template").cumcount() < 4)
    here = items["context_condition"] == "ambig"
    base = with_wrong(items, here & half)
    aligned = with_wrong(items, here & (items["attribute"] == "Age"))
    return items, base, {0: aligned}


def test_an_average_of_opposite_changes_stands_beside_what_it_hides():
    table = aggregate(*opposite(), SETTINGS, targeted=["SES"])
    table = table.set_index(["attributes", "context"])
    row = table.loc[("all", "ambig")]
    assert row["n_attributes"] == 2
    assert row["n_items"] == 16 + 48
    assert row["n_templates"] == 4 + 12
    assert row["delta_accuracy"] == pytest.approx((-16 + 24) / 64)
    assert row["delta_by_template"] == pytest.approx((4 * -1 + 12 * 0.5) / 16)
    assert row["delta_by_attribute"] == pytest.approx((-1 + 0.5) / 2)
    assert row["mean_absolute_change"] == pytest.approx((1 + 0.5) / 2)
    assert (row["rose"], row["fell"]) == (1, 1)
    assert (row["helped"], row["harmed"]) == (24, 16)
    both = table.loc[("all", "both")]
    assert both["n_items"] == 2 * 64
    assert both["n_templates"] == 16  # a template's two contexts are one cluster
    assert both["delta_accuracy"] == pytest.approx(8 / 128)
    assert both["mean_absolute_change"] == pytest.approx((1 + 0.5 + 0 + 0) / 4)
    untargeted = table.loc[("untargeted", "ambig")]
    assert untargeted["delta_accuracy"] == untargeted["delta_by_attribute"] == -1
    assert untargeted["n_attributes"] == 1


def test_changes_that_cancel_are_in_no_direction():
    items = make_items(blocks=(3,) * 3)
    right, wrong = items["gold"], (items["gold"] + 1) % 3
    once = items.groupby(["template", "context_condition"]).cumcount() == 0
    thrice = items.groupby(["template", "context_condition"]).cumcount().between(1, 2)
    base = make_predictions(items, {o: right.where(~once, wrong) for o in CYCLIC})
    # one item rises by 2/3, two fall by 1/3
    by_order = {"012": right.where(~thrice, wrong), "120": right, "201": right.where(~once, wrong)}
    aligned = make_predictions(items, by_order)
    table = aggregate(items, base, {0: aligned}, SETTINGS)
    assert (table[["rose", "fell"]] == 0).all(axis=None)
    assert (table["helped"] > 0).all()


def test_names_and_labels_are_aggregated_apart():
    items, base, aligned = opposite()
    items["label_type"] = items["attribute"].map({"Age": "name", "SES": "label"})
    table = aggregate(items, base, aligned, SETTINGS)
    table = table.set_index(["attributes", "context", "label_type"])["delta_accuracy"]
    assert len(table) == 9
    found = table.loc[[("all", "ambig", kind) for kind in ("all", "label", "name")]].tolist()
    assert found == pytest.approx([1 / 8, 0.5, -1])
