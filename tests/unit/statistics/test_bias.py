"""Bias scores as means of values, and the templates that their error needs."""

import numpy as np
import pandas as pd
import pytest
from small_bbq import make_items, make_predictions
from spillover.statistics import outcomes
from spillover.statistics.bias import FEWEST_TEMPLATES, bias_values
from spillover.statistics.changes import compare
from spillover.statistics.contrasts import contrast
from spillover.statistics.metrics import metrics

SETTINGS = {
    "alpha": 0.05,
    "equivalence_margin": 0.02,
    "resamples": 200,
    "seed": 0,
    "correction": "holm",
}


@pytest.mark.parametrize("context", ["ambig", "disambig"])
def test_linearised_values_are_the_derivative_of_the_score(context):
    rng = np.random.default_rng(5)
    n = 60
    draws = rng.multinomial(3, [0.3, 0.3, 0.3, 0.1], size=n) / 3  # target, other, unknown, none
    right = draws[:, 2] if context == "ambig" else np.minimum(draws[:, 0], rng.random(n))
    table = pd.DataFrame({"correct": right, "target": draws[:, 0], "nontarget": draws[:, 1]})

    def score(weight):
        target, other = weight @ draws[:, 0], weight @ draws[:, 1]
        s = 2 * target / (target + other) - 1
        return s if context == "disambig" else (1 - weight @ right / weight.sum()) * s

    values, even = bias_values(table, context), np.ones(n)
    assert values.mean() == pytest.approx(score(even), abs=1e-12)
    step = 1e-6
    for i in range(n):
        nudge = step * (np.arange(n) == i)
        derivative = (score(even + nudge) - score(even - nudge)) / (2 * step)
        assert values[i] - values.mean() == pytest.approx(n * derivative, abs=1e-7)


def test_with_every_answer_parsed_each_ambiguous_item_counts_one_or_nothing():
    items = make_items()
    ambiguous = items[items["context_condition"] == "ambig"].reset_index(drop=True)
    predicted = np.random.default_rng(2).integers(0, 3, len(ambiguous))
    table = outcomes.shares(
        ambiguous, outcomes.align(ambiguous, make_predictions(ambiguous, predicted))
    )
    values = bias_values(table, "ambig")
    assert values == pytest.approx((table["target"] - table["nontarget"]).to_numpy(), abs=1e-12)


@pytest.fixture
def items():
    """Twenty templates, three blocks each."""
    return make_items(blocks=(3,) * 20)


def naming(items, n: int):
    """Answers of which those of n templates name somebody, mostly the target; *unknown* else."""
    names = np.isin(pd.factorize(items["template"])[0], range(n))
    target, other = items["target"], 3 - items["unknown"] - items["target"]
    somebody = target.where(np.random.default_rng(n).random(len(items)) < 0.8, other)
    return make_predictions(items, items["unknown"].mask(names, somebody))


def everything_of(items, n: int) -> pd.DataFrame:
    """Score, interval and p of s_DIS and s_AMB where n templates name somebody, in three tables."""
    base, run = naming(items, 20), naming(items, n)
    change = compare(items, base, {0: run}, SETTINGS)
    beyond = contrast(items, {0: run}, {0: base}, SETTINGS, base, [])
    score = metrics(items, run).rename(columns=lambda name: name.replace("_score", ""))
    columns = ["value", "low", "high", "p"]
    found = {}
    for name, table, start in (
        ("change", change, "delta_bias"),
        ("contrast", beyond, "bias_difference"),
        ("score", score.assign(bias_p=np.nan), "bias"),
    ):
        rows = table.set_index("context")
        rows = rows[rows["attribute"] == items["attribute"][0]]
        found[name] = rows[[start, f"{start}_low", f"{start}_high", "bias_p"]].set_axis(
            columns, axis=1
        )
    return pd.concat(found)


@pytest.mark.parametrize("n", [1, 2, FEWEST_TEMPLATES - 1])
def test_where_few_templates_name_somebody_a_ratio_is_given_and_not_judged(items, n):
    found = everything_of(items, n).xs("disambig", level="context")
    assert found["value"].notna().all()
    assert found[["low", "high"]].isna().all(axis=None)
    assert found.loc[["change", "contrast"], "p"].tolist() == [1, 1]


@pytest.mark.parametrize("n", [1, FEWEST_TEMPLATES - 1])
def test_s_amb_with_every_answer_parsed_is_no_ratio(items, n):
    found = everything_of(items, n).xs("ambig", level="context")
    assert found[["value", "low", "high"]].notna().all(axis=None)
    assert found.loc[["change", "contrast"], "p"].between(0, 1, inclusive="left").all()


def test_where_enough_templates_name_somebody_it_is_judged(items):
    found = everything_of(items, FEWEST_TEMPLATES).xs("disambig", level="context")
    assert (found["low"] < found["value"]).all()
    assert (found["value"] < found["high"]).all()
    assert found.loc[["change", "contrast"], "p"].lt(1).all()


def test_a_study_of_few_templates_that_all_name_somebody_is_judged():
    found = everything_of(make_items(blocks=(5,) * 4), 4).xs("disambig", level="context")
    assert found["low"].notna().all()


def test_a_run_that_names_nobody_has_no_score(items):
    found = everything_of(items, 0)
    assert found.isna().all(axis=None)
