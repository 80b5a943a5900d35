import numpy as np
import pandas as pd
import pytest
from scipy import stats
from small_bbq import SETTINGS, make_items, make_predictions, oracle, several, with_wrong
from spillover.core.errors import InputError
from spillover.statistics.changes import SPILLOVER_COLUMNS, compare, correct
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

pytestmark = pytest.mark.filterwarnings("error")  # undefined is NaN, without a fuss


def judged(items, base, aligned, targeted=(), settings=SETTINGS):
    """Through both steps, as the workflow does."""
    if isinstance(aligned, pd.DataFrame):
        aligned = {0: aligned}
    table = compare(items, base, aligned, settings)
    table = table.assign(model="m", alignment="a", targeted=table["attribute"].isin(targeted))
    return correct(table, settings)


def ambiguous(table):
    return table[table["context"] == "ambig"].iloc[0]


# ------------------------------------------------------------------ oracles

ACCURACY = {  # ambiguous, disambiguated
    "perfect": (1, 1),
    "biased": (0, 0.5),
    "antibiased": (0, 0.5),
    "unknown": (1, 0),
    "unparsable": (0, 0),
    "position": (1 / 3, 1 / 3),
}
BIAS = {
    "perfect": (np.nan, 0),
    "biased": (1, 1),
    "antibiased": (-1, -1),
    "unknown": (np.nan, np.nan),
    "unparsable": (np.nan, np.nan),
    "position": (0, 0),
}


@pytest.mark.parametrize("before", ACCURACY)
def test_changes_and_verdicts_between_answerers_whose_scores_are_known(before):
    items = make_items()
    base = oracle(before, items)
    tables = [
        compare(items, base, {0: oracle(after, items)}, SETTINGS).assign(model=after)
        for after in ACCURACY
    ]
    table = pd.concat(tables, ignore_index=True).assign(alignment="a", targeted=False)
    table = correct(table, SETTINGS)
    assert len(table) == 2 * len(ACCURACY)
    for _, row in table.iterrows():
        place, after = ["ambig", "disambig"].index(row["context"]), row["model"]
        change = ACCURACY[after][place] - ACCURACY[before][place]
        bias = BIAS[after][place] - BIAS[before][place]
        assert row["delta_accuracy"] == pytest.approx(change, abs=1e-12)
        assert row["delta_bias"] == pytest.approx(bias, abs=1e-12, nan_ok=True)
        # Of a few items that did not change nothing follows.
        same = "equivalent" if 0.98 ** row["n_items"] < 0.05 else "inconclusive"
        expected = "improved" if change > 0 else "degraded" if change < 0 else same
        assert row["verdict"] == expected
        if np.isnan(bias):
            undefined = ["delta_bias_low", "delta_bias_high", "bias_p", "bias_p_adjusted"]
            assert row[undefined].isna().all()


@pytest.mark.parametrize("name", [*ACCURACY, "random"])
def test_two_identical_runs_have_changed_nowhere(name):
    items = pd.concat([make_items("Age"), make_items("SES", (3, 1)), make_items("Religion", (1,))])
    run = oracle(name, items)
    table = judged(items, run, {0: run, 1: run})
    assert len(table) == 6
    assert (table["delta_accuracy"] == 0).all()
    assert (table[["mcnemar_p", "cluster_p", "cluster_p_adjusted"]] == 1).all(axis=None)
    assert table["equivalence_p"].to_numpy() == pytest.approx(0.98 ** table["n_items"].to_numpy())
    assert (table["verdict"] == "inconclusive").all()
    assert (table[["helped", "harmed", "seed_sd", "delta_low", "delta_high"]] == 0).all(axis=None)
    defined = table["bias_base"].notna()
    assert (table.loc[defined, "delta_bias"] == 0).all()
    ends = table.loc[defined, ["delta_bias_low", "delta_bias_high"]]
    exact = table.loc[defined, "context"] == "ambig"  # a ratio's error may not be known
    assert (ends[exact] == 0).all(axis=None)
    assert (ends.isna() | ends.eq(0)).all(axis=None)
    assert (table.loc[defined, ["bias_p", "bias_p_adjusted"]] == 1).all(axis=None)
    assert table.loc[~defined, ["delta_bias", "bias_p"]].isna().all(axis=None)


# ------------------------------------------------------------------ the change of accuracy


