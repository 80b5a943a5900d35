"""Differences between two changes, on answerers whose scores are known."""

import numpy as np
import pandas as pd
import pytest
from small_bbq import CYCLIC, SETTINGS, make_items, make_predictions, oracle, with_wrong
from spillover.core.errors import InputError
from spillover.statistics.changes import compare
from spillover.statistics.contrasts import COLUMNS, contrast
from statsmodels.stats.multitest import multipletests

pytestmark = pytest.mark.filterwarnings("error")  # undefined is NaN, without a fuss
ACCURACY = {  # ambiguous, disambiguated
    "perfect": (1, 1),
    "biased": (0, 0.5),
    "antibiased": (0, 0.5),
    "unknown": (1, 0),
    "unparsable": (0, 0),
    "position": (1 / 3, 1 / 3),
}
BIAS = {  # NaN: nobody is named
    "perfect": (np.nan, 0),
    "biased": (1, 1),
    "antibiased": (-1, -1),
    "unknown": (np.nan, np.nan),
}


@pytest.fixture
def items():
    """Two untargeted attributes and a targeted one, of ten, seven and twelve templates."""
    sizes = {"Age": 10, "Gender_identity": 7, "SES": 12}
    return pd.concat([make_items(name, (2,) * n) for name, n in sizes.items()], ignore_index=True)


def rows(items, of, minus, base=None, targeted=("Gender_identity",)):
    table = contrast(items, {0: of}, {0: minus}, SETTINGS, base, targeted)
    return table.set_index(["attribute", "context"])


@pytest.mark.parametrize("of", [*ACCURACY, "random"])
def test_a_control_that_equals_its_alignment_explains_everything(items, of):
    answers = oracle(of, items)
    table = rows(items, answers, answers.copy(), oracle("random", items))
    assert (table["difference"] == 0).all()
    assert (table["cluster_p"] == 1).all()
    assert (table["cluster_p_adjusted"] == 1).all()
    # Nothing differs: with how many items, decides.
    many = 0.98 ** table["n_items"] < 0.05
    assert (table["verdict"] == many.map({True: "equivalent", False: "inconclusive"})).all()
    assert many.any()
    assert table["bias_difference"].dropna().eq(0).all()
    assert table["bias_p"].dropna().eq(1).all()
    assert (table["changed"] == 0).all()


@pytest.mark.parametrize("of", ACCURACY)
@pytest.mark.parametrize("minus", ["biased", "unknown", "position"])
def test_rows_of_answerers_whose_scores_are_known(items, of, minus):
    table = rows(items, oracle(of, items), oracle(minus, items), oracle("unknown", items))
    for name in ("Age", "Gender_identity", "SES", "untargeted", "all"):
        for place, context in enumerate(("ambig", "disambig")):
            row = table.loc[(name, context)]
            expected = ACCURACY[of][place] - ACCURACY[minus][place]
            assert row["difference"] == pytest.approx(expected)
            before = ACCURACY["unknown"][place]
            assert row["change_of"] == pytest.approx(ACCURACY[of][place] - before)
            assert row["change_minus"] == pytest.approx(ACCURACY[minus][place] - before)
            if of in BIAS and minus in BIAS:
                bias = BIAS[of][place] - BIAS[minus][place]
                assert row["bias_difference"] == pytest.approx(bias, nan_ok=True)
    for name in ("untargeted", "all"):
        expected = np.mean(ACCURACY[of]) - np.mean(ACCURACY[minus])
        assert table.loc[(name, "both"), "difference"] == pytest.approx(expected)
    # every template moves alike: the fewest possible sign patterns are as extreme
    if ACCURACY[of][0] != ACCURACY[minus][0] and "position" not in (of, minus):
        assert table.loc[("Gender_identity", "ambig"), "cluster_p"] == 2 / 2**7
        better = ACCURACY[of][0] > ACCURACY[minus][0]
        verdict = table.loc[("SES", "ambig"), "verdict"]
        assert verdict == ("improved" if better else "degraded")


