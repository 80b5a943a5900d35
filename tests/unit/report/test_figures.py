import pandas as pd
import pytest
from spillover.report import figures


@pytest.fixture
def spillover():
    rows = [
        {"model": model, "attribute": attribute, "context": context}
        for model in ("a", "b")
        for attribute in ("Age", "Gender_identity", "SES")
        for context in ("ambig", "disambig")
    ]
    table = pd.DataFrame(rows)
    table["delta_accuracy"] = [i / 100 for i in range(len(table))]
    table["delta_low"] = table["delta_accuracy"] - 0.05
    table["delta_high"] = table["delta_accuracy"] + 0.05
    table["targeted"] = table["attribute"] == "Gender_identity"
    table["verdict"] = ["improved", "inconclusive"] * 6
    return table


def test_points_are_the_changes_in_points_and_filled_where_they_hold(spillover):
    figure = figures.accuracy_change(spillover, 0.05)
    first, second = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]
    ambiguous = first.collections[1]
    assert ambiguous.get_offsets()[:, 0].tolist() == pytest.approx([0, 2, 4])
    assert second.collections[1].get_offsets()[:, 0].tolist() == pytest.approx([6, 8, 10])
    assert ambiguous.get_facecolors()[0].tolist() != [1, 1, 1, 1]
    assert first.collections[3].get_facecolors()[0].tolist() == [1, 1, 1, 1]


def test_the_targeted_attribute_is_marked(spillover):
    axes = figures.accuracy_change(spillover, 0.05).axes[0]
    labels = {label.get_text(): label.get_fontweight() for label in axes.get_yticklabels()}
    assert labels == {"SES": "normal", "Gender identity ◀": "bold", "Age": "normal"}


def test_bias_scores_are_averaged_over_seeds():
    keys = {"model": "a", "attribute": "Age", "label_type": "all", "bias_score_perfect_model": 0.0}
    metrics = pd.DataFrame(
        [
            keys | {"run": run, "context": context, "bias_score": score}
            for context in ("ambig", "disambig")
            for run, score in (("base", 0.4), ("gender/seed0", 0.1), ("gender/seed1", 0.3))
        ]
    )
    axes = figures.bias_scores(metrics, "gender", ["Gender_identity"]).axes[0]
    before, after = axes.collections[1], axes.collections[2]
    assert before.get_offsets()[:, 0].tolist() == [0.4]
    assert after.get_offsets()[:, 0].tolist() == pytest.approx([0.2])


@pytest.mark.parametrize("suffix", ["svg", "pdf"])
def test_the_same_data_give_the_same_file(spillover, tmp_path, suffix):
    for name in ("one", "two"):
        figures.save(figures.accuracy_change(spillover, 0.05), [str(tmp_path / f"{name}.{suffix}")])
    assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()
