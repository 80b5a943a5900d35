import pandas as pd
import pytest
from matplotlib.patches import Rectangle
from spillover.report import heatmaps


@pytest.fixture
def table():
    """Two alignments, one with a control; what the control has not holds in one cell."""
    cells = [
        ("gender", "", 0.5, 0.001),
        ("gender", "shuffled", -0.3, 0.001),
        ("shuffled", "", 0.1, 0.5),
        ("age", "", 0.2, 0.5),
    ]
    rows = [
        {"alignment": name, "minus": minus, "attribute": attribute, "context": context}
        | {"delta_accuracy": change, "cluster_p_adjusted": p if attribute == "SES" else 1.0}
        for name, minus, change, p in cells
        for attribute in ("Gender_identity", "SES")
        for context in ("ambig", "disambig")
    ]
    return pd.DataFrame(rows).assign(
        model="m",
        targeted=lambda t: (t["attribute"] == "Gender_identity") & (t["alignment"] != "age"),
    )


def test_rows_are_net_of_the_control_and_controls_stand_below(table):
    figure = heatmaps.matrix(table, "m", "delta_accuracy", 0.05)
    for axes in figure.axes[:2]:
        assert [label.get_text() for label in axes.get_yticklabels()] == [
            "gender",
            "age (no control)",
            "shuffled",
        ]
        assert [text.get_text() for text in axes.texts] == [
            "-30",
            "-30•",
            "+20",
            "+20",
            "+10",
            "+10",
        ]
        assert [text.get_fontweight() for text in axes.texts].count("bold") == 1
        assert sum(isinstance(patch, Rectangle) for patch in axes.patches) == 2
        # One scale, of what is shown, symmetric about 0.
        assert axes.images[0].get_clim() == pytest.approx((-30, 30))
