"""What is said of tables in words: numbers of the tables, and no others."""

import importlib.util
from pathlib import Path

import pandas as pd
import pytest
from spillover.report import findings, rankings, trajectories


@pytest.fixture
def matrix() -> pd.DataFrame:
    """Two alignments, net of their controls; Religion's harms Age in ambiguous contexts."""
    rows = []
    for alignment, target in (("age", "Age"), ("religion", "Religion")):
        for attribute in ("Age", "Religion", "SES"):
            for context in ("ambig", "disambig"):
                harmed = (alignment, attribute, context) == ("religion", "Age", "ambig")
                targeted = attribute == target
                change = -0.25 if harmed else 0.125 if targeted else 0.01
                rows.append(
                    {
                        "alignment": alignment,
                        "minus": f"{alignment}-shuffled",
                        "target": target,
                        "attribute": attribute,
                        "context": context,
                        "targeted": targeted,
                        "n_templates": 16,
                        "delta_accuracy": change,
                        "delta_low": change - 0.05,
                        "delta_high": change + 0.05,
                        "cluster_p_adjusted": 0.004 if harmed else 1.0,
                        "delta_bias": 0.0,
                        "bias_p_adjusted": 1.0,
                        "verdict": "degraded" if harmed else "inconclusive",
                    }
                )
    return pd.DataFrame(rows)


def test_the_cell_that_holds_is_told_with_its_numbers(matrix):
    said = "\n".join(findings.matrix(matrix, 0.05))
    assert "2 alignments, each net of its control" in said
    assert "of 4 ambiguous cells off the diagonal 0 improved, 1 degraded" in said
    assert "of 4 disambiguated cells off the diagonal 0 improved, 0 degraded" in said
    assert "| religion | Age | ambiguous | -25.0 | -30.0 to -20.0 | 0.004 |" in said
    assert "Bias scores: no cell's change holds" in said
    assert "ambiguous +12.5 in the mean, from +12.5 to +12.5" in said


def test_nothing_is_said_to_hold_where_nothing_does(matrix):
    matrix["verdict"] = "inconclusive"
    said = "\n".join(findings.matrix(matrix, 0.05))
    assert "No single cell holds after correction." in said
    assert "| religion |" not in said


@pytest.fixture
def ranking() -> pd.DataFrame:
    row = {"model": "m", "worst_attribute": "SES", "gain_low": 0.2, "gain_high": 0.4}
    return pd.DataFrame(
        [
            row
            | {
                "arm": arm,
                "context": context,
                "worst": worst,
                "worst_low": worst - 0.02,
                "gain": gain,
                "on_front": arm == "spared",
                "verdict": verdict if context == "both" else told,
            }
            for context in ("ambig", "disambig", "both")
            for arm, worst, gain, verdict, told in (
                ("spared", -0.05, 0.3, "better", "not told apart"),
                ("plain", -0.3, 0.29, "reference", "reference"),
            )
        ]
    )


def test_the_answer_is_by_context_and_says_when_none_is_better(ranking):
    said = "\n".join(findings.ranking(ranking))
    assert "ambiguous: no arm is better than plain" in said
    assert "both contexts together: better than plain: spared" in said
    assert "| spared | SES | -5.0 | -7.0 | +30.0 (+20.0 to +40.0) | yes | better |" in said


def test_what_an_arm_costs_stands_beside_it(ranking):
    cost = {"ability": -0.012, "ability_low": -0.03, "ability_high": 0.006}
    said = "\n".join(findings.ranking(ranking.assign(**cost)))
    assert "| ability, points |" in said
    assert "| -1.2 (-3.0 to +0.6) |" in said
    assert "language" not in said


def test_a_figure_of_a_ranking_says_the_same(ranking):
    figure = rankings.ranking(ranking, "m", 0.05)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0] == "ambiguous\nno arm is better than plain"
    assert titles[2] == "both contexts\nbetter than plain: spared"
    # Filled: what differs from the reference.
    white = [
        tuple(marks.get_facecolor()[0][:3]) == (1, 1, 1) for marks in figure.axes[2].collections
    ]
    assert sorted(white) == [False, True]


@pytest.fixture
def trajectory() -> pd.DataFrame:
    """Two shares of a training; the control's untargeted attributes fall by a point."""
    rows = []
    for at, gain in ((0.5, 0.1), (1.0, 0.3)):
        for alignment, minus, values in (
            ("gender", "", {"targeted": gain, "untargeted": gain / 2, "SES": gain / 2}),
            ("shuffled", "", {"targeted": 0.0, "untargeted": -0.01, "SES": -0.01}),
            ("gender", "shuffled", {"targeted": gain, "untargeted": gain / 2 + 0.01}),
        ):
            for attribute, value in values.items():
                for context in ("ambig", "disambig"):
                    rows.append(
                        {
                            "model": "m",
                            "along": "training",
                            "of": "gender",
                            "at": at,
                            "alignment": alignment,
                            "minus": minus,
                            "attribute": attribute,
                            "context": context,
                            "targeted": attribute == "targeted",
                            "delta_accuracy": value,
                            "delta_low": value - 0.02,
                            "delta_high": value + 0.02,
                        }
                    )
    return pd.DataFrame(rows)


