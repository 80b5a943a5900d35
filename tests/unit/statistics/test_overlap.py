"""Shared words against spillover: worked by hand, planted, and under nothing."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from spillover.statistics.overlap import (
    COLUMNS,
    MEASURES,
    OVERLAP_COLUMNS,
    _relabelled,
    correlations,
    overlaps,
)

NAMES = ["Age", "Nationality", "Race", "Religion", "SES"]
SETTINGS = {"alpha": 0.05, "resamples": 500, "correction": "holm", "seed": 0}


def items():
    rows = [
        ("Age", "An old man met a man.", "Who's old?", ["The old man", "Unknown", "A boy"], 1),
        ("Age", "The old man left.", "Who left?", ["A boy", "Unknown", "The man"], 1),
        ("SES", "A poor man left.", "WHO left?", ["Not known", "The poor man", "The rich"], 0),
        ("Race", "Nobody spoke.", "Why?", ["Unknown", "Ann", "Bo"], 0),
    ]
    columns = ["attribute", "context", "question", "options", "unknown"]
    return pd.DataFrame(rows, columns=columns)


def test_overlaps_worked_by_hand():
    targets = {"age": ["Age"], "ses": ["SES"], "both": ["Age", "SES"], "none": []}
    table = overlaps(items(), targets)
    assert list(table) == OVERLAP_COLUMNS
    row = table.set_index(["alignment", "attribute"])
    assert sorted(row.index) == [
        ("age", "Race"),
        ("age", "SES"),
        ("both", "Race"),
        ("ses", "Age"),
        ("ses", "Race"),
    ]
    # Age: an old man met a who's the left who; SES: a poor man left who. Of ten they share four.
    # Counted, Age: an 1, old 3, man 3, met 1, a 1, who's 1, the 1, left 2, who 1; SES: a 1, poor 1,
    # man 1, left 2, who 1.
    # Answers, Age: the old man a boy; SES: the poor man rich. Of seven they share two.
    expected = [4 / 10, (1 + 3 + 4 + 1) / np.sqrt(28 * 8), 2 / 7, 1.0]
    assert row.loc[("age", "SES"), MEASURES].tolist() == pytest.approx(expected)
    # Of Age's two questions SES has one; the rest is the same both ways.
    expected[-1] = 1 / 2
    assert row.loc[("ses", "Age"), MEASURES].tolist() == pytest.approx(expected)
    assert row.loc[("both", "Race"), MEASURES].tolist() == [0, 0, 0, 0]
    assert row.loc[("both", "Race"), "target"] == "Age+SES"


def random_overlaps(rng, names=NAMES):
    """An overlap for each pair of attributes, the same both ways, and an alignment for each."""
    rows = []
    for one, other in itertools.combinations(names, 2):
        values = rng.random(len(MEASURES))
        rows += [(a.lower(), a, b, *values) for a, b in ((one, other), (other, one))]
    return pd.DataFrame(rows, columns=OVERLAP_COLUMNS)


def matrix_of(table, change, minus=None):
    return pd.DataFrame(
        {
            "model": "tiny",
            "alignment": table["alignment"],
            "minus": minus,
            "target": table["target"],
            "attribute": table["attribute"],
            "context": "ambig",
            "delta_accuracy": change,
        }
    )


def test_a_planted_relation_comes_out():
    shared = random_overlaps(np.random.default_rng(0))
    noise = np.random.default_rng(1).normal(size=len(shared)) / 10
    change = -shared["words"] + noise
    table = correlations(shared, matrix_of(shared, change), SETTINGS)
    assert list(table) == COLUMNS
    assert len(table) == 2 * len(MEASURES)
    row = table.set_index(["overlap", "change"]).loc[("words", "accuracy")]
    assert row["correlation"] == pytest.approx(stats.spearmanr(shared["words"], change)[0])
    assert row["high"] < 0
    assert row["low"] <= row["correlation"] <= row["high"]
    # Of 5! relabellings no other comes as close: no two overlaps are the same.
    assert row["p"] == 1 / 120
    assert row["p_adjusted"] == pytest.approx(8 / 120)
    assert (row["n_targets"], row["n_attributes"], row["n_cells"]) == (5, 5, 20)
    by_size = table.set_index(["overlap", "change"]).loc[("words", "magnitude"), "correlation"]
    assert by_size == pytest.approx(stats.spearmanr(shared["words"], np.abs(change))[0])


def test_without_a_relation_p_is_uniform():
    """Rows and columns move as a whole, and pairs alike both ways, as cells of a matrix do."""
    p = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        shared = random_overlaps(rng)
        row, column = (dict(zip(NAMES, 2 * rng.normal(size=5), strict=True)) for _ in range(2))
        pair = {frozenset(of): rng.normal() for of in itertools.combinations(NAMES, 2)}
        change = [
            row[one] + column[other] + pair[frozenset((one, other))]
            for one, other in zip(shared["target"], shared["attribute"], strict=True)
        ]
        table = correlations(shared, matrix_of(shared, change), SETTINGS)
        p.append(table.loc[(table["change"] == "accuracy"), "p"].iloc[0])
    p = np.array(p)
    for level in (0.05, 0.25, 0.5):
        assert stats.binomtest(int(np.sum(p <= level)), len(p), level).pvalue > 0.01


def test_of_a_cell_the_change_net_of_its_control_counts():
    shared = random_overlaps(np.random.default_rng(0))
    net = shared["words"].to_numpy()
    noise = np.random.default_rng(1).normal(size=(2, len(net)))
    controlled = shared["alignment"] != "ses"
    controls = shared[controlled].assign(alignment=lambda of: of["alignment"] + "-shuffled")
    several = shared[shared["alignment"] == "age"].assign(alignment="two", target="Race+SES")
    tables = [
        matrix_of(shared, np.where(controlled, noise[0], net)),
        matrix_of(controls, noise[1][controlled]),
        matrix_of(
            shared[controlled], net[controlled], shared["alignment"][controlled] + "-shuffled"
        ),
        matrix_of(several, 1.0),
    ]
    found = correlations(pd.concat([shared, several]), pd.concat(tables), SETTINGS)
    row = found.set_index(["overlap", "change"]).loc[("words", "accuracy")]
    assert row["n_cells"] == 20
    assert row["correlation"] == pytest.approx(1)


@pytest.mark.parametrize("names", [NAMES[:2], NAMES[:3]])
def test_of_few_alignments_nothing_is_said(names):
    shared = random_overlaps(np.random.default_rng(0))
    some = shared[shared["target"].isin(names)]
    table = correlations(some, matrix_of(some, some["words"]), SETTINGS)
    assert (table["n_targets"] == len(names)).all()
    known = len(names) == 3
    assert table["correlation"].notna().all() == known
    assert table["p"].notna().all() == known


def test_what_does_not_vary_has_no_correlation():
    shared = random_overlaps(np.random.default_rng(0)).assign(wordings=0.0)
    table = correlations(shared, matrix_of(shared, shared["words"]), SETTINGS)
    constant = table["overlap"] == "wordings"
    assert table.loc[constant, ["correlation", "low", "high", "p"]].isna().all(axis=None)
    assert table.loc[~constant, "p"].notna().all()


@pytest.mark.parametrize(("n_others", "exact"), [(2, True), (7, False)])
def test_targets_and_others_are_each_exchanged_among_themselves(n_others, exact):
    labels, every = _relabelled(3, n_others, "ambig", SETTINGS)
    assert every == exact
    assert len(labels) == (12 if exact else 500)
    assert (np.sort(labels[:, :3]) == np.arange(3)).all()
    assert (np.sort(labels[:, 3:]) == np.arange(3, 3 + n_others)).all()