def test_random_answerers_differ_by_what_was_counted_by_hand(items):
    rng = np.random.default_rng(3)
    of, minus, base = (
        make_predictions(items, {order: rng.integers(0, 3, len(items)) for order in CYCLIC})
        for _ in range(3)
    )
    table = rows(items, of, minus, base)

    def right(answers):
        joined = answers.merge(items, on="item_id")
        return (joined["predicted"] == joined["gold"]).groupby(joined["item_id"]).mean()

    difference = right(of) - right(minus)
    by_item = items.set_index("item_id")
    for (name, context), row in table.iterrows():
        chosen = pd.Series(True, by_item.index)
        if context != "both":
            chosen &= by_item["context_condition"] == context
        if name == "untargeted":
            chosen &= by_item["attribute"] != "Gender_identity"
        elif name != "all":
            chosen &= by_item["attribute"] == name
        assert row["n_items"] == chosen.sum()
        assert row["n_templates"] == by_item.loc[chosen, "template"].nunique()
        assert row["difference"] == pytest.approx(difference[by_item.index[chosen]].mean())
        assert row["difference_low"] < row["difference"] < row["difference_high"]


def test_the_base_cancels_and_a_contrast_is_the_change_from_the_control(items):
    of, minus = with_wrong(items, items.index % 5 == 0), with_wrong(items, items.index % 3 == 0)
    columns = {
        "delta_accuracy": "difference",
        "delta_low": "difference_low",
        "delta_high": "difference_high",
        "cluster_p": "cluster_p",
        "delta_bias": "bias_difference",
        "bias_p": "bias_p",
    }
    change = compare(items, minus, {0: of}, SETTINGS).set_index(["attribute", "context"])
    for base in (with_wrong(items, items.index % 2 == 0), with_wrong(items, items.index % 7 == 0)):
        table = rows(items, of, minus, base).loc[change.index]
        for theirs, ours in columns.items():
            np.testing.assert_allclose(table[ours], change[theirs], atol=1e-9)


def test_seeds_are_averaged_item_by_item(items):
    good, bad = oracle("perfect", items), oracle("biased", items)
    table = contrast(items, {0: good, 1: bad}, {0: bad, 1: bad}, SETTINGS, oracle("unknown", items))
    row = table.set_index(["attribute", "context"]).loc[("Age", "ambig")]
    assert row["difference"] == 0.5
    assert row["change_of"] == -0.5
    assert row["change_minus"] == -1


def test_families_are_the_untargeted_attributes_and_the_contexts_of_a_pooled_set(items):
    of, minus = with_wrong(items, items.index % 5 == 0), with_wrong(items, items.index % 3 == 0)
    table = rows(items, of, minus, minus)
    for context in ("ambig", "disambig"):
        family = table.loc[[("Age", context), ("SES", context)]]
        expected = multipletests(family["cluster_p"], method="holm")[1]
        assert family["cluster_p_adjusted"].tolist() == expected.tolist()
        targeted = table.loc[("Gender_identity", context)]
        assert targeted["cluster_p_adjusted"] == targeted["cluster_p"]
    for name in ("untargeted", "all"):
        family = table.loc[name]
        expected = multipletests(family["cluster_p"], method="holm")[1]
        assert family["cluster_p_adjusted"].tolist() == expected.tolist()


def test_two_models_as_they_are_have_accuracies_in_place_of_changes(items):
    table = rows(items, oracle("perfect", items), oracle("biased", items), targeted=())
    assert "untargeted" not in table.index.get_level_values("attribute")
    row = table.loc[("Age", "disambig")]
    assert (row["change_of"], row["change_minus"], row["difference"]) == (1, 0.5, 0.5)
    assert row["changed"] == 0.5
    assert np.isnan(row["option_kl"])  # answerers without probabilities
    assert table.loc[("all", "ambig"), "change_of"] == 1


def test_a_perfect_model_that_names_nobody_has_no_difference_of_ambiguous_bias(items):
    table = rows(items, oracle("perfect", items), oracle("biased", items), oracle("biased", items))
    assert np.isnan(table.loc[("Age", "ambig"), "bias_difference"])
    assert np.isnan(table.loc[("all", "both"), "bias_difference"])
    assert table.loc[("Age", "disambig"), "bias_difference"] == -1


def test_runs_of_other_items_or_orders_are_refused(items):
    of, minus = oracle("perfect", items), oracle("biased", items)
    with pytest.raises(InputError, match="expected an answer to each of"):
        rows(items, of, minus[minus["item_id"] != "Age:3"], of)
    with pytest.raises(InputError, match="expected the option orders of the base run"):
        rows(items, of, minus[minus["order"] == "012"], of)


def test_columns_are_those_of_the_contract(items):
    of, minus = oracle("perfect", items), oracle("biased", items)
    table = contrast(items, {0: of}, {0: minus}, SETTINGS, of)
    assert [*COLUMNS[:4], *table.columns] == COLUMNS
