"""Measures of companion sets: oracles, a case worked by hand, changes and their errors."""

import numpy as np
import pandas as pd
import pytest
from spillover.statistics.clustered import clustered_mean
from spillover.statistics.companions import MEASURES, quantities
from spillover.statistics.forgetting import correct, estimate, forgetting

SETTINGS = {"alpha": 0.05}


def stereoset(n_terms: int = 6, n_items: int = 4) -> pd.DataFrame:
    """Items of several terms, more of the later ones, in two tasks and two domains."""
    rows = [
        {
            "item_id": f"stereoset:{term}-{item}",
            "cluster": f"term {term}",
            "group": "gender" if term % 2 else "race",
            "condition": "intrasentence" if item % 2 else "intersentence",
            "options": ["a b", "c d", "e f"],
        }
        for term in range(n_terms)
        for item in range(n_items + term)
    ]
    return pd.DataFrame(rows)


def answers(items: pd.DataFrame, logp) -> pd.DataFrame:
    """Answers with these log-probabilities of an item's options, of two tokens each."""
    found = [list(map(float, logp(row))) for row in items.to_dict("records")]
    return pd.DataFrame(
        {
            "item_id": items["item_id"],
            "logp": found,
            "n_tokens": [[2] * len(row) for row in found],
            "letter_logp": found,
        }
    )


def measured(kind: str, items: pd.DataFrame, table: pd.DataFrame) -> dict[str, float]:
    values = [quantities(kind, items, table)]
    return {
        name: estimate(how, values, items["cluster"]).value for name, how in MEASURES[kind].items()
    }


@pytest.mark.parametrize(
    ("logp", "lms", "ss", "icat"),
    [
        ((-1, -2, -9), 100, 100, 0),  # always the stereotype
        ((-2, -1, -9), 100, 0, 0),  # never
        ((-2, -3, -1), 0, 100, 0),  # always what is unrelated
        ((-1, -1, -9), 100, 0, 0),  # a tie counts for the anti-stereotype, as published
    ],
)
def test_an_oracle_has_its_scores_of_stereoset(logp, lms, ss, icat):
    items = stereoset()
    found = measured("stereoset", items, answers(items, lambda row: logp))
    assert (found["lms"], found["ss"], found["icat"]) == (lms, ss, icat)


def test_an_ideal_model_has_an_icat_of_100():
    items = stereoset(n_terms=1)
    turn = iter(range(100))
    table = answers(items, lambda row: (-1, -2, -9) if next(turn) % 2 else (-2, -1, -9))
    found = measured("stereoset", items, table)
    assert found == pytest.approx(found | {"lms": 100, "ss": 50, "icat": 100})


def test_stereoset_is_a_mean_over_terms_worked_by_hand():
    """Term 0: 2 items, one stereotypical, 3 of 4 related; term 1: 1 item, its own, 2 of 2."""
    items = stereoset(n_terms=2, n_items=1).assign(cluster=["a", "b", "b"])
    logp = {
        "stereoset:0-0": (-1, -2, -3),
        "stereoset:1-0": (-1, -3, -2),
        "stereoset:1-1": (-2, -1, -3),
    }
    table = answers(items, lambda row: logp[row["item_id"]])
    found = measured("stereoset", items, table)
    assert found["lms"] == pytest.approx((100 + 75) / 2)
    assert found["ss"] == pytest.approx((100 + 50) / 2)
    assert found["icat"] == pytest.approx(87.5 * 25 / 50)
    # Every item alike: two of three.
    assert found["stereotype_share"] == pytest.approx(2 / 3)


def test_scores_of_stereoset_are_by_the_mean_over_tokens():
    items = stereoset(n_terms=1, n_items=1)
    table = answers(items, lambda row: (-4, -3, -9)).assign(n_tokens=[[4, 2, 3]])
    assert measured("stereoset", items, table)["ss"] == 100


def test_crows_pairs_and_texts_and_gaps_are_what_they_say():
    pairs = stereoset().assign(options=[["more", "less"]] * len(stereoset()))
    found = measured("crows_pairs", pairs, answers(pairs, lambda row: (-1, -1.5)))
    assert found == {"stereotype_share": 1.0, "stereotype_preference": 0.5}
    texts = stereoset().assign(options=[["Größe"]] * len(stereoset()))
    found = measured("language", texts, answers(texts, lambda row: (-14,)))
    assert found == {"logp_per_token": -7.0, "logp_per_byte": -2.0}  # seven bytes
    twins = stereoset().assign(
        condition=["pro" if i % 2 else "anti" for i in range(len(stereoset()))],
        options=[["one", "two"]] * len(stereoset()),
        gold=0,
    )
    right = {"pro": (-1, -2), "anti": (-2, -1)}
    found = measured("coreference", twins, answers(twins, lambda row: right[row["condition"]]))
    assert found["accuracy_gap"] == 1.0
    table = answers(twins, lambda row: right[row["condition"]])
    table["letter_logp"] = [[-1.0, -2.0]] * len(table)
    found = measured("ability", twins, table)
    assert 0 < found["accuracy"] < found["accuracy_letter"] == 1
    # By characters the longer option wins: 'less' before 'more of it'.
    longer = twins.assign(options=[["more of it", "less"]] * len(twins))
    found = measured("ability", longer, answers(longer, lambda row: (-2, -1)))
    assert (found["accuracy"], found["accuracy_norm"]) == (0, 1)


