"""Changes along training, and whether spillover comes before the target's gain."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from spillover.statistics.trajectory import point, timing

SETTINGS = {"alpha": 0.05, "resamples": 500, "seed": 0}


@pytest.fixture
def items(make_templates) -> pd.DataFrame:
    """A target and two other attributes."""
    return make_templates("Age", "Religion", "SES")


def changed(items: pd.DataFrame, target: float, others: float, seed: int = 0) -> pd.Series:
    """Changes of these means, with a template's own share that stays the same along training."""
    rng = np.random.default_rng(seed)
    own = pd.Series(rng.normal(1, 0.2, items["template"].nunique()), items["template"].unique())
    mean = np.where(items["attribute"] == "Age", target, others)
    return pd.Series(mean * items["template"].map(own).to_numpy(), items["item_id"])


def test_a_point_has_every_attribute_and_the_two_pools(items):
    change = pd.Series(0.0, items["item_id"])
    change[[name for name in change.index if name.startswith("SES")]] = 0.5
    table = point(items, change, ["Age"], 0.05).set_index(["attribute", "context"])
    assert len(table) == 2 * 5
    assert table.loc[("SES", "ambig"), "delta_accuracy"] == 0.5
    assert table.loc[("untargeted", "disambig"), "delta_accuracy"] == 0.25
    assert table.loc[("targeted", "ambig"), "delta_accuracy"] == 0
    assert table.loc[("untargeted", "ambig"), ["n_items", "n_templates"]].tolist() == [80, 40]
    assert table["targeted"].to_dict()[("targeted", "ambig")]
    assert not table["targeted"].to_dict()[("SES", "ambig")]


def test_lead_is_the_area_between_two_courses(items):
    # Progress of the others: all of it at a half; of the target: none. Trapezia over 0, 0.5, 1.
    changes = {0.5: changed(items, 0.0, 0.4), 1.0: changed(items, 0.3, 0.4)}
    table = timing(items, changes, ["Age"], SETTINGS)
    assert table["lead"].to_numpy() == pytest.approx([0.5, 0.5])
    assert set(table["verdict"]) == {"before"}


def test_what_lags_is_after_and_what_goes_along_is_not_told_apart(items):
    late = {0.5: changed(items, 0.3, 0.1), 1.0: changed(items, 0.3, 0.4)}
    assert set(timing(items, late, ["Age"], SETTINGS)["verdict"]) == {"after"}
    noise = pd.Series(np.random.default_rng(1).normal(0, 0.05, len(items)), items["item_id"])
    along = {0.5: changed(items, 0.15, 0.2) + noise, 1.0: changed(items, 0.3, 0.4)}
    table = timing(items, along, ["Age"], SETTINGS)
    assert set(table["verdict"]) == {"not told apart"}
    assert (table["lead_low"] < 0).all()
    assert (table["lead_high"] > 0).all()


def test_equal_courses_are_told_apart_as_seldom_as_they_say_with_few_templates(items):
    few = items[~items["attribute"].eq("Age") | items["template"].str.fullmatch(r"Age:[0-4]")]
    few = few[few["context_condition"] == "ambig"]
    told, n = 0, 100
    for seed in range(n):
        rng = np.random.default_rng(seed)
        own = pd.Series(rng.normal(0, 0.1, few["template"].nunique()), few["template"].unique())
        half = pd.Series(0.2 + few["template"].map(own).to_numpy(), few["item_id"])
        table = timing(few, {0.5: half, 1.0: changed(few, 0.4, 0.4, seed)}, ["Age"], SETTINGS)
        told += table["verdict"].isin(["before", "after"]).sum()
    assert stats.binomtest(int(told), n, 0.05, alternative="greater").pvalue > 0.05


def test_a_change_that_is_none_has_no_course(items):
    noise = pd.Series(np.random.default_rng(1).normal(0, 0.2, len(items)), items["item_id"])
    changes = {0.5: changed(items, 0.3, 0.0) + noise, 1.0: changed(items, 0.3, 0.0) + noise}
    table = timing(items, changes, ["Age"], SETTINGS)
    assert set(table["verdict"]) == {"no change to time"}
    assert table["lead"].isna().all()
