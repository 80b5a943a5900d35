"""The answer and its doubts follow from the tables by rule, in whichever study."""

import numpy as np
import pandas as pd
import pytest
from spillover.report import doubts
from spillover.report.answer import answers, costs, summary
from spillover.report.flows import NAMES, flows
from spillover.report.learnt import Learnt, learnt
from spillover.report.page import QUESTION, title

SETTINGS = {"alpha": 0.05, "correction": "holm"}
TEMPLATES = {"Age": 25, "Gender_identity": 50, "Religion": 25}


def spillover(alignment: str, targets: list[str], **also) -> pd.DataFrame:
    """Each attribute 3 points up in ambiguous contexts and 1 down in the others."""
    rows = [
        {
            "model": "m",
            "alignment": alignment,
            "seeds": 1,
            "targeted": attribute in targets,
            "attribute": attribute,
            "context": context,
            "n_items": 40,
            "n_templates": 20,
            "delta_accuracy": change,
            "delta_low": change - 0.1,
            "delta_high": change + 0.1,
            "cluster_p_adjusted": 0.5,
            "verdict": "inconclusive",
            "minimum_detectable_change": 0.1,
        }
        | also
        for attribute in TEMPLATES
        for context, change in (("ambig", 0.03), ("disambig", -0.01))
    ]
    return pd.DataFrame(rows)


def aggregate(alignment: str, sets: list[str], p: tuple = (0.001, 0.4, 0.6)) -> pd.DataFrame:
    rows = [
        {
            "model": "m",
            "alignment": alignment,
            "attributes": name,
            "context": context,
            "label_type": "all",
            "n_items": 80,
            "n_templates": 40,
            "delta_accuracy": change,
            "delta_low": change - 0.02,
            "delta_high": change + 0.02,
            "cluster_p": p_value,
            "delta_se": 0.01,
            "seed_sd": 0.02,
        }
        for name in sets
        for (context, change), p_value in zip(
            (("ambig", 0.03), ("disambig", -0.01), ("both", 0.01)), p, strict=True
        )
    ]
    return pd.DataFrame(rows)


def contrasts(verdicts: dict[str, str], of: float = 0.05, minus: float = -0.02) -> pd.DataFrame:
    rows = [
        {
            "contrast": "gender",
            "model": "m",
            "of": "gender",
            "minus": "shuffled",
            "attribute": attribute,
            "context": context,
            "n_items": 40,
            "n_templates": 20,
            "change_of": of,
            "change_minus": minus,
            "difference": of - minus,
            "difference_low": 0.01,
            "difference_high": 0.13,
            "cluster_p_adjusted": 0.02,
            "verdict": verdicts[context],
        }
        for attribute in (*TEMPLATES, "untargeted", "all")
        for context in ("ambig", "disambig")
    ]
    return pd.DataFrame(rows)


def told(tables: dict, targets: list[str], control: str | None = None, seen=None):
    shown = {"gender": {"target": targets, "control": control}}
    seen = {("m", "gender"): seen} if seen else {}
    (answer,) = answers(tables, shown, seen, TEMPLATES, SETTINGS)
    return answer


def test_beyond_a_control_the_contrast_is_told_and_what_of_it_is_the_controls():
    tables = {
        "spillover": spillover("gender", ["Gender_identity"]),
        "aggregate": aggregate("gender", ["all", "untargeted"]),
        "contrasts": contrasts({"ambig": "improved", "disambig": "inconclusive"}),
    }
    answer = told(tables, ["Gender_identity"], "shuffled")
    assert answer.headline == [
        "On the 2 attributes that it was not aligned for, answers are more accurate in ambiguous "
        "contexts (+7.0 points, +1.0 to +13.0; adjusted p = 0.02) and not shown to change in "
        "disambiguated contexts (+7.0 points, +1.0 to +13.0; adjusted p = 0.02) beyond its "
        "control, shuffled.",
        "The alignment itself changed accuracy by +5.0 (ambiguous) and +5.0 (disambiguated), its "
        "control by \N{MINUS SIGN}2.0 and \N{MINUS SIGN}2.0.",
    ]
    assert {cell.attribute for cell in answer.cells} == {"Age", "Religion"}
    assert {cell.attribute for cell in answer.own} == {"Gender_identity"}
    assert [cell.attribute for cell in answer.held("improved")] == ["Age", "Religion"]
    # (0.1 / 0.05)^2 of 20 templates
    assert answer.needed == 80
    assert "here are 20, and the benchmark has 25" in answer.open
    assert title([answer]) == (
        "Aligned for Gender identity: other attributes get better, beyond its control"
    )


