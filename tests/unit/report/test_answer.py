"""The answer and its doubts follow from the tables by rule, in whichever study."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from spillover.report import doubts
from spillover.report.answer import answers, summary
from spillover.report.costs import costs
from spillover.report.flows import NAMES, flows
from spillover.report.learnt import Learnt, learnt
from spillover.report.page import QUESTION, title

SETTINGS = {"alpha": 0.05, "correction": "holm", "equivalence_margin": 0.02}
MINUS = "\N{MINUS SIGN}"
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
            "delta_bias": 0.1,
            "delta_bias_low": -0.1,
            "delta_bias_high": 0.3,
            "bias_p_adjusted": 0.4,
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
            "helped": 3,
            "harmed": 1,
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
            "bias_difference": 0.1,
            "bias_difference_low": -0.1,
            "bias_difference_high": 0.3,
            "bias_p_adjusted": 0.4,
            "cluster_p_adjusted": 0.02,
            "verdict": verdicts[context],
        }
        for attribute in (*TEMPLATES, "untargeted", "all")
        for context in ("ambig", "disambig")
    ]
    return pd.DataFrame(rows)


def shown(targets: list[str], control: str | None = None, shuffled: bool = False) -> dict:
    return {
        "target": targets,
        "control": control,
        "shuffled": shuffled,
        "control_shuffled": control == "shuffled",
        "trainings": "gender",
    }


def told(tables: dict, *of, seen=None, **also):
    seen = {("m", "gender"): seen} if seen else {}
    alignments = {"gender": shown(*of, **also)}
    (answer,) = answers(tables, alignments, seen, TEMPLATES, SETTINGS)
    return answer


def controlled(of: float, minus: float, ambig: str, disambig: str) -> dict:
    return {
        "spillover": spillover("gender", ["Gender_identity"]),
        "aggregate": aggregate("gender", ["all", "untargeted"]),
        "contrasts": contrasts({"ambig": ambig, "disambig": disambig}, of, minus),
    }


def alone(sets=("all", "untargeted"), targets=("Gender_identity",), **also) -> dict:
    return {
        "spillover": spillover("gender", list(targets)),
        "aggregate": aggregate("gender", list(sets), **also),
    }


def test_beyond_a_control_the_contrast_is_told_and_what_of_it_is_the_controls():
    answer = told(
        controlled(0.05, -0.02, "improved", "inconclusive"), ["Gender_identity"], "shuffled"
    )
    assert answer.headline == [
        "On the 2 attributes that it was not aligned for, accuracy is higher than its control's in "
        "ambiguous contexts (+7.0 points, +1.0 to +13.0; adjusted p = 0.02) and not shown to "
        "differ from its control's in disambiguated contexts (+7.0 points, +1.0 to +13.0; adjusted "
        "p = 0.02).",
        "From the base it changed by +5.0 (ambiguous) and +5.0 (disambiguated), its control, "
        f"shuffled, by {MINUS}2.0 and {MINUS}2.0.",
    ]
    assert {cell.attribute for cell in answer.cells} == {"Age", "Religion"}
    assert {cell.attribute for cell in answer.own} == {"Gender_identity"}
    assert [cell.attribute for cell in answer.held("improved")] == ["Age", "Religion"]
    assert answer.cells[0].parts == f"+5.0, control {MINUS}2.0"
    assert title([answer]) == (
        "Aligned for Gender identity: accuracy on other attributes rises in ambiguous contexts and "
        "is not shown to change in disambiguated contexts, beyond its control"
    )


def test_to_fall_less_than_the_control_is_not_to_rise():
    answer = told(controlled(-0.1, -0.2, "improved", "improved"), ["Gender_identity"], "shuffled")
    assert title([answer]) == (
        "Aligned for Gender identity: accuracy on other attributes falls less than its control's"
    )
    same = told(controlled(-0.2, -0.2, "equivalent", "equivalent"), ["Gender_identity"], "shuffled")
    assert "accuracy is equal to its control's in ambiguous contexts" in same.headline[0]
    assert f"From the base it changed by {MINUS}20.0" in same.headline[1]


def test_what_a_larger_study_could_tell_goes_by_the_contrasts_own_error():
    answer = told(
        controlled(0.05, -0.02, "inconclusive", "inconclusive"), ["Gender_identity"], "shuffled"
    )
    error = 0.06 / stats.t.ppf(0.975, 19)
    # Two untargeted attributes in a context: the strictest test is at 0.05 / 2.
    size = error * (stats.t.ppf(1 - 0.05 / 4, 19) + stats.t.ppf(0.8, 19))
    assert answer.detectable == pytest.approx([size] * 4)
    needed = int(np.ceil(20 * (size / 0.05) ** 2))
    assert f"from {100 * size:.0f} to {100 * size:.0f} points on" in answer.open
    assert f"about {needed} templates an attribute; here are 20, and the benchmark has 25" in (
        answer.open
    )


def test_where_there_is_a_matrix_its_family_decides():
    tables = controlled(0.05, -0.02, "improved", "improved")
    rows = tables["contrasts"].query("attribute in @TEMPLATES")
    tables["matrix"] = rows.assign(
        alignment="gender",
        targeted=rows["attribute"] == "Gender_identity",
        cluster_p_adjusted=0.7,
        verdict="inconclusive",
        bias_p_adjusted=0.01,
    )
    answer = told(tables, ["Gender_identity"], "shuffled")
    assert answer.held("improved") == []
    assert {cell.p for cell in answer.cells} == {0.7}
    assert "Age, ambiguous +0.10 (-0.10 to +0.30, p = 0.01)" in answer.bias
    assert answer.own[0].p == 0.02
    assert answer.family == 2
    assert "p corrected for 2 tests" in answer.open


def test_bias_scores_of_few_answers_are_counted_apart():
    tables = controlled(0.05, -0.02, "improved", "improved")
    few = tables["contrasts"]["attribute"].eq("Age")
    tables["contrasts"].loc[few, ["bias_difference_low", "bias_difference_high"]] = np.nan
    tables["contrasts"].loc[few, "bias_p_adjusted"] = 1.0
    answer = told(tables, ["Gender_identity"], "shuffled")
    assert answer.bias.endswith("In 2 too few templates name either person to tell.")


def test_without_a_control_that_is_said_and_pooled_changes_are_corrected():
    answer = told(alone(p=(0.02, 0.4, 0.6)), ["Gender_identity"])
    # Holm over three: 0.02 is 0.06
    assert [round(one.p, 9) for one in answer.pooled] == [0.06, 0.8]
    assert {one.verdict for one in answer.pooled} == {"inconclusive"}
    assert answer.headline[-1].startswith("Without a control it cannot be told")
    (check,) = [one for one in doubts.of_answer(answer) if "form of training" in one.question]
    assert (check.verdict, check.told) == (doubts.OPEN, "There is no control.")


def test_without_a_control_what_is_equal_can_be_told_too():
    tables = alone(p=(0.9, 0.9, 0.9))
    tables["aggregate"] = tables["aggregate"].assign(delta_accuracy=0.001, delta_se=0.002)
    answer = told(tables, ["Gender_identity"])
    assert {one.verdict for one in answer.pooled} == {"equivalent"}
    assert "accuracy is as before in ambiguous contexts" in answer.headline[0]


def test_a_study_that_learnt_nothing_says_so_first():
    answer = told(alone(), ["Gender_identity"], seen=Learnt(False, "chance"))
    assert answer.headline[0] == "Nothing was learnt that could be seen: chance."
    assert title([answer]) == "gender: nothing was learnt that could be seen"
    assert title([answer, answer]) == title([answer])
    other = replace(answer, trainings="other")
    assert summary([answer, other]) == "Of 2 alignments none learnt anything that could be seen."
    (check,) = [one for one in doubts.of_answer(answer) if "learnt" in one.question]
    assert check.verdict == doubts.DOUBT


def test_shuffled_preferences_alone_are_told_as_what_they_are():
    answer = told(alone(), ["Gender_identity"], shuffled=True, seen=Learnt(True, "by heart"))
    assert answer.headline[0].startswith("Its preferences were shuffled")
    assert not any("Without a control" in said for said in answer.headline)
    assert title([answer]) == "gender: nothing was learnt that could be seen"


def test_aligned_for_none_of_the_benchmark_all_attributes_are_told_of():
    answer = told(alone(["all"], []), [])
    assert answer.headline[0].startswith(
        "On the 3 attributes of the benchmark, accuracy is higher than before in ambiguous contexts"
    )
    assert answer.own == []


def test_where_all_was_aligned_for_nothing_is_said_of_spillover():
    targets = list(TEMPLATES)
    answer = told(alone(["all"], targets), targets)
    assert answer.pooled == answer.cells == []
    assert answer.headline == ["All that was evaluated was aligned for: nothing can spill over."]
    assert title([answer]) == QUESTION


def test_several_alignments_are_counted_those_that_learnt_nothing_apart():
    tables = {
        "spillover": pd.concat([spillover(name, ["Age"]) for name in "abc"]),
        "aggregate": pd.concat([aggregate(name, ["all", "untargeted"]) for name in "abc"]),
    }
    seen = {("m", "c"): Learnt(False, "chance")}
    alignments = {name: shown(["Age"]) | {"trainings": name} for name in "abc"}
    found = answers(tables, alignments, seen, TEMPLATES, SETTINGS)
    assert summary(found) == (
        "Of 3 alignments, 1 learnt nothing that could be seen. Under the other, accuracy on what "
        "was not aligned for, all attributes together, is in ambiguous contexts higher than before "
        "under 2; in disambiguated contexts not shown to change under 2 (each corrected by itself, "
        "not for their number)."
    )
    alignments |= {name: shown(["Age"]) | {"trainings": "a"} for name in "ab"}
    same = answers(tables, alignments, {}, TEMPLATES, SETTINGS)
    assert summary(same).startswith("Of 3 alignments, which rest on 2 trainings, accuracy on")


def test_a_study_without_alignments_has_no_answer():
    assert answers({}, {}, {}, {}, SETTINGS) == []
    assert title([]) == "How the models of this study answer"


def form_of(of: float, minus: float, kl: tuple = (0.5, 0.5), control: str = "shuffled"):
    answer = told(
        controlled(of, minus, "improved", "improved"),
        ["Gender_identity"],
        control,
        seen=Learnt(True, "much", kl[0]),
    )
    _, check = doubts.of_answer(answer, Learnt(False, "", kl[1]))
    return check


def test_a_control_that_moved_further_or_less_than_half_as_far_is_a_doubt():
    assert form_of(0.05, -0.02).verdict == doubts.CLEAR
    assert "it is the control that moved further" in form_of(-0.02, -0.09).told
    less = form_of(0.05, -0.02, kl=(0.97, 0.07))
    assert less.verdict == doubts.DOUBT
    assert "KL from the base 0.07 nats, the alignment 0.97" in less.told


def test_where_distances_were_not_measured_form_cannot_be_told():
    tables = controlled(0.05, -0.02, "improved", "improved")
    answer = told(tables, ["Gender_identity"], "shuffled")
    learning, form = doubts.of_answer(answer)
    assert learning.told == "Nothing was trained for it here."
    assert form.verdict == doubts.OPEN
    assert form.told.endswith("how far each is from the base was not measured.")


def test_few_held_out_templates_have_a_least_p():
    tables = alone()
    tables["spillover"] = tables["spillover"].assign(n_templates=5)
    answer = told(tables, ["Gender_identity"])
    assert answer.least_p == "With 5 templates no p can be below 0.062."
    assert told(alone(), ["Gender_identity"]).least_p == ""


def test_every_measure_that_is_tested_has_a_unit():
    from spillover.report.costs import UNITS
    from spillover.statistics.companions import MEASURES

    assert {name for of_kind in MEASURES.values() for name in of_kind} == set(UNITS)


def test_against_another_control_than_shuffled_preferences_form_cannot_be_told():
    tables = controlled(0.05, -0.02, "improved", "improved")
    tables["contrasts"] = tables["contrasts"].assign(minus="other")
    answer = told(tables, ["Gender_identity"], "other")
    assert [one.verdict for one in doubts.of_answer(answer)] == [doubts.OPEN, doubts.OPEN]


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
        {
            "run": ["base", "aligned"],
            "n_pairs": 100,
            "ranking_accuracy": [before, after],
            "kl_to_base": [0, 0.3],
        }
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


def test_seeds_that_see_the_same_pairs_do_not_make_them_more():
    one = learnt([diagnosis(0.61, 0.70)], [training(0.52)], 0.05)
    five = learnt([diagnosis(0.61, 0.70)] * 5, [training(0.52)] * 5, 0.05)
    assert not one.anything
    assert not five.anything
    assert "of 100 held-out pairs" in five.told
    assert five.told.endswith("in the mean of 5 seeds")


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
        f"bold: logp_per_byte {MINUS}0.2 nats ({MINUS}0.3 to {MINUS}0.1; adjusted p = 0.002).",
        f"boolq: accuracy +1 points ({MINUS}10 to +10; not shown to change, adjusted p = 0.5).",
    ]
    (base,) = costs(rows, "m", "gender", None, 0.05)
    assert base.startswith(f"bold: logp_per_byte {MINUS}0.1 nats")


def test_another_rule_that_takes_the_change_away_is_a_doubt():
    answer = told(alone(), ["Gender_identity"])
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
    # The base was asked more: its rates are of other items.
    cloze.loc[cloze["run"] == "base", "n_items"] = 28
    assert doubts.of_rules(answer, cloze, [0]) is None


def test_a_change_within_two_standard_deviations_of_its_seeds_is_a_doubt():
    tables = alone()
    tables["spillover"] = spillover("gender", ["Gender_identity"], seeds=5)
    answer = told(tables, ["Gender_identity"])
    wide = tables["aggregate"].assign(seed_sd=0.02)
    check = doubts.of_seeds(answer, wide)
    assert check.verdict == doubts.DOUBT
    assert "+3.0 with a standard deviation of 2.0 (ambiguous)" in check.told
    narrow = tables["aggregate"].assign(seed_sd=0.001)
    assert doubts.of_seeds(answer, narrow).verdict == doubts.CLEAR


@pytest.mark.parametrize(
    ("right", "wrong", "verdict", "by_naming"),
    # Of eight answers four named a person, two of them the right one; now six do.
    [(3, 3, doubts.DOUBT, "+12.5"), (5, 1, doubts.CLEAR, "+12.5")],
)
def test_to_name_somebody_more_often_is_not_to_know_whom(right, wrong, verdict, by_naming):
    answer = told(alone(), ["Gender_identity"])
    before = ["gold"] * 2 + ["target"] * 2 + ["unknown"] * 4
    after = ["gold"] * right + ["target"] * wrong + ["unknown"] * (8 - right - wrong)
    rows = [
        {"context": "disambig", "before": one, "after": other, "items": 1}
        for one, other in zip(before, after, strict=True)
    ]
    rows += [
        {"context": "ambig", "before": "gold", "after": "gold", "items": 6},
        {"context": "ambig", "before": "target", "after": "gold", "items": 2},
    ]
    table = pd.DataFrame(rows).assign(model="m", alignment="gender", attribute="Age")
    (check,) = doubts.of_unknown(answer, table)
    assert check.verdict == verdict
    assert "from 75 % to 100 % in ambiguous contexts and from 50 % to 25 %" in check.told
    assert f"{by_naming} come of naming one more or less often" in check.told


def places(content: float, place: float) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "model": "m",
            "run": ["base", "gender/seed0"],
            "attribute": "Age",
            "context": "ambig",
            "n_items": 20,
            "content_share": content,
            "position_share": place,
        }
    )


@pytest.mark.parametrize(
    ("content", "place", "verdict"),
    [(0.8, 0.1, doubts.CLEAR), (0.13, 0.1, doubts.DOUBT), (0.5, 0.5, doubts.DOUBT)],
)
def test_letters_are_clear_where_content_decides_most_answers(content, place, verdict):
    (check,) = doubts.of_places(places(content, place), {"scoring": "letter"}, {})
    assert check.verdict == verdict


def test_options_shown_in_one_order_cannot_tell_of_places():
    models = {"m": {"source": {}}, "given": {"predictions": {}}}
    (check,) = doubts.of_places(places(1, 0).iloc[:0], {"scoring": "letter"}, models)
    assert (check.about, check.verdict) == ("m", doubts.OPEN)
    assert doubts.of_places(places(1, 0).iloc[:0], {"scoring": "cloze"}, models) == []


def test_a_checkpoint_has_a_quantisation_of_its_own():
    models = {"m": {"source": {}, "quantization": "nf4"}}
    alignments = {"a": {"checkpoint": {"m": {}}}, "b": {}}
    found = {one.about: one.verdict for one in doubts.of_weights(models, alignments)}
    assert found == {"m": doubts.CLEAR, "m, a": doubts.OPEN}


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
