"""Arms against a reference: who is better, at what cost, and when none is."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from spillover.statistics.ranking import answer, ranking

SETTINGS = {"alpha": 0.05, "resamples": 1000, "correction": "holm", "seed": 0}
TARGETS, JUDGED = ["Gender"], ["Age", "Race", "SES"]


@pytest.fixture
def items(make_templates) -> pd.DataFrame:
    return make_templates(*TARGETS, *JUDGED, "Religion")


def change(items: pd.DataFrame, seed: int, **means: float) -> pd.Series:
    """Changes with these means, and noise that the items of a template share."""
    rng = np.random.default_rng(seed)
    templates = items["template"].unique()
    noise = pd.Series(rng.normal(0, 0.05, len(templates)), templates)
    return pd.Series(
        items["attribute"].map(means).fillna(0.0).to_numpy()
        + items["template"].map(noise).to_numpy(),
        items["item_id"],
    )


def ranked(items, changes) -> pd.DataFrame:
    return ranking(items, changes, "plain", TARGETS, JUDGED, SETTINGS)


def both(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["context"] == "both"].set_index("arm")


def test_an_arm_that_spares_the_worst_attribute_is_better(items):
    plain = change(items, 0, Gender=0.3, SES=-0.3)
    arms = {
        "plain": plain,
        "spared": change(items, 1, Gender=0.3, SES=-0.05),
        "spared-too-much": change(items, 2, Gender=0.1, SES=-0.05),
        "harms": change(items, 3, Gender=0.3, Race=-0.6),
        "same": change(items, 4, Gender=0.3, SES=-0.3),
    }
    table = ranked(items, arms)
    assert both(table)["verdict"].to_dict() == {
        "plain": "reference",
        "spared": "better",
        "spared-too-much": "less harm, gains less",
        "harms": "worse",
        "same": "not told apart",
    }
    assert both(table)["worst_attribute"].to_dict()["harms"] == "Race"
    assert both(table)["worst_attribute"].to_dict()["plain"] == "SES"
    assert answer(table, "plain", "both") == "better than plain: spared"
    # One is best in both, up to noise in the second: nothing that is worse in both is on it.
    front = both(table)["on_front"]
    assert not front["harms"]
    assert not front["plain"]
    assert table["worst_low"].lt(table["worst"]).all()


def test_an_arm_that_does_nothing_is_never_better(items):
    """Not even where too few templates are held out for a loss of the gain to be shown."""
    few = items[items["attribute"].isin(JUDGED) | items["template"].str.fullmatch(r"Gender:[0-4]")]
    plain = change(few, 0, Gender=0.45, SES=-0.3)
    table = ranked(few, {"plain": plain, "base": plain * 0, "alike": plain * 0.9})
    assert both(table).loc["base", "verdict"] == "less harm, gain in doubt"
    assert both(table).loc["base", "gain_p"] > 0.05
    assert both(table).loc["base", "kept_p"] > 0.9
    assert both(table).loc["alike", "kept_p"] < 0.01
    table = table[table["arm"] != "alike"]
    told = "no arm is better than plain; less harm: base (gain in doubt)"
    assert answer(table, "plain", "both") == told


def test_no_arm_is_better_where_all_do_the_same(items):
    arms = {name: change(items, i, Gender=0.3, SES=-0.3) for i, name in enumerate("abc")}
    table = ranked(items, {"plain": change(items, 9, Gender=0.3, SES=-0.3), **arms})
    assert answer(table, "plain", "both") == "no arm is better than plain"


def test_simultaneous_intervals_are_at_sidaks_level(items):
    plain = change(items, 0, SES=-0.3)
    row = both(ranked(items, {"plain": plain, "other": plain}))
    cell = plain[items.loc[items["attribute"] == "SES", "item_id"]].to_numpy()
    means = cell.reshape(20, 4).mean(1)
    level = 1 - 0.95 ** (1 / 3)
    half = stats.t.ppf(1 - level / 2, 19) * means.std(ddof=1) / np.sqrt(20)
    assert row["worst_low"].to_dict()["plain"] == pytest.approx(means.mean() - half, abs=1e-9)


def test_the_same_arm_twice_differs_in_nothing(items):
    plain = change(items, 0, Gender=0.3, SES=-0.3)
    row = both(ranked(items, {"plain": plain, "again": plain})).loc["again"]
    assert row["worst_difference"] == row["gain_difference"] == 0
    assert row["worst_p"] == row["gain_p"] == 1


def test_lowest_attributes_that_are_alike_are_not_told_apart_whatever_the_others_do(items):
    """The reference is low in all attributes, the arm as low in one and spares the others."""
    rejected, n = 0, 60
    settings = SETTINGS | {"resamples": 100, "correction": "none"}
    for seed in range(n):
        arms = {
            "plain": change(items, 2 * seed, Age=-0.2, Race=-0.2, SES=-0.2),
            "spares": change(items, 2 * seed + 1, SES=-0.2),
        }
        table = ranking(items, arms, "plain", TARGETS, JUDGED, settings)
        rejected += both(table).loc["spares", "worst_p"] < 0.05
    assert stats.binomtest(rejected, n, 0.05, alternative="greater").pvalue > 0.01


def test_the_lowest_attributes_are_compared_by_the_largest_p_of_the_smallest(items):
    """Worked by hand: for some attribute of the reference every one of the arm is above it."""
    plain, arm = change(items, 0, SES=-0.15), change(items, 1, Age=-0.07, Race=-0.07, SES=-0.07)
    found = both(ranked(items, {"plain": plain, "arm": arm})).loc["arm", "worst_p"]

    def templates(values: pd.Series, name: str) -> np.ndarray:
        return values[items.loc[items["attribute"] == name, "item_id"]].to_numpy()[::4]

    p = {}
    for i in JUDGED:
        for j in JUDGED:
            of, to = templates(arm, i), templates(plain, j)
            test = stats.ttest_rel if i == j else stats.ttest_ind
            more = {} if i == j else {"equal_var": False}
            p[i, j] = test(of, to, alternative="greater", **more).pvalue
    higher = min(max(p[i, j] for i in JUDGED) for j in JUDGED)
    lower = min(max(1 - p[i, j] for j in JUDGED) for i in JUDGED)
    assert found == pytest.approx(min(1, 2 * 3 * min(higher, lower)), rel=1e-6)
    assert 0.001 < found < 1


def test_half_of_a_loss_is_no_gain_that_is_kept(items):
    loses = change(items, 0, Gender=-0.3, SES=-0.3)
    table = both(ranked(items, {"plain": loses, "less": change(items, 1, Gender=-0.05)}))
    assert table.loc["less", "verdict"] == "less harm, gain in doubt"
    assert table.loc["less", "gain_templates"] == 20


def test_items_that_an_arm_was_not_asked_are_left_aside(items):
    plain = change(items, 0, Gender=0.3, SES=-0.3)
    half = plain[items["template"].str.rpartition(":")[2].astype(int).lt(10).to_numpy()]
    table = both(ranked(items, {"plain": plain, "half": half}))
    assert table["worst_difference"].to_dict()["half"] == 0
    with pytest.raises(ValueError, match="no item of SES"):
        ranked(items, {"plain": plain, "half": half[~half.index.str.startswith("SES")]})