def test_without_a_control_that_is_said_and_pooled_changes_are_corrected():
    tables = {
        "spillover": spillover("gender", ["Gender_identity"]),
        "aggregate": aggregate("gender", ["all", "untargeted"], p=(0.02, 0.4, 0.6)),
    }
    answer = told(tables, ["Gender_identity"])
    # Holm over three: 0.02 is 0.06
    assert [round(one.p, 9) for one in answer.pooled] == [0.06, 0.8]
    assert {one.verdict for one in answer.pooled} == {"inconclusive"}
    assert answer.headline[-1].startswith("Without a control it cannot be told")
    (check,) = [one for one in doubts.of_answer(answer) if "form of training" in one.question]
    assert (check.verdict, check.told) == (doubts.OPEN, "There is no control.")


def test_a_study_that_learnt_nothing_says_so_first():
    tables = {
        "spillover": spillover("gender", ["Gender_identity"]),
        "aggregate": aggregate("gender", ["all", "untargeted"]),
    }
    answer = told(tables, ["Gender_identity"], seen=Learnt(False, "chance"))
    assert answer.headline[0] == "Nothing was learnt that could be seen: chance."
    assert title([answer]) == "gender: nothing was learnt that could be seen"
    (check,) = [one for one in doubts.of_answer(answer) if "learnt" in one.question]
    assert check.verdict == doubts.DOUBT


def test_aligned_for_none_of_the_benchmark_all_attributes_are_told_of():
    tables = {"spillover": spillover("gender", []), "aggregate": aggregate("gender", ["all"])}
    answer = told(tables, [])
    assert answer.headline[0].startswith(
        "On the 3 attributes of the benchmark, answers are more accurate in ambiguous contexts"
    )
    assert answer.own == []


def test_where_all_was_aligned_for_nothing_is_said_of_spillover():
    targets = list(TEMPLATES)
    tables = {"spillover": spillover("gender", targets), "aggregate": aggregate("gender", ["all"])}
    answer = told(tables, targets)
    assert answer.pooled == []
    assert answer.headline == [
        "Every attribute that was evaluated was aligned for: none can spill over."
    ]
    assert title([answer]) == QUESTION


def test_several_alignments_are_counted():
    tables = {
        "spillover": pd.concat([spillover(name, ["Age"]) for name in ("a", "b")]),
        "aggregate": pd.concat([aggregate(name, ["all", "untargeted"]) for name in ("a", "b")]),
    }
    shown = {name: {"target": ["Age"], "control": None} for name in ("a", "b")}
    found = answers(tables, shown, {}, TEMPLATES, SETTINGS)
    assert summary(found) == (
        "Of 2 alignments, what they were not aligned for is, all attributes together: in ambiguous "
        "contexts more accurate under 2; in disambiguated contexts not shown to change under 2."
    )


def test_a_study_without_alignments_has_no_answer():
    assert answers({}, {}, {}, {}, SETTINGS) == []
    assert title([]) == QUESTION


def training(accuracy: float, n: int = 40) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "epoch": np.linspace(0, 1, n),
            "pairs": 8,
            "reward_accuracy": [0.0] + [accuracy] * (n - 1),
            "loss": 0.6,
        }
    )


def diagnosis(before: float, after: float) -> pd.DataFrame:
    return pd.DataFrame(
        {"run": ["base", "aligned"], "n_pairs": 100, "ranking_accuracy": [before, after]}
    )


@pytest.mark.parametrize(
    ("tables", "anything"),
    [
        (([diagnosis(0.6, 0.62)], [training(0.5)]), False),
        (([diagnosis(0.6, 0.9)], [training(0.5)]), True),
        (([diagnosis(0.6, 0.6)], [training(0.7)]), True),
        (([diagnosis(0.9, 0.6)], []), False),
    ],
)
def test_learning_is_told_from_chance(tables, anything):
    assert learnt(*tables, 0.05).anything is anything


def test_what_was_not_measured_is_not_told():
    assert learnt([], [], 0.05) is None


def test_a_second_pass_over_the_pairs_does_not_count_as_learning():
    twice = training(0.5)
    again = training(1.0).assign(epoch=np.linspace(1.1, 2, 40))
    assert not learnt([], [pd.concat([twice, again])], 0.05).anything


