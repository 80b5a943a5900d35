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
    cells = pd.DataFrame({"age": age, "ses": ses}).groupby([attribute, ambig]).mean()
    cells = cells.drop(["Age", "SES"], level=0)
    expected = np.corrcoef(cells["age"], cells["ses"])[0, 1]
    assert row["similarity", "age", "ses", "both"] == pytest.approx(expected)
    # An alignment for everything has no spillover, and nothing that it could resemble.
    assert "everything" not in table.loc[table["measure"] == "spills", "of"].tolist()
    assert table.loc[(table["measure"] == "similarity") & table["value"].isna()].shape[0] == 4
    known = table.dropna(subset="low")
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
