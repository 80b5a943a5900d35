"""The spillover matrix: which cells it has, and which tests are one family."""

import itertools

import numpy as np
import pandas as pd
import pytest
from spillover.statistics.matrix import COLUMNS, matrix

ATTRIBUTES = ["Age", "Religion", "SES"]
TARGETS = {"age": ["Age"], "age-shuffled": ["Age"], "all": ATTRIBUTES, "ses": ["SES"]}
CONTROLS = {"age": "age-shuffled"}
SETTINGS = {"alpha": 0.05, "correction": "holm"}
CONTEXTS = ["ambig", "disambig"]


def spillover(p=0.03):
    keys = itertools.product(TARGETS, ATTRIBUTES, CONTEXTS)
    table = pd.DataFrame(list(keys), columns=["alignment", "attribute", "context"])
    numbers = np.arange(len(table)) / 100
    return table.assign(
        model="tiny",
        n_items=20,
        n_templates=10,
        delta_accuracy=numbers,
        delta_low=numbers - 0.1,
        delta_high=numbers + 0.1,
        cluster_p=p,
        equivalence_p=1.0,
        delta_bias=-numbers,
        delta_bias_low=-numbers - 0.1,
        delta_bias_high=-numbers + 0.1,
        bias_p=0.5,
    )


def contrasts(p=0.004):
    keys = itertools.product([*ATTRIBUTES, "untargeted", "all"], [*CONTEXTS, "both"])
    table = pd.DataFrame(list(keys), columns=["attribute", "context"])
    table = table[table["attribute"].isin(["untargeted", "all"]) | (table["context"] != "both")]
    names = ["difference", "bias_difference"]
    ends = {f"{name}{end}": -0.2 for name in names for end in ("", "_low", "_high")}
    age = table.assign(
        contrast="age",
        model="tiny",
        of="age",
        minus="age-shuffled",
        n_items=20,
        n_templates=10,
        cluster_p=p,
        bias_p=0.5,
        equivalence_p=1.0,
        **ends,
    )
    # Two models as they are: no cell of a matrix.
    return pd.concat([age, age.assign(contrast="nf4", of="tiny", minus="other")])


def test_a_cell_is_there_as_it_is_and_net_of_its_control():
    table = matrix(spillover(), contrasts(), TARGETS, CONTROLS, SETTINGS)
    assert list(table) == COLUMNS
    assert len(table) == len(TARGETS) * 6 + 6
    net = table[table["minus"] != ""]
    assert set(net["alignment"]) == {"age"}
    assert set(net["minus"]) == {"age-shuffled"}
    assert (net["delta_accuracy"] == -0.2).all()
    raw = table[table["minus"] == ""]
    assert raw["delta_accuracy"].tolist() == spillover()["delta_accuracy"].tolist()
    assert table.set_index("alignment")["target"].to_dict() == {
        "age": "Age",
        "age-shuffled": "Age",
        "all": "Age+Religion+SES",
        "ses": "SES",
    }


def test_families_are_the_untargeted_cells_of_a_context():
    table = matrix(spillover(0.01), contrasts(), TARGETS, CONTROLS, SETTINGS)
    size = (table["cluster_p_adjusted"] / table["cluster_p"]).round(6)
    assert (size[table["targeted"]] == 1).all()
    off = table[~table["targeted"]].assign(size=size)
    # Net: Religion and SES of age. As they are: those, and Age and Religion of ses. The control's
    # two are its own.
    found = off.groupby(["alignment", "minus"])["size"].first().to_dict()
    assert found == {
        ("age", ""): 4,
        ("age", "age-shuffled"): 2,
        ("age-shuffled", ""): 2,
        ("ses", ""): 4,
    }
    verdicts = table[table["minus"] != ""].set_index(["attribute", "context"])["verdict"]
    assert set(verdicts) == {"degraded"}


@pytest.mark.parametrize("controls", [{}, CONTROLS])
def test_without_contrasts_there_are_changes_only(controls):
    table = matrix(spillover(), None, TARGETS, controls, SETTINGS)
    assert (table["minus"] == "").all()