def test_costs_are_those_beyond_the_control_where_there_is_one():
    rows = pd.DataFrame(
        {
            "model": "m",
            "alignment": "gender",
            "minus": [np.nan, "shuffled", "shuffled"],
            "set": ["bold", "bold", "boolq"],
            "part": "all",
            "measure": ["logp_per_byte", "logp_per_byte", "accuracy"],
            "change": [-0.1, -0.2, 0.01],
            "change_low": [-0.2, -0.3, -0.1],
            "change_high": [-0.05, -0.1, 0.1],
            "p": [0.001, 0.002, 0.5],
            "p_adjusted": [0.001, 0.002, 0.5],
        }
    )
    assert costs(rows, "m", "gender", "shuffled", 0.05) == [
        "bold: logp_per_byte falls by 0.2 (-0.3 to -0.1, adjusted p = 0.002).",
        "boolq: no change is shown (accuracy; smallest adjusted p = 0.5).",
    ]
    (alone,) = costs(rows, "m", "gender", None, 0.05)
    assert alone.startswith("bold: logp_per_byte falls by 0.1 ")


def test_another_rule_that_takes_the_change_away_is_a_doubt():
    tables = {
        "spillover": spillover("gender", ["Gender_identity"]),
        "aggregate": aggregate("gender", ["all", "untargeted"]),
    }
    answer = told(tables, ["Gender_identity"])
    rows = [
        {
            "model": "m",
            "run": run,
            "attribute": attribute,
            "context": "ambig",
            "n_items": 20,
            "accuracy_sum": 0.5 + 0.03 * (run != "base"),
            "accuracy_per_token": 0.5 + 0.02 * (run != "base"),
            "accuracy_unconditional": 0.5 + left * (run != "base"),
        }
        for attribute in ("Age", "Religion")
        for run in ("base", "gender/seed0")
        for left in [0.0]
    ]
    cloze = pd.DataFrame(rows)
    check = doubts.of_rules(answer, cloze, [0])
    assert check.verdict == doubts.DOUBT
    assert "+3.0 by the sum" in check.told
    cloze["accuracy_unconditional"] = cloze["accuracy_sum"]
    assert doubts.of_rules(answer, cloze, [0]).verdict == doubts.CLEAR


def test_seeds_that_are_further_apart_than_templates_are_a_doubt():
    tables = {
        "spillover": spillover("gender", ["Gender_identity"], seeds=5),
        "aggregate": aggregate("gender", ["all", "untargeted"]),
    }
    answer = told(tables, ["Gender_identity"])
    check = doubts.of_seeds(answer, tables["aggregate"])
    assert check.verdict == doubts.DOUBT
    assert "2.0 (ambiguous; error by template 1.0)" in check.told
    narrow = tables["aggregate"].assign(seed_sd=0.001)
    assert doubts.of_seeds(answer, narrow).verdict == doubts.CLEAR


def test_what_is_the_same_of_several_is_said_once_doubts_first():
    found = [
        doubts.Doubt("Seeds?", "a", doubts.OPEN, "One."),
        doubts.Doubt("Seeds?", "b", doubts.OPEN, "One."),
        doubts.Doubt("Leak?", "a", doubts.CLEAR, "None."),
        doubts.Doubt("Rule?", "a", doubts.DOUBT, "Gone."),
    ]
    once = doubts.told_once(found)
    assert [(one.about, one.verdict) for one in once] == [
        ("a", doubts.DOUBT),
        ("a; b", doubts.OPEN),
        ("a", doubts.CLEAR),
    ]


def test_flows_have_the_shares_of_the_table():
    rows = [("gold", "gold", 6), ("gold", "target", 1), ("target", "gold", 3)]
    table = pd.DataFrame(rows, columns=["before", "after", "items"]).assign(
        model="m", alignment="gender", attribute="Age", context="ambig"
    )
    found = flows(table, "m", "gender", "ambig", ["Religion"])
    assert sum(band.share for band in found.bands) == pytest.approx(1)
    shares = {(bar.outcome, bar.x > 0): round(bar.share, 9) for bar in found.bars}
    assert shares == {
        ("gold", False): 0.7,
        ("target", False): 0.3,
        ("gold", True): 0.9,
        ("target", True): 0.1,
    }
    assert "40 % of answers have another outcome than before; 30 % went from along" in found.told
    assert flows(table, "m", "gender", "ambig", ["Age"]) is None


def test_every_state_of_an_answer_has_a_name():
    from spillover.statistics.transitions import STATES

    assert set(NAMES) == set(STATES)