def test_a_series_is_told_net_of_its_control(trajectory):
    said = "\n".join(findings.series(trajectory, "training"))
    assert "net of the control" in said
    row = (
        "| 0.5 | +10.0 (+8.0 to +12.0; +10.0, control +0.0) | "
        "+6.0 (+4.0 to +8.0; +5.0, control -1.0) |"
    )
    assert row in said


def test_points_without_a_control_are_told_as_they_are(trajectory):
    more = trajectory[trajectory["minus"].eq("") & trajectory["alignment"].eq("gender")]
    table = pd.concat([trajectory, more[more["at"] == 1].assign(at=2.0)])
    said = "\n".join(findings.series(table, "training"))
    assert "as it is" in said
    assert said.count("| +30.0 (+28.0 to +32.0) |") == 4
    figure = trajectories.trajectory(table, "m", "training", "gender", 0.05)
    assert "control, untargeted" not in {line.get_label() for line in figure.axes[0].lines}
    alone = more.assign(delta_low=None, delta_high=None)
    assert "| 0.5 | +10.0 (no interval) |" in "\n".join(findings.series(alone, "training"))


def test_a_figure_along_training_begins_at_the_base_and_shows_the_control(trajectory):
    figure = trajectories.trajectory(trajectory, "m", "training", "gender", 0.05)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert lines["targeted"].get_xdata().tolist() == [0.0, 0.5, 1.0]
    assert lines["targeted"].get_ydata() == pytest.approx([0.0, 10.0, 30.0])
    assert lines["control, untargeted"].get_ydata() == pytest.approx([0.0, -1.0, -1.0])
    assert [text.get_text() for text in figure.axes[0].texts] == ["SES"]


ROOT = Path(__file__).parents[3]


@pytest.fixture
def written(tmp_path, monkeypatch):
    """docs/findings.md as the command writes it, in a folder of its own."""
    spec = importlib.util.spec_from_file_location("write_findings", ROOT / "docs/write_findings.py")
    command = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(command)
    monkeypatch.setattr(command, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "studies").symlink_to(ROOT / "studies")

    def write() -> str:
        command.main()
        return (tmp_path / "docs/findings.md").read_text()

    return write


def test_what_is_said_of_a_study_without_results_here_stays(written, trajectory, tmp_path):
    assert written().count("Not run yet: `make study STUDY=studies/") == 5
    results = tmp_path / "results/trajectory"
    (results / "figures").mkdir(parents=True)
    (results / "spillover.tsv").write_text("")
    (results / "figures/along_training.svg").write_text("<svg/>")
    trajectory = trajectory.assign(model="smollm2-135m")
    trajectory.to_csv(results / "trajectory.tsv", sep="\t", index=False)
    row = {"of": "gender", "context": "ambig", "target_change": 0.1, "verdict": "later"}
    missing = ("minus", "target_low", "target_high", "lead", "lead_low", "lead_high")
    missing += ("spillover_change", "spillover_low", "spillover_high")
    timing = pd.DataFrame([row | dict.fromkeys(missing)]).assign(model="smollm2-135m")
    timing.to_csv(results / "timing.tsv", sep="\t", index=False)
    said = written()
    assert "| 0.5 | +10.0 (+8.0 to +12.0; +10.0, control +0.0) |" in said
    assert "![along training](findings/trajectory_along_training.svg)" in said
    assert (tmp_path / "docs/findings/trajectory_along_training.svg").is_file()
    (tmp_path / "results").rename(tmp_path / "elsewhere")
    assert written() == said


def test_what_alignments_cost_is_told_by_what_holds():
    row = {"alignment": "gender", "minus": None, "set": "bold", "part": "all", "base": -1.25}
    row |= {"change_low": -0.2, "change_high": -0.1, "change": -0.15, "p": 0.001}
    table = pd.DataFrame(
        [
            row | {"measure": "logp_per_byte", "p_adjusted": 0.002},
            row | {"measure": "logp_per_token", "p_adjusted": 0.2},
            row | {"measure": "changed", "p": None, "p_adjusted": None},
        ]
    )
    said = "\n".join(findings.forgetting(table, 0.05))
    assert "Of 2 changes of companion sets 1 hold" in said
    line = (
        "| gender | the base | bold | logp_per_byte | nats | -1.25 | -0.15 | -0.2 to -0.1 | 0.002 |"
    )
    assert line in said
    told = findings.forgetting(table.iloc[1:], 0.05)
    assert len(told) == 1


def test_correlations_are_told_with_the_companion_studys_findings(ranking):
    row = {"x": "language", "y": "ability", "n_runs": 9, "n_trainings": 5, "n_seeds": 1}
    row |= {"correlation": 0.9, "low": 0.7, "high": 0.95, "p": 0.001}
    none = row | {"y": "fairness"} | dict.fromkeys(("correlation", "low", "high", "p"))
    said = "\n".join(findings.tradeoff(pd.DataFrame([row, none]), ranking))
    assert "| language and ability | 9 | 5 | 1 | 0.90 | 0.70 to 0.95 | 0.001 |" in said
    assert "| language and fairness | 9 | 5 | 1 | none |  |  |" in said
    assert "strongly correlated with overall forgetting*: holds" in said
    assert "more overall forgetting*: not measured" in said
    assert "loss of ability*: not measured" in said
