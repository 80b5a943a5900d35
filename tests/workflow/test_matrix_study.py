"""The spillover matrix of a study with several alignments: what is planted comes out, alone."""

import numpy as np
import pandas as pd
import pytest

ATTRIBUTES = ["Age", "Gender_identity", "Religion"]
TARGETS = {"age": ["Age"], "gender": ["Gender_identity"], "religion": ["Religion"]}
TARGETS["all-three"] = ATTRIBUTES


@pytest.fixture
def items(bbq_items):
    return pd.concat(map(bbq_items, ATTRIBUTES), ignore_index=True)


def test_a_planted_spillover_comes_out_in_its_cell_and_nowhere_else(
    workflow, published, items, tmp_path
):
    rng = np.random.default_rng(0)
    wrong = (items["gold"] + 1) % 3
    base = items["gold"].where(rng.random(len(items)) < 0.7, wrong)

    def write(name: str, predicted: pd.Series) -> str:
        path = tmp_path / f"{name}.csv"
        answers = items[["attribute", "example_id"]].assign(predicted_option=predicted)
        answers.to_csv(path, index=False)
        return str(path)

    def noisy(planted=()) -> pd.Series:
        """The base's answers, a few of them changed to and fro; in planted cells all wrong."""
        drawn = items["gold"].where(rng.random(len(items)) < 0.7, wrong)
        answers = base.where(rng.random(len(items)) < 0.95, drawn)
        for attribute, context in planted:
            cell = (items["attribute"] == attribute) & (items["context_condition"] == context)
            answers = answers.mask(cell, wrong)
        return answers

    predictions, alignments = {"base": write("base", base)}, {}
    for name, target in TARGETS.items():
        planted = [("Age", "ambig")] if name == "religion" else []
        predictions[f"{name}/seed0"] = write(name, noisy(planted))
        predictions[f"{name}-shuffled/seed0"] = write(f"{name}-shuffled", noisy())
        alignments[name] = {"target": target, "control": f"{name}-shuffled"}
        alignments[f"{name}-shuffled"] = {"target": target}
    config = {
        "study": "planted",
        "bbq": {"type": "path", "path": str(published)},
        "models": {"made": {"predictions": predictions}},
        "alignments": alignments,
        "evaluation": {"attributes": ATTRIBUTES},
        "statistics": {"resamples": 500},
    }
    workflow.configure(config)
    workflow.run()
    results = workflow.folder / "results/planted"

    matrix = pd.read_csv(results / "matrix.tsv", sep="\t", keep_default_na=False)
    assert len(matrix) == 8 * 6 + 4 * 6
    net = matrix[(matrix["minus"] != "") & (matrix["targeted"].astype(str) == "False")]
    found = net[net["verdict"].isin(["improved", "degraded"])]
    assert found[["alignment", "attribute", "context", "verdict"]].to_numpy().tolist() == [
        ["religion", "Age", "ambig", "degraded"]
    ]

    profiles = pd.read_csv(results / "profiles.tsv", sep="\t")
    held = profiles[profiles["p_adjusted"] < 0.05]
    assert set(held.loc[held["measure"] == "spills", "of"]) == {"religion"}
    assert set(held.loc[held["measure"] == "suffers", "to"]) == {"Age"}
    assert set(held["context"]) == {"ambig"}
    overlap = pd.read_csv(results / "overlap.tsv", sep="\t")
    assert set(overlap["n_cells"]) == {6}
    assert overlap.loc[overlap["overlap"] == "words", "p"].notna().all()
    assert len(pd.read_csv(results / "vocabulary.tsv", sep="\t")) == 6
    for value in ("accuracy", "bias"):
        assert (results / f"figures/matrix_{value}_made.svg").stat().st_size > 10_000

    # Another alignment: its own pairs, and the tables and figures; nothing else.
    predictions["again/seed0"] = write("again", noisy())
    alignments["again"] = {"target": ["Age"]}
    workflow.configure(config)
    planned = workflow.planned()
    assert planned["build_pairs"] == 1
    assert "prepare_items" not in planned