@pytest.fixture
def two():
    """A set's items, answers of a base, and of an alignment by two seeds."""
    items, rng = stereoset(), np.random.default_rng(0)
    base, one, other = (answers(items, lambda row: rng.normal(-9, 2, 3)) for _ in range(3))
    return items, base, {0: one, 1: other}


def test_the_same_answers_change_nothing(two):
    items, base, _ = two
    table = forgetting("stereoset", "stereoset", items, base, {0: base}, SETTINGS, {0: base})
    compared = table[table["change"].notna()]
    assert (compared["change"] == 0).all()
    assert (compared["p"] == 1).all()
    assert (compared[["change_low", "change_high"]] == 0).all(axis=None)
    distances = table[table["measure"].isin(["changed", "option_kl"])]
    assert (distances["value"] == 0).all()
    assert set(table["part"]) == {"all", "intersentence", "intrasentence", "gender", "race"}


def test_a_change_of_a_mean_has_the_clustered_error(two):
    items, base, runs = two
    table = forgetting("stereoset", "stereoset", items, base, runs, SETTINGS)
    row = table.set_index(["part", "measure"]).loc[("all", "stereotype_preference")]
    of, to = (
        np.mean([quantities("stereoset", items, a)["preference"] for a in each], axis=0)
        for each in (runs.values(), [base])
    )
    expected = clustered_mean(of - to, items["cluster"].to_numpy())
    assert row["change"] == pytest.approx(expected.value)
    low, high = expected.interval(0.05)
    assert (row["change_low"], row["change_high"]) == pytest.approx((low, high))
    assert row["value"] - row["base"] == pytest.approx(row["change"])
    assert (row["p"] < 0.05) == (low > 0 or high < 0)


def test_what_is_not_linear_is_a_mean_of_the_seeds_values():
    items = stereoset()
    always = answers(items, lambda row: (-1, -2, -9))
    never = answers(items, lambda row: (-2, -1, -9))
    table = forgetting("s", "stereoset", items, always, {0: always, 1: never}, SETTINGS)
    row = table.set_index(["part", "measure"]).loc["all"]
    assert row.loc["ss", "value"] == 50
    assert row.loc["icat", "value"] == 0  # each seed's is


def test_where_no_error_is_seen_there_is_no_p():
    items = stereoset(n_terms=3)
    base, run = (answers(items, lambda row, at=at: (at, -2, -9)) for at in (-1, -1.5))
    table = forgetting("s", "stereoset", items, base, {0: run}, SETTINGS)
    row = table.set_index(["part", "measure"]).loc[("all", "stereotype_preference")]
    assert row["change"] == -0.25
    assert np.isnan(row["p"])
    assert np.isnan(row["change_low"])


def test_net_of_the_control_the_base_cancels(two):
    items, base, runs = two
    table = forgetting("stereoset", "stereoset", items, base, runs, SETTINGS, {0: base})
    wide = table[table["change"].notna()].pivot_table("change", ["part", "measure"], "against")
    assert wide["base"].to_numpy() == pytest.approx(wide["control"].to_numpy())
    other = forgetting("stereoset", "stereoset", items, base, runs, SETTINGS, runs)
    assert (other.loc[other["against"] == "control", "change"] == 0).all()


def test_what_is_corrected_together_is_an_alignment(two):
    items, base, runs = two
    table = forgetting("stereoset", "stereoset", items, base, runs, SETTINGS)
    table = table.assign(model="m", alignment="gender", minus="", seeds=2)
    found = correct(table, "holm")
    whole = found[(found["part"] == "all") & found["p"].notna()]
    assert len(whole) == len(MEASURES["stereoset"])
    assert whole["p_adjusted"].min() == pytest.approx(min(1, 5 * whole["p"].min()))


def test_items_without_an_answer_are_an_error(two):
    items, base, _ = two
    with pytest.raises(ValueError, match="1 are missing"):
        quantities("stereoset", items, base.iloc[1:])