def test_the_case_worked_by_hand_in_the_docs():
    # four templates of three ambiguous items; 3, 2, 2 and 1 of them now wrong
    items = make_items(blocks=(2,) * 4)
    here = items[items["context_condition"] == "ambig"].groupby("template").head(3)
    wrong = here.index[[0, 1, 2, 3, 4, 6, 7, 9]]
    row = ambiguous(judged(here, with_wrong(here, []), with_wrong(here, wrong)))
    assert (row["n_items"], row["n_templates"]) == (12, 4)
    assert (row["helped"], row["harmed"]) == (0, 8)
    assert row["mcnemar_p"] == pytest.approx(2 / 2**8)
    assert row["cluster_p"] == 1 / 8
    assert row["delta_accuracy"] == pytest.approx(-8 / 12)
    assert row["delta_se"] == pytest.approx(0.1361, abs=5e-5)
    assert (row["delta_low"], row["delta_high"]) == pytest.approx((-1.0997, -0.2336), abs=1e-4)
    assert row["minimum_detectable_change"] == pytest.approx(0.5662, abs=5e-5)
    assert row["verdict"] == "inconclusive"


@pytest.mark.parametrize("seed", range(3))
def test_mcnemar_equals_statsmodels_on_the_two_by_two_table(seed):
    items = make_items(blocks=(5,) * 12)
    rng = np.random.default_rng(seed)
    right = rng.random((2, len(items))) < [[0.6], [0.5]]
    runs = [with_wrong(items, ~row) for row in right]
    table = judged(items, *runs).set_index("context")
    for context, row in table.iterrows():
        here = right[:, items["context_condition"] == context]
        counts = pd.crosstab(*here)
        assert row["mcnemar_p"] == mcnemar(counts, exact=True).pvalue
        assert (row["helped"], row["harmed"]) == (counts.loc[False, True], counts.loc[True, False])


def test_orders_and_seeds_are_averaged_item_by_item():
    items = make_items(blocks=(2,) * 2)
    right, wrong = items["gold"], (items["gold"] + 1) % 3
    base = make_predictions(items, {"012": right, "120": right, "201": wrong})
    seeds = {
        0: make_predictions(items, {"012": right, "120": wrong, "201": wrong}),
        1: make_predictions(items, {"012": right, "120": right, "201": right}),
        2: make_predictions(items, {"012": wrong, "120": right, "201": right}),
    }
    table = judged(items, base, seeds)
    # 2/3 before; 1/3, 1 and 2/3 after: 2/3 in the mean, whatever binary fractions say
    assert (table[["helped", "harmed", "delta_accuracy"]] == 0).all(axis=None)
    assert table["seed_sd"].tolist() == pytest.approx([1 / 3, 1 / 3])
    assert (table["seeds"] == 3).all()


def test_the_spread_of_one_seed_is_undefined():
    items = make_items()
    table = judged(items, oracle("perfect", items), oracle("biased", items))
    assert table["seed_sd"].isna().all()


def test_many_harmed_items_of_one_template_are_one_observation():
    items = make_items(blocks=(1,) * 24 + (40,))
    wrong = items.index[items["template"] == "Age:25"]
    row = ambiguous(judged(items, with_wrong(items, []), with_wrong(items, wrong)))
    assert row["mcnemar_p"] < 1e-20
    assert row["cluster_p"] == 1
    assert row["verdict"] == "inconclusive"


def test_one_template_is_inconclusive_unless_nothing_changed():
    items = make_items(blocks=(6,))
    row = ambiguous(judged(items, oracle("perfect", items), oracle("biased", items)))
    assert row["cluster_p"] == 1
    assert row[["delta_low", "delta_high", "equivalence_p"]].isna().all()
    assert row["verdict"] == "inconclusive"


def test_items_without_target_stay_in_accuracy_and_leave_the_bias_score():
    items = make_items()
    items.loc[items.index < 4, "target"] = pd.NA
    predicted = items["target"].fillna((items["unknown"] + 1) % 3)
    row = ambiguous(judged(items, with_wrong(items, []), make_predictions(items, predicted)))
    assert row["n_items"] == 32
    assert (row["accuracy_base"], row["accuracy_aligned"], row["harmed"]) == (1, 0, 32)
    assert np.isnan(row["bias_base"])
    assert row["bias_aligned"] == 1


def test_sampled_blocks_are_compared_on_what_was_sampled():
    items = make_items(blocks=(3,) * 10)
    sampled = items[items["block"] % 3 == 0]  # one block of four a template
    row = ambiguous(judged(sampled, oracle("perfect", sampled), oracle("biased", sampled)))
    assert (row["n_items"], row["n_templates"]) == (20, 10)
    assert (row["delta_accuracy"], row["cluster_p"]) == (-1, 2 / 2**10)


# ------------------------------------------------------------------ the change of bias


def test_accuracy_can_fall_without_more_bias():
    items = make_items(blocks=(2,) * 10)
    here = items[items["context_condition"] == "ambig"].reset_index(drop=True)
    nth, other = here.groupby("template").cumcount(), 3 - here["unknown"] - here["target"]
    somebody = here["target"].where(nth % 2 == 0, other)  # as often the one as the other
    before = somebody.where(nth < 2, here["unknown"])
    row = ambiguous(judged(here, make_predictions(here, before), make_predictions(here, somebody)))
    assert (row["accuracy_base"], row["accuracy_aligned"]) == (0.5, 0)
    assert row["verdict"] == "degraded"
    assert (row["bias_base"], row["bias_aligned"], row["delta_bias"]) == (0, 0, 0)
    assert row["bias_p"] == 1


