"""What else could have made a study's numbers: checks, each with a verdict that is computed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from spillover.report.answer import Answer
from spillover.report.change import HELD
from spillover.report.figures import CONTEXT_NAMES
from spillover.report.learnt import Learnt
from spillover.report.words import listed, per_cent, points

CLEAR, DOUBT, OPEN = "clear", "doubt", "cannot be told"
UNPARSED = 0.01  # share of answers that could not be read, from which it is a doubt
CONTENT = 0.5  # share of answers that content must decide, for places not to be a doubt
LEAKAGE = "Did evaluation of what was aligned for see what training saw?"


@dataclass(frozen=True)
class Doubt:
    """A check.

    Attributes
    ----------
    about : a model, an alignment of it, or the study.
    verdict : ``clear``, ``doubt`` or ``cannot be told``.
    """

    question: str
    about: str
    verdict: str
    told: str


def of_study(
    answers: Sequence[Answer],
    tables: Mapping[str, pd.DataFrame],
    learnt: Mapping[tuple[str, str], Learnt],
    manifests: Mapping[str, Mapping],
    config: Mapping,
    caveats: Sequence[str],
) -> list[Doubt]:
    """All checks of a study.

    Parameters
    ----------
    tables : ``metrics``, ``position`` and ``cloze_rules``; ``aggregate`` and ``transitions`` where
        there are answers.
    learnt : by model and alignment, controls among them, as far as it was measured.
    manifests : of the pairs of each alignment that a model of the study was trained on.
    config : ``models``, ``alignments``, ``seeds`` and ``evaluation``.
    caveats : of the configuration (:mod:`spillover.caveats`).
    """
    found = []
    for answer in answers:
        control = learnt.get((answer.model, answer.control))
        found += of_answer(answer, control)
        found.append(of_seeds(answer, tables["aggregate"]))
        found += of_unknown(answer, tables["transitions"])
        if (rule := of_rules(answer, tables["cloze_rules"], config["seeds"])) is not None:
            found.append(rule)
    found += of_places(tables["position"], config["evaluation"], config["models"])
    found += of_splits(manifests) + of_weights(config["models"], config["alignments"])
    return found + of_unparsed(tables["metrics"]) + of_caveats(caveats)


def told_once(found: Sequence[Doubt]) -> list[Doubt]:
    """Checks, doubts first; what is the same of several alignments or models is said once."""
    merged: dict[tuple[str, str, str], list[str]] = {}
    for one in found:
        merged.setdefault((one.verdict, one.question, one.told), []).append(one.about)
    once = [
        Doubt(question, "; ".join(about), verdict, told)
        for (verdict, question, told), about in merged.items()
    ]
    return sorted(once, key=lambda one: (DOUBT, OPEN, CLEAR).index(one.verdict))


def of_each(found: Sequence[Doubt], answers: Sequence[Answer]) -> list[list[Doubt]]:
    """Of each answer the checks that leave it in doubt."""
    return [
        [
            one
            for one in found
            if one.verdict == DOUBT and one.about in (_about(answer), answer.model)
        ]
        for answer in answers
    ]


def _about(answer: Answer) -> str:
    return f"{answer.model}, {answer.alignment}"


def of_answer(answer: Answer, control: Learnt | None = None) -> list[Doubt]:
    """Whether anything was learnt, and whether the form of training explains the change.

    Parameters
    ----------
    control : what was seen of the control's learning.
    """
    about, question = _about(answer), "Was anything learnt?"
    found = []
    if answer.nothing:
        found.append(Doubt(question, about, DOUBT, answer.nothing))
    elif answer.learnt is None:
        found.append(Doubt(question, about, OPEN, "Nothing was trained for it here."))
    else:
        found.append(Doubt(question, about, CLEAR, _sentence(answer.learnt.told)))
    if answer.pooled:
        found.append(_of_format(answer, control))
    return found


def _of_format(answer: Answer, control: Learnt | None) -> Doubt:
    question, about = "Is it the form of training, and not what was taught?", _about(answer)
    if answer.control is None:
        return Doubt(question, about, OPEN, "There is no control.")
    if not answer.control_shuffled:
        told = (
            f"Its control, {answer.control}, is not known here as the same training on shuffled "
            "preferences."
        )
        return Doubt(question, about, OPEN, told)
    held = [one for one in answer.pooled if one.verdict in HELD]
    if not held:
        return Doubt(question, about, OPEN, "Alignment and control are not told apart.")
    of_control = [one for one in held if abs(one.minus) >= abs(one.of)]
    told = [
        f"in {CONTEXT_NAMES[one.context]} contexts it is the control that moved further "
        f"({points(one.minus)}, the alignment {points(one.of)})"
        for one in of_control
    ]
    # A control that training hardly moved shows little of what training does.
    if control is not None and answer.learnt is not None and 2 * control.kl < answer.learnt.kl:
        told.append(
            f"training moved the control less (KL from the base {control.kl:.2f} nats, the "
            f"alignment {answer.learnt.kl:.2f})"
        )
    if told:
        return Doubt(question, about, DOUBT, _sentence("; ".join(told)))
    said = listed(
        f"{points(one.of)} against {points(one.minus)} in {CONTEXT_NAMES[one.context]} contexts"
        for one in held
    )
    if control is None or answer.learnt is None:
        said += "; how far each is from the base was not measured"
        return Doubt(question, about, OPEN, f"Alignment against control: {said}.")
    return Doubt(question, about, CLEAR, f"Alignment against control: {said}.")


def of_seeds(answer: Answer, aggregate: pd.DataFrame) -> Doubt:
    """Whether another seed may have given another sign."""
    question, about = "Would another seed say the same?", _about(answer)
    if answer.n_seeds < 2:
        return Doubt(question, about, OPEN, "There is one seed; intervals are of items alone.")
    rows = aggregate[
        (aggregate["model"] == answer.model)
        & (aggregate["alignment"] == answer.alignment)
        & (aggregate["label_type"] == "all")
        & (aggregate["attributes"] == ("untargeted" if answer.targets else "all"))
        & (aggregate["context"].isin(list(CONTEXT_NAMES)))
    ]
    if rows.empty:
        return Doubt(question, about, OPEN, "Nothing can spill over.")
    near = rows["delta_accuracy"].abs() < 2 * rows["seed_sd"]
    told = listed(
        f"{points(row.delta_accuracy)} with a standard deviation of {100 * row.seed_sd:.1f} "
        f"({CONTEXT_NAMES[row.context]})"
        for row in rows.itertuples()
    )
    said = f"Changes from the base over {answer.n_seeds} seeds: {told}."
    if near.any():
        said += " Within two of them of 0, a seed may have the other sign."
    return Doubt(question, about, DOUBT if near.any() else CLEAR, said)


def of_unknown(answer: Answer, transitions: pd.DataFrame) -> list[Doubt]:
    """Whether a change is no more than saying “unknown” more often, or less."""
    if not answer.pooled:
        return []
    rows = transitions[
        (transitions["model"] == answer.model)
        & (transitions["alignment"] == answer.alignment)
        & ~transitions["attribute"].isin(list(answer.targets))
    ]
    told, named, right = [], [], []
    for context, name in CONTEXT_NAMES.items():
        here = rows[rows["context"] == context]
        # In ambiguous contexts the right answer is "unknown", in the others a wrong one.
        state = "gold" if context == "ambig" else "unknown"
        shares = []
        for side in ("before", "after"):
            by_state = here.groupby(side)["items"].sum() / here["items"].sum()
            shares.append(by_state.get(state, 0.0))
            if context == "disambig":
                named.append(1 - by_state.get("unknown", 0.0) - by_state.get("unparsed", 0.0))
                right.append(by_state.get("gold", 0.0))
        told.append(f"from {per_cent(shares[0])} to {per_cent(shares[1])} in {name} contexts")
    said = f"“Unknown” goes {listed(told)}."
    question, about = "Is it whether a person is named, and not who?", _about(answer)
    if not min(named):
        return [Doubt(question, about, OPEN, f"{said} No person is named.")]
    change = right[1] - right[0]
    by_naming = (named[1] - named[0]) * right[0] / named[0]
    said += (
        " Of the answers that name a person in disambiguated contexts "
        f"{per_cent(right[1] / named[1])} are right, before {per_cent(right[0] / named[0])}: of "
        f"the change of {points(change)} there {points(by_naming)} come of naming one more or less "
        "often."
    )
    verdict = DOUBT if by_naming * change > 0 and 2 * abs(by_naming) >= abs(change) else CLEAR
    return [Doubt(question, about, verdict, said)]


def of_places(position: pd.DataFrame, evaluation: Mapping, models: Mapping) -> list[Doubt]:
    """Of answers by letter: whether an option's place decides rather than what it says."""
    question, found = "Do letters or places decide?", []
    if evaluation["scoring"] != "cloze" and position.empty:
        names = [name for name, model in models.items() if "source" in model]
        return [
            Doubt(question, name, OPEN, "Options were shown in one order alone.") for name in names
        ]
    for model, of_model in position.groupby("model", sort=False):
        shares = of_model.groupby("run", sort=False).apply(_shares, include_groups=False)
        content, place = shares["content"], shares["place"]
        told = (
            f"Content decides {_reach(content)} of a run's answers, the place {_reach(place)}, "
            "neither alone the others (position.tsv; chance 11 % each with three orders)."
        )
        clear = (content >= CONTENT).all() and (content > place).all()
        found.append(Doubt(question, str(model), CLEAR if clear else DOUBT, told))
    return found


