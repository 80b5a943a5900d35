import pandas as pd
import pytest
from spillover.report import figures

ATTRIBUTES = ("Age", "Gender_identity", "SES")


@pytest.fixture
def spillover():
    """An alignment and its control, in two models."""
    rows = [
        {"model": model, "alignment": alignment, "attribute": attribute, "context": context}
        for model in ("a", "b")
        for alignment in ("gender", "control")
        for attribute in ATTRIBUTES
        for context in ("ambig", "disambig")
    ]
    table = pd.DataFrame(rows)
    table["delta_accuracy"] = [i / 100 for i in range(len(table))]
    table["delta_low"] = table["delta_accuracy"] - 0.05
    table["delta_high"] = table["delta_accuracy"] + 0.05
    table["targeted"] = table["attribute"] == "Gender_identity"
    table["verdict"] = ["improved", "inconclusive"] * 12
    return table


@pytest.fixture
def aggregate(spillover):
    keys = ["model", "alignment", "context"]
    pooled = spillover[~spillover["targeted"]].groupby(keys, sort=False).mean(numeric_only=True)
    return pooled.reset_index().assign(attributes="untargeted", label_type="all")


@pytest.fixture
def contrasts(spillover):
    """Only the change of SES in ambiguous contexts, and the pooled one, are not the control's."""
    table = spillover[spillover["alignment"] == "gender"].rename(columns={"alignment": "contrast"})
    pooled = table[table["attribute"] == "Age"].assign(attribute="untargeted")
    table = pd.concat([table, pooled])
    held = table["attribute"].isin(["SES", "untargeted"]) & (table["context"] == "ambig")
    return table.assign(verdict=held.map({True: "improved", False: "inconclusive"}))


def points(axes):
    """Each series of points by its label: places, and whether they are filled."""
    return {
        collection.get_label(): (
            collection.get_offsets().tolist(),
            [color.tolist() != [1, 1, 1, 1] for color in collection.get_facecolors()],
        )
        for collection in axes.collections
        if not collection.get_label().startswith("_")
    }


def test_points_are_changes_in_points_and_filled_where_the_control_does_not_explain_them(
    spillover, aggregate, contrasts
):
    figure = figures.accuracy_change(spillover, aggregate, "gender", 0.05, contrasts, "control")
    titles = ["a, ambiguous", "a, disambiguated", "b, ambiguous", "b, disambiguated"]
    assert [axes.get_title() for axes in figure.axes] == titles
    drawn = points(figure.axes[0])
    places, filled = drawn["gender"]
    # the three attributes, then the pooled change of the two that are not targeted
    assert [x for x, _ in places] == pytest.approx([0, 2, 4, 2])
    assert filled == [False, False, True, True]
    places, filled = drawn["control"]
    assert [x for x, _ in places] == pytest.approx([6, 8, 10, 8])
    assert not any(filled)
    assert not any(points(figure.axes[1])["gender"][1])


def test_without_a_control_points_are_filled_where_a_change_holds(spillover, aggregate):
    figure = figures.accuracy_change(spillover, aggregate, "gender", 0.05)
    assert points(figure.axes[0])["gender"][1] == [True, True, True, False]
    assert points(figure.axes[1])["gender"][1] == [False] * 4
    assert "control" not in points(figure.axes[0])


def test_the_targeted_attribute_is_marked(spillover, aggregate):
    axes = figures.accuracy_change(spillover, aggregate, "gender", 0.05).axes[0]
    labels = [(label.get_text(), label.get_fontweight()) for label in axes.get_yticklabels()]
    assert labels == [
        ("untargeted, pooled", "normal"),
        ("SES", "normal"),
        ("Gender identity ◀", "bold"),
        ("Age", "normal"),
    ]


def test_a_model_whose_name_is_a_number_has_its_panel(spillover, aggregate):
    spillover["model"], aggregate["model"] = 7, 7
    figure = figures.accuracy_change(spillover, aggregate, "gender", 0.05)
    assert [len(points(axes)["gender"][0]) for axes in figure.axes] == [8, 8]


def test_bias_scores_are_averaged_over_seeds():
    keys = {"model": "a", "attribute": "Age", "label_type": "all", "bias_score_perfect_model": 0.0}
    metrics = pd.DataFrame(
        [
            keys | {"run": run, "context": context, "bias_score": score}
            for context in ("ambig", "disambig")
            for run, score in (
                ("base", 0.4),
                ("gender/seed0", 0.1),
                ("gender/seed1", 0.3),
                ("control/seed0", 0.5),
            )
        ]
    )
    axes = figures.bias_scores(metrics, "gender", ["Gender_identity"], "control").axes[0]
    drawn = {name: [x for x, _ in places] for name, (places, _) in points(axes).items()}
    assert drawn == {
        "before": [0.4],
        "after gender": [pytest.approx(0.2)],
        "after control": [0.5],
    }


@pytest.mark.parametrize("suffix", ["svg", "pdf"])
def test_the_same_data_give_the_same_file(spillover, aggregate, tmp_path, suffix):
    for name in ("one", "two"):
        figure = figures.accuracy_change(spillover, aggregate, "gender", 0.05)
        figures.save(figure, [str(tmp_path / f"{name}.{suffix}")])
    assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()
