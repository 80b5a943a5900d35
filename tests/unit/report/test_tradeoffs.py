"""The trade-off as a figure: every run where its changes are."""

import pandas as pd
import pytest
from spillover.report import tradeoffs


@pytest.fixture
def runs() -> pd.DataFrame:
    changes = {
        "gender/seed0": (-0.1, 0.02),
        "gender/seed0@0.50": (-0.05, 0.01),
        "shuffled/seed0": (0.0, 0.0),
    }
    return pd.DataFrame(
        [
            {
                "model": "m",
                "run": run,
                "alignment": run.partition("/")[0],
                "quantity": quantity,
                "change": change,
                "low": change - 0.01,
                "high": change + 0.01,
            }
            for run, of_run in changes.items()
            for quantity, change in zip(("language", "ability"), of_run, strict=True)
        ]
    )


def test_runs_stand_where_their_changes_are(runs):
    row = {"model": "m", "x": "language", "y": "ability", "correlation": 0.5}
    table = pd.DataFrame([row | {"low": 0.1, "high": 0.9}])
    figure = tradeoffs.tradeoff(runs, table, "m", ["shuffled"], 0.05)
    (axes,) = figure.axes
    places = {tuple(marks.get_offsets()[0].round(9)) for marks in axes.collections}
    assert places == {(-0.1, 2.0), (-0.05, 1.0), (0.0, 0.0)}
    assert sorted(text.get_text() for text in axes.texts) == ["gender", "shuffled"]
    assert axes.get_title() == "language and ability: r = 0.50 (0.10 to 0.90)"
    table["correlation"] = None
    figure = tradeoffs.tradeoff(runs, table, "m", [], 0.05)
    assert figure.axes[0].get_title().endswith("ability: no correlation")
