"""Answers that moved, whether or not accuracy did."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import entropy
from small_bbq import SETTINGS, make_items, make_predictions, oracle, other_person
from spillover.statistics.changes import compare
from spillover.statistics.movement import certainty

pytestmark = pytest.mark.filterwarnings("error")


def with_logp(predictions, probabilities):
    """Log-probabilities of the three options that sum to half, as where letters have the rest."""
    logp = np.log(np.asarray(probabilities) / 2)
    return predictions.assign(**{f"logp_{i}": logp[:, i] for i in range(3)})


def test_answers_change_though_accuracy_stands_still():
    items = make_items()
    before, after = (
        oracle("biased", items),
        make_predictions(items, other_person(items), ("012", "120", "201")),
    )
    table = compare(items, before, {0: after}, SETTINGS).set_index("context")
    assert table.loc["ambig", "delta_accuracy"] == 0
    assert (table["changed"] == 1).all()
    assert table["option_kl"].isna().all()  # nobody knows their probabilities


def test_changed_is_averaged_over_orders_and_seeds():
    items = make_items()
    answers = oracle("perfect", items)
    one_order = answers.copy()
    flipped = one_order["order"] == "120"
    one_order.loc[flipped, "predicted"] = (one_order.loc[flipped, "predicted"] + 1) % 3
    table = compare(items, answers, {0: answers, 1: one_order}, SETTINGS)
    assert table["changed"].tolist() == pytest.approx([1 / 6, 1 / 6])


def test_an_answer_that_is_no_more_parsed_has_changed():
    items = make_items()
    table = compare(items, oracle("perfect", items), {0: oracle("unparsable", items)}, SETTINGS)
    assert (table["changed"] == 1).all()


def test_option_kl_is_that_of_normalised_probabilities():
    items = make_items()
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(3), size=(2, len(items)))
    before = with_logp(make_predictions(items, q.argmax(axis=1)), q)
    after = with_logp(make_predictions(items, p.argmax(axis=1)), p)
    table = compare(items, before, {0: after}, SETTINGS).set_index("context")
    for context, row in table.iterrows():
        here = (items["context_condition"] == context).to_numpy()
        assert row["option_kl"] == pytest.approx(entropy(p[here], q[here], axis=1).mean())
    same = compare(items, before, {0: before}, SETTINGS)
    assert (same["option_kl"] == 0).all()


def test_thirds_are_by_the_bases_certainty():
    items = make_items(blocks=(3,) * 8)
    n = len(items)
    sure = np.linspace(0.4, 0.9, n)
    q = np.column_stack([sure, (1 - sure) / 2, (1 - sure) / 2])
    before = with_logp(make_predictions(items, np.zeros(n, int)), q)
    unsure = sure < np.quantile(sure, 1 / 3)
    after = with_logp(make_predictions(items, unsure.astype(int)), np.roll(q, 1, axis=1))
    table = certainty(items, before, {0: after})
    assert table["certainty"].tolist() == ["least", "middle", "most"] * 2
    assert table["n_answers"].tolist() == [16] * 6
    assert table["changed"].tolist() == pytest.approx([1, 0, 0] * 2, abs=0.1)
    assert (table["certainty_high"] <= table["certainty_low"].shift(-1))[[0, 1, 3, 4]].all()
    assert table.loc[2, "certainty_high"] == pytest.approx(0.9, abs=0.01)


def test_without_probabilities_there_are_no_thirds():
    items = make_items()
    table = certainty(items, oracle("perfect", items), {0: oracle("biased", items)})
    assert table.empty
    assert isinstance(table, pd.DataFrame)
    assert "option_kl" in table
