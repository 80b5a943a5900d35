"""Summaries of a matrix: against what they are by definition, planted and under nothing."""

import numpy as np
import pandas as pd
import pytest
from spillover.statistics.profiles import COLUMNS, profiles

ATTRIBUTES = ["Age", "Religion", "SES", "Race"]
TARGETS = {name.lower(): [name] for name in ATTRIBUTES} | {"everything": ATTRIBUTES}
SETTINGS = {"alpha": 0.05, "resamples": 400, "correction": "holm", "seed": 0}


def made(seed=0, templates=20, planted=()):
    """Items of four attributes, and changes of -1, 0 or 1 by every alignment."""
    rng = np.random.default_rng(seed)
    items = pd.DataFrame(
        [
            (f"{attribute}-{template}-{context}-{i}", attribute, context, f"{attribute}-{template}")
            for attribute in ATTRIBUTES
            for template in range(templates)
            for context in ("ambig", "disambig")
            for i in range(2)
        ],
        columns=["item_id", "attribute", "context_condition", "template"],
    )
    changes = {}
    for name in TARGETS:
        values = pd.Series(rng.integers(-1, 2, len(items)), index=items["item_id"], dtype=float)
        for alignment, attribute, context in planted:
            cell = (items["attribute"] == attribute) & (items["context_condition"] == context)
            if alignment == name:
                values[cell.to_numpy()] = -1.0
        changes[name] = values
    return items, changes


def test_each_summary_is_what_it_says():
    items, changes = made()
    table = profiles(items, changes, TARGETS, SETTINGS)
    assert list(table) == COLUMNS
    row = table.set_index(["measure", "of", "to", "context"])["value"]
    attribute = items["attribute"].to_numpy()
    ambig = (items["context_condition"] == "ambig").to_numpy()
    age, ses = (changes[name].to_numpy() for name in ("age", "ses"))
    assert row["spills", "age", np.nan, "ambig"].item() == pytest.approx(
        age[ambig & (attribute != "Age")].mean()
    )
    others = np.mean([changes[name].to_numpy() for name in ("age", "religion", "race")], axis=0)
    assert row["suffers", np.nan, "SES", "ambig"].item() == pytest.approx(
        others[ambig & (attribute == "SES")].mean()
    )
    assert row["asymmetry", "age", "ses", "ambig"] == pytest.approx(
        age[ambig & (attribute == "SES")].mean() - ses[ambig & (attribute == "Age")].mean()
    )
    # An alignment for everything has no spillover, and nothing that it could resemble.
    assert "everything" not in table.loc[table["measure"] == "spills", "of"].tolist()
    assert table.loc[(table["measure"] == "similarity") & table["low"].isna()].shape[0] == 4
    known = table.dropna(subset=["low", "value"])
    assert (known["low"] <= known["value"]).all()
    assert (known["value"] <= known["high"]).all()


def test_what_is_planted_is_found():
    items, changes = made(
        1, planted=[("age", name, "ambig") for name in ("Religion", "SES", "Race")]
    )
    table = profiles(items, changes, TARGETS, SETTINGS)
    spills = table[(table["measure"] == "spills") & (table["p_adjusted"] < 0.05)]
    assert spills[["of", "context"]].to_numpy().tolist() == [["age", "ambig"]]
    assert spills["value"].item() == -1
    assert spills["worst_share"].item() == 1
    lopsided = table[(table["measure"] == "asymmetry") & (table["p_adjusted"] < 0.05)]
    assert set(lopsided["of"]) == {"age"}
    assert len(lopsided) == 3


EFFECTS = {  # of age, of ses
    ("Religion", "ambig"): (-1.2, -1.2),
    ("Religion", "disambig"): (0.2, 1.8),
    ("Race", "ambig"): (0.8, 0.0),
    ("Race", "disambig"): (-0.6, 0.4),
}


def with_noise(sign, shared, seed=0, templates=20, centred=False):
    """Those effects, of either sign under ses, and noise of templates.

    ``shared`` : whether the noise is the same for both. ``centred`` : whether it is 0 in the
    mean of every cell.
    """
    items, _ = made(templates=templates)
    cells = zip(items["attribute"], items["context_condition"], strict=True)
    effects = np.array([EFFECTS.get(cell, (0, 0)) for cell in cells]).T * [[abs(sign)], [sign]]
    rng = np.random.default_rng(seed)
    of_template = items.groupby([items["template"], items["context_condition"]]).ngroup()
    noise = rng.normal(size=(2, of_template.max() + 1))[[0, 0] if shared else [0, 1]]
    noise = noise[:, of_template]
    if centred:
        cell = items.groupby(["attribute", "context_condition"]).ngroup()
        noise -= pd.DataFrame(noise.T).groupby(cell).transform("mean").to_numpy().T
    changes = {
        name: pd.Series(effect + own, index=items["item_id"])
        for name, effect, own in zip(("age", "ses"), effects, noise, strict=True)
    }
    return items, changes, {name: TARGETS[name] for name in changes}


def similarity(items, changes, targets, **settings):
    table = profiles(items, changes, targets, SETTINGS | settings)
    return table[table["measure"] == "similarity"].iloc[0]


@pytest.mark.parametrize(("sign", "shared"), [(1, False), (-1, True)])
def test_similarity_is_of_effects_less_what_noise_adds(sign, shared):
    items, changes, targets = with_noise(sign, shared, templates=8, centred=True)
    row = similarity(items, changes, targets, resamples=2000)
    # By hand: covariances of the cells' means, less their error's as templates estimate it.
    table = pd.DataFrame(changes).set_axis(items.index).join(items)
    table = table[table["attribute"].isin(["Race", "Religion"])]
    by_template = table.pivot_table(["age", "ses"], "template", "context_condition")
    error, means = np.zeros((2, 2)), []
    for name in ("Race", "Religion"):
        of = by_template[by_template.index.str.startswith(name)]
        k = len(of)
        means += of.mean().to_numpy().reshape(2, 2).T.tolist()
        covariance = of.cov().to_numpy().reshape(2, 2, 2, 2) / k  # alignment, context, twice
        within, over = np.einsum("acbc->ab", covariance), np.einsum("acbd->ab", covariance)
        error += within - over / 4
    centred = np.array(means) - np.mean(means, axis=0)
    moments = centred.T @ centred
    naive, corrected = (m[0, 1] / np.sqrt(m[0, 0] * m[1, 1]) for m in (moments, moments - error))
    assert row["value"] == pytest.approx(corrected, abs=0.01)
    assert abs(row["value"] - naive) > 0.05
    assert row["low"] <= row["value"] <= row["high"]
    # Drawn anew, cells have noise of their own besides, which is not to pull the draws to 0.
    middle = similarity(items, changes, targets, resamples=2000, alpha=1.0)["low"]
    assert abs(middle) >= abs(row["value"])


def test_noise_alone_resembles_nothing():
    """The same noise under both, and no effect: without correction a correlation of 1."""
    found = []
    for seed in range(12):
        items, changes, targets = with_noise(0, shared=True, seed=seed)
        row = similarity(items, changes, targets, resamples=200)
        found.append((row["low"], row["high"]))
    assert found.count((-1, 1)) >= 11


def test_cells_of_a_single_template_have_no_similarity():
    items, changes, targets = with_noise(1, shared=False)
    items = items.assign(template=items["attribute"])
    row = similarity(items, changes, targets, resamples=100)
    assert row[["value", "low", "high"]].isna().all()