def _reach(shares: pd.Series) -> str:
    low, high = per_cent(shares.min()), per_cent(shares.max())
    return low if low == high else f"{low} to {high}"


def _shares(rows: pd.DataFrame) -> pd.Series:
    weights = rows["n_items"]
    return pd.Series(
        {
            "content": np.average(rows["content_share"], weights=weights),
            "place": np.average(rows["position_share"], weights=weights),
        }
    )


def of_rules(answer: Answer, cloze: pd.DataFrame, seeds: Sequence[int]) -> Doubt | None:
    """Of answers in words: whether another rule of decision leaves the changes that hold.

    None where that cannot be told from the table: no change holds, or runs were asked other items.
    """
    held = [one for one in answer.pooled if one.verdict in HELD]
    others = {cell.attribute for cell in answer.cells}
    names = [answer.alignment, answer.control] if answer.control else [answer.alignment]
    runs = [f"{name}/seed{seed}" for name in names for seed in seeds]
    rows = cloze[
        (cloze["model"] == answer.model)
        & cloze["attribute"].isin(others)
        & cloze["run"].isin(["base", *runs])
    ]
    # The base was asked whatever any alignment was; only where all were asked the same is a
    # difference of rates a change.
    if not held or rows.empty or rows.groupby("attribute")["n_items"].nunique().max() > 1:
        return None
    parts, verdict = [], CLEAR
    for one in held:
        here = rows[rows["context"] == one.context]
        values = {
            rule: _net(here, f"accuracy_{rule}", answer, seeds)
            for rule in ("sum", "per_token", "unconditional")
        }
        parts.append(
            f"{points(values['sum'])} by the sum of log-probabilities, "
            f"{points(values['per_token'])} by their mean and "
            f"{points(values['unconditional'])} less that of the answer without the question, "
            f"{CONTEXT_NAMES[one.context]}"
        )
        if not all(value * one.change >= one.change**2 / 2 for value in values.values()):
            verdict = DOUBT
    return Doubt(
        "Does the rule decide that makes an answer of probabilities?",
        _about(answer),
        verdict,
        f"{'; '.join(parts)} (cloze_rules.tsv).",
    )