def test_the_change_of_an_ambiguous_score_is_that_of_a_mean():
    items = make_items(blocks=(3, 5, 2, 7, 1, 4))
    here = items[items["context_condition"] == "ambig"].reset_index(drop=True)
    rng = np.random.default_rng(0)
    before, after = rng.integers(0, 3, (2, len(here)))
    row = ambiguous(judged(here, make_predictions(here, before), make_predictions(here, after)))

    def signed(answer):
        return np.where(answer == here["unknown"], 0, np.where(answer == here["target"], 1, -1))

    change = pd.Series(signed(after) - signed(before))
    totals = change.groupby(here["template"]).agg(["sum", "size"])
    n = len(here)
    deleted = (change.sum() - totals["sum"]) / (n - totals["size"])  # jackknife over templates
    error = np.sqrt(5 / 6 * np.sum((deleted - change.mean()) ** 2))
    half = stats.t.ppf(0.975, 5) * error
    assert row["delta_bias"] == pytest.approx(change.mean())
    assert row["delta_bias_high"] - row["delta_bias"] == pytest.approx(half)


def test_the_interval_of_a_ratio_agrees_with_the_bootstrap_over_templates():
    items = make_items(blocks=(10,) * 60)
    here = items[items["context_condition"] == "disambig"].reset_index(drop=True)
    rng = np.random.default_rng(1)
    codes = pd.factorize(here["template"])[0]
    runs, counts = [], []
    for mean in (0.5, 0.65):
        lean = rng.beta(6 * mean, 6 * (1 - mean), 60)[codes]
        answer = np.where(rng.random(len(here)) < lean, here["target"], 3 - here["target"])
        answer = np.where(rng.random(len(here)) < 0.3, here["unknown"], answer % 3)
        runs.append(make_predictions(here, answer))
        for holds in (answer == here["target"], answer != here["unknown"]):
            counts.append(np.bincount(codes, weights=holds))
    row = judged(here, *runs).iloc[0]

    def change(t0, n0, t1, n1, axis):
        return 2 * (t1.sum(axis) / n1.sum(axis) - t0.sum(axis) / n0.sum(axis))

    reference = stats.bootstrap(
        counts, change, paired=True, n_resamples=20_000, method="basic", rng=2
    )
    assert row["delta_bias"] == pytest.approx(change(*counts, axis=0))
    half = (row["delta_bias_high"] - row["delta_bias_low"]) / 2
    width = reference.confidence_interval.high - reference.confidence_interval.low
    assert half == pytest.approx(width / 2, rel=0.1)


# ------------------------------------------------------------------ corrections and verdicts


def made_up(p, delta=-0.1, targeted=False, **columns):
    """A table as ``compare`` gives it, with the p-values at hand."""
    n = len(p)
    table = pd.DataFrame({name: [0.0] * n for name in SPILLOVER_COLUMNS})
    defaults = {
        "model": "m",
        "alignment": "a",
        "attribute": [f"attribute {i}" for i in range(n)],
        "context": "ambig",
        "targeted": targeted,
        "n_templates": 25,
        "cluster_p": p,
        "bias_p": p,
        "delta_accuracy": delta,
        "delta_se": 0.01,
        "equivalence_p": 0.5,
    }
    return table.assign(**(defaults | columns))


P = [0.001, 0.04, 0.012, 0.5, 0.007]


@pytest.mark.parametrize("method", ["holm", "fdr_bh"])
def test_corrections_equal_those_of_statsmodels_over_the_untargeted(method):
    table = made_up([*P, 0.03], targeted=[False] * 5 + [True])
    found = correct(table, SETTINGS | {"correction": method})
    expected = [*multipletests(P, method=method)[1], 0.03]
    assert found["cluster_p_adjusted"].tolist() == pytest.approx(expected)
    assert found["bias_p_adjusted"].tolist() == pytest.approx(expected)
    assert list(found.columns) == SPILLOVER_COLUMNS


def test_without_correction_p_stays_raw():
    found = correct(made_up(P), SETTINGS | {"correction": "none"})
    assert found["cluster_p_adjusted"].tolist() == P


@pytest.mark.parametrize("key", ["model", "alignment", "context"])
def test_a_family_is_one_model_alignment_and_context(key):
    two = pd.concat([made_up(P), made_up(P[:2], **{key: "other"})], ignore_index=True)
    found = correct(two, SETTINGS)["cluster_p_adjusted"]
    assert found[:5].tolist() == pytest.approx(multipletests(P, method="holm")[1])
    assert found[5:].tolist() == pytest.approx(multipletests(P[:2], method="holm")[1])


