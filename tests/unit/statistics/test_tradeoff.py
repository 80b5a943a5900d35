"""Whether changes go together over runs: planted, absent, and worked by hand."""

import numpy as np
import pandas as pd
import pytest
from spillover.statistics.forgetting import forgetting
from spillover.statistics.tradeoff import (
    by_alignment,
    correlations,
    of_items,
    of_set,
    points,
    verdicts,
)

CLAIM = "downstream performance is strongly correlated with overall forgetting"
SETTINGS = {"alpha": 0.05, "resamples": 400, "seed": 0}


def texts(n: int = 30) -> pd.DataFrame:
    """Running texts, two a document."""
    return pd.DataFrame(
        {
            "item_id": [f"t:{i}" for i in range(n)],
            "cluster": [f"page {i // 2}" for i in range(n)],
            "group": "",
            "condition": "",
            "options": [["some words"]] * n,
        }
    )


def scored(items: pd.DataFrame, mean: float, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    logp = [[float(value)] for value in rng.normal(mean, 1, len(items))]
    return pd.DataFrame({"item_id": items["item_id"], "logp": logp, "n_tokens": [[2]] * len(items)})


def test_a_change_of_a_set_is_that_of_forgetting():
    items = texts()
    base, run = scored(items, -20, 0), scored(items, -22, 1)
    drawn = of_set("t", "language", "logp_per_byte", items, base, [run, base], SETTINGS)
    assert drawn.shape == (401, 2)
    table = forgetting("t", "language", items, base, {0: run}, SETTINGS)
    expected = table.set_index("measure").loc["logp_per_byte", "change"]
    assert drawn[0, 0] == pytest.approx(expected)
    assert (drawn[:, 1] == 0).all()
    # Its spread is the jackknife's error.
    row = table.set_index("measure").loc["logp_per_byte"]
    half = (row["change_high"] - row["change_low"]) / 2
    assert 2 * drawn[1:, 0].std() == pytest.approx(half, rel=0.2)


def test_fairness_is_a_mean_over_attributes_whatever_their_size(make_templates):
    items = make_templates("Age", "SES")
    items = items[(items["attribute"] == "Age") | (items.index % 2 == 0)]
    change = pd.Series(np.where(items["attribute"] == "Age", 0.4, 0.1), items["item_id"])
    held = change[change.index.str.startswith("Age:1") | change.index.str.startswith("SES")]
    drawn = of_items(items, [change, held], SETTINGS)
    assert drawn[0] == pytest.approx([0.25, 0.25])
    assert drawn[:, 0] == pytest.approx(0.25)


def runs_of(n_alignments: int, seeds: int = 1) -> tuple[list[str], list[str]]:
    alignments = [f"a{i}" for i in range(n_alignments) for _ in range(seeds)]
    return alignments, [f"seed{s}" for _ in range(n_alignments) for s in range(seeds)]


def drawn_around(means: list[float], error: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = np.array(means) + rng.normal(0, error, (401, len(means)))
    values[0] = means
    return values


def test_what_goes_together_is_told_and_what_does_not_is_not():
    alignments, seeds = runs_of(6)
    damage = [0.0, -0.1, -0.2, -0.3, -0.4, -0.5]
    drawn = {
        "language": drawn_around(damage, 0.02, 0),
        "ability": drawn_around(damage, 0.02, 1),
        "stereotypes": drawn_around([0.1, -0.1, 0.0, 0.0, -0.1, 0.1], 0.03, 2),
    }
    table = correlations(drawn, alignments, seeds, SETTINGS)
    assert table[["x", "y"]].to_numpy().tolist() == [
        ["language", "ability"],
        ["language", "stereotypes"],
    ]
    assert table["n_runs"].eq(6).all()
    together, apart = table.to_dict("records")
    assert together["correlation"] > 0.98
    assert together["low"] > 0.9
    assert together["p"] < 0.01
    assert apart["low"] < 0 < apart["high"]
    assert apart["p"] > 0.1
    arms = pd.DataFrame({"verdict": [], "context": []})
    assert [*verdicts(table, arms).values()] == ["holds", "cannot be told", "not measured"]
    assert [*verdicts(table.iloc[:1], arms).values()][1] == "not measured"
    reverse = drawn | {"ability": -drawn["ability"]}
    against = correlations(reverse, alignments, seeds, SETTINGS)
    assert next(iter(verdicts(against, arms).values())) == "does not hold"


@pytest.mark.parametrize(
    ("language", "ability", "said"),
    [
        ((-0.2, 0.1), (-0.3, -0.1), "cannot be told"),
        ((0.01, 0.1), (-0.3, -0.1), "does not hold"),
        ((-0.2, -0.1), (-0.3, 0.0), "holds"),
    ],
)
def test_remedies_are_judged_by_what_they_differ_by(language, ability, said):
    row = {"context": "both", "verdict": "not told apart"}
    for name, (low, high) in (("language", language), ("ability", ability)):
        row |= {f"{name}_difference": 0, f"{name}_difference_low": low}
        row |= {f"{name}_difference_high": high}
    arms = pd.DataFrame([row, row | {"verdict": "reference", "language_difference_low": 1}])
    empty = pd.DataFrame(columns=["x", "y", "low", "high"])
    assert [*verdicts(empty, arms).values()][2] == said


def test_noise_neither_hides_a_correlation_nor_makes_one():
    """Runs that go together, measured badly: not told to be apart, seldom at least."""
    alignments, seeds = runs_of(15)
    told, absent, n = [], [], 40
    for seed in range(n):
        rng = np.random.default_rng(seed)
        true = rng.normal(0, 1, 15)

        def measured(of: np.ndarray, rng=rng) -> np.ndarray:
            found = of + rng.normal(0, 1.5, 15)
            return np.vstack([found, found + rng.normal(0, 1.5, (400, 15))])

        drawn = {"language": measured(true), "ability": measured(true)}
        table = correlations(drawn, alignments, seeds, SETTINGS)
        told.append(verdicts(table, pd.DataFrame(columns=["x"]))[CLAIM])
        drawn = {"language": measured(true), "ability": measured(rng.normal(0, 1, 15))}
        absent.append(correlations(drawn, alignments, seeds, SETTINGS)["p"].iloc[0] < 0.05)
    assert told.count("does not hold") <= 3
    assert sum(absent) <= 6


def test_where_nothing_varies_there_is_no_p():
    alignments, seeds = runs_of(5)
    drawn = {"language": drawn_around([0, 1, 2, 3, 4], 0.1, 0), "ability": np.zeros((401, 5))}
    row = correlations(drawn, alignments, seeds, SETTINGS).iloc[0]
    assert np.isnan(row["correlation"])
    assert np.isnan(row["p"])


def test_few_runs_have_no_correlation():
    alignments, seeds = runs_of(3)
    drawn = {name: drawn_around([0, 1, 2], 0.1, 0) for name in ("language", "ability")}
    table = correlations(drawn, alignments, seeds, SETTINGS)
    assert table["correlation"].isna().all()


def test_seeds_are_drawn_together_with_the_items():
    """Two seeds that say the opposite: what is told depends on which are drawn."""
    alignments, seeds = runs_of(4, seeds=2)
    x = [0, 0, 1, 1, 2, 2, 3, 3]
    y = [0, 0, 1, -1, 2, -2, 3, -3]
    drawn = {"language": drawn_around(x, 0.01, 0), "ability": drawn_around(y, 0.01, 1)}
    row = correlations(drawn, alignments, seeds, SETTINGS).iloc[0]
    assert row["n_runs"] == 8
    assert row["n_trainings"] == 8
    assert row["n_seeds"] == 2
    assert row["low"] < -0.9
    assert row["high"] > 0.9


def test_points_are_the_runs_changes():
    drawn = {"language": drawn_around([0.0, -0.5], 0.01, 0)}
    table = points(drawn, ["a/seed0", "b/seed0"], ["a", "b"], 0.05)
    assert table["change"].tolist() == [0.0, -0.5]
    assert (table["low"] < table["change"]).all()


def test_an_alignments_change_is_the_mean_of_its_runs():
    drawn = {"ability": drawn_around([0.1, 0.3, -0.2], 0.01, 0)}
    table = by_alignment(drawn, ["a", "a", "b"], "b", 0.05)
    assert table["ability"].to_dict() == pytest.approx({"a": 0.2, "b": -0.2})
    widths = table["ability_high"] - table["ability_low"]
    # Two runs are surer than one.
    assert widths["a"] < 0.9 * widths["b"]
    assert table["ability_difference"].to_dict() == pytest.approx({"a": 0.4, "b": 0.0})
    assert table.loc["a", "ability_difference_low"] > 0.3