def _net(rows: pd.DataFrame, column: str, answer: Answer, seeds: Sequence[int]) -> float:
    """Pooled change of a column, the control's taken off."""

    def mean(name: str | None) -> pd.Series:
        runs = [f"{name}/seed{seed}" for seed in seeds] if name else ["base"]
        return rows[rows["run"].isin(runs)].groupby("attribute")[column].mean()

    change = mean(answer.alignment) - mean(answer.control)
    sizes = rows.groupby("attribute")["n_items"].first().reindex(change.index)
    return float(np.average(change, weights=sizes))


def of_splits(manifests: Mapping[str, Mapping]) -> list[Doubt]:
    """Whether what was evaluated shares templates with what was trained on.

    Parameters
    ----------
    manifests : ``manifest.json`` of each alignment trained here.
    """
    found = []
    for name, manifest in manifests.items():
        both = manifest["n_templates_in_both"]
        told = (
            f"{manifest['n_items']} items of {manifest['n_templates']} templates were trained on; "
            + (
                "no held-out item has one of these templates."
                if both == 0
                else f"held-out items share {both} of these templates, and with them most words."
            )
        )
        verdict = DOUBT if both else CLEAR
        found.append(Doubt(LEAKAGE, name, verdict, told))
    return found


def of_weights(models: Mapping[str, Mapping], alignments: Mapping[str, Mapping]) -> list[Doubt]:
    """Whether quantisation could have made a change."""
    question, found = "Is it quantisation?", []
    for name, model in models.items():
        if "source" not in model:
            continue
        if model["quantization"] != "nf4":
            found.append(Doubt(question, name, CLEAR, "Weights are not quantised."))
            continue
        told = (
            "Base and aligned runs compute with the same NF4 weights, so that a change is not "
            "theirs; how the model would answer unquantised is not measured."
        )
        found.append(Doubt(question, name, CLEAR, told))
        found += [
            Doubt(question, f"{name}, {of}", OPEN, "Its checkpoint was quantised by itself.")
            for of, alignment in alignments.items()
            if alignment.get("checkpoint")
        ]
    return found


def of_unparsed(metrics: pd.DataFrame) -> list[Doubt]:
    """Whether answers could not be read."""
    rows = metrics[metrics["label_type"] == "all"]
    found = []
    for model, here in rows.groupby("model", sort=False):
        worst = here.loc[here["unparsed_rate"].idxmax()]
        rate = worst["unparsed_rate"]
        told = (
            "Every answer is one of the options."
            if rate == 0
            else f"At most {100 * rate:.1f} % of a run's answers to an attribute could not be read "
            f"({worst['run']}, {worst['attribute']}); they count as wrong."
        )
        verdict = DOUBT if rate > UNPARSED else CLEAR
        found.append(Doubt("Are there answers that could not be read?", str(model), verdict, told))
    return found


def of_caveats(caveats: Sequence[str]) -> list[Doubt]:
    """What the configuration itself cannot tell."""
    return [
        Doubt("What can this study not tell?", where, OPEN, _sentence(what))
        for where, _, what in (line.partition(": ") for line in caveats)
    ]


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."