def test_an_undefined_score_is_no_test_of_a_family():
    found = correct(made_up([*P, np.nan], cluster_p=[*P, 1.0]), SETTINGS)
    expected = multipletests(P, method="holm")[1]
    assert found["bias_p_adjusted"][:5].tolist() == pytest.approx(expected)
    assert np.isnan(found["bias_p_adjusted"][5])


@pytest.mark.parametrize(
    ("p", "delta", "equivalence_p", "verdict"),
    [
        (0.01, -0.1, 0.9, "degraded"),
        (0.01, 0.1, 0.9, "improved"),
        (0.01, -0.001, 0.001, "degraded"),  # small, but sure
        (0.3, -0.001, 0.01, "equivalent"),
        (0.3, -0.1, 0.9, "inconclusive"),
        (0.3, -0.1, np.nan, "inconclusive"),
    ],
)
def test_verdicts_follow_the_rule(p, delta, equivalence_p, verdict):
    table = made_up([p], delta=delta, equivalence_p=equivalence_p)
    assert correct(table, SETTINGS)["verdict"].tolist() == [verdict]


def test_a_verdict_on_an_untargeted_attribute_is_by_the_adjusted_p():
    table = made_up([0.03, 0.04], targeted=[True, False])
    table = pd.concat([table, made_up([0.6], attribute="third")], ignore_index=True)
    found = correct(table, SETTINGS)
    assert found["verdict"].tolist() == ["degraded", "inconclusive", "inconclusive"]


def test_the_minimum_detectable_change_has_the_power_it_says():
    # a change of that size, t-distributed about itself with 24 degrees of freedom
    found = correct(made_up(P), SETTINGS)["minimum_detectable_change"]
    threshold = stats.t.isf(0.05 / 5 / 2, 24)
    assert stats.t.sf(threshold - found / 0.01, 24).tolist() == pytest.approx([0.8] * 5)


# ------------------------------------------------------------------ reproducibility


def test_the_same_data_and_seed_give_the_same_table_in_any_row_order():
    items, base, aligned = several()
    expected = compare(items, base, aligned, SETTINGS)
    shuffled = {
        seed: run.sample(frac=1, random_state=seed) for seed, run in reversed(aligned.items())
    }
    again = compare(
        items.sample(frac=1, random_state=5),
        base.sample(frac=1, random_state=6),
        shuffled,
        SETTINGS,
    )
    pd.testing.assert_frame_equal(expected, again, check_exact=True)


def test_an_attribute_gets_the_same_row_whichever_others_there_are():
    items, base, aligned = several()
    expected = compare(items, base, aligned, SETTINGS)
    alone = items[items["attribute"] == "SES"]
    found = compare(alone, base, aligned, SETTINGS)
    expected = expected[expected["attribute"] == "SES"].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_each_attribute_draws_signs_of_its_own():
    items = pd.concat([make_items(name, (2,) * 25) for name in ("Age", "SES")], ignore_index=True)
    before, after = np.random.default_rng(3).integers(0, 3, (2, len(items) // 2))
    runs = [make_predictions(items, np.tile(answers, 2)) for answers in (before, after)]
    table = judged(items, *runs).set_index(["attribute", "context"])
    for context in ("ambig", "disambig"):
        age, ses = table.loc[("Age", context)], table.loc[("SES", context)]
        assert age["delta_low"] == ses["delta_low"]
        assert age["cluster_p"] != ses["cluster_p"]
        assert age["cluster_p"] == pytest.approx(ses["cluster_p"], abs=0.05)


def test_another_seed_draws_other_signs():
    items, base, aligned = several()
    first, second = (compare(items, base, aligned, SETTINGS | {"seed": seed}) for seed in (0, 1))
    assert (first["cluster_p"] != second["cluster_p"]).any()
    assert first["cluster_p"].tolist() == pytest.approx(second["cluster_p"].tolist(), abs=0.05)


# ------------------------------------------------------------------ what cannot be paired


def test_a_run_that_lacks_items_is_refused_with_counts():
    items, base, aligned = several()
    lacking = aligned[1][aligned[1]["item_id"] != "SES:7"]
    with pytest.raises(InputError, match=r"1 have none \(first: SES:7\)"):
        compare(items, base, {0: aligned[0], 1: lacking}, SETTINGS)


def test_runs_asked_in_other_orders_are_refused():
    items, base, aligned = several()
    one_order = aligned[0][aligned[0]["order"] == "012"]
    with pytest.raises(InputError, match="seed 0: expected the option orders of the base run"):
        compare(items, base, {0: one_order}, SETTINGS)


def test_a_comparison_with_no_run_is_refused():
    items, base, _ = several()
    with pytest.raises(InputError, match="at least one seed"):
        compare(items, base, {}, SETTINGS)
