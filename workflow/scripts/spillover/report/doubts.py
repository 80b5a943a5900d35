"""What else could have made a study's numbers: checks, each with a verdict that is computed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from spillover.report.answer import Answer
from spillover.report.figures import CONTEXT_NAMES
from spillover.report.words import listed, per_cent, points

CLEAR, DOUBT, OPEN = "clear", "doubt", "cannot be told"
UNPARSED = 0.01  # share of answers that could not be read, from which it is a doubt


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
    manifests: Mapping[str, Mapping],
    models: Mapping[str, Mapping],
    caveats: Sequence[str],
    seeds: Sequence[int],
) -> list[Doubt]:
    """All checks of a study.

    Parameters
    ----------
    tables : ``metrics``, ``position`` and ``cloze_rules``; ``aggregate`` where there are answers.
    manifests : of the pairs of each alignment trained here.
    models, caveats, seeds : of the configuration (:mod:`spillover.caveats`).
    """
    found = []
    for answer in answers:
        found += of_answer(answer)
        found.append(of_seeds(answer, tables["aggregate"]))
        if (rule := of_rules(answer, tables["cloze_rules"], seeds)) is not None:
            found.append(rule)
    if len(tables["position"]):
        found += of_places(tables["position"])
    found += of_splits(manifests) + of_weights(models) + of_unparsed(tables["metrics"])
    return found + of_caveats(caveats)


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
            if one.verdict == DOUBT
            and one.about in (_about(answer), answer.model, answer.alignment)
        ]
        for answer in answers
    ]


def _about(answer: Answer) -> str:
    return f"{answer.model}, {answer.alignment}"


def of_answer(answer: Answer) -> list[Doubt]:
    """Whether anything was learnt, whether it is the form of training, whether seeds differ."""
    about = _about(answer)
    found = []
    question = "Was anything learnt?"
    if answer.learnt is None:
        found.append(Doubt(question, about, OPEN, "Training was not seen here."))
    else:
        verdict = CLEAR if answer.learnt.anything else DOUBT
        found.append(Doubt(question, about, verdict, _sentence(answer.learnt.told)))
    if answer.pooled:
        found.append(_of_format(answer, about))
    return found


def _of_format(answer: Answer, about: str) -> Doubt:
    question = "Is it the form of training, and not what was taught?"
    if answer.control is None:
        return Doubt(question, about, OPEN, "There is no control.")
    told = listed(
        f"{points(one.of)} in {CONTEXT_NAMES[one.context]} contexts, its control's "
        f"{points(one.minus)}"
        for one in answer.pooled
    )
    held = [one for one in answer.pooled if one.verdict in ("improved", "degraded")]
    own = [one for one in held if abs(one.of) > abs(one.minus)]
    verdict = CLEAR if held and len(own) == len(held) else DOUBT if held else OPEN
    ending = {
        CLEAR: "",
        DOUBT: " Where they differ, it is the control that moved further.",
        OPEN: " The two are not told apart.",
    }[verdict]
    return Doubt(question, about, verdict, f"The alignment's change is {told}.{ending}")


def of_seeds(answer: Answer, aggregate: pd.DataFrame) -> Doubt:
    """Whether another seed may have given another answer."""
    question, about = "Would another seed say the same?", _about(answer)
    if answer.n_seeds < 2:
        return Doubt(question, about, OPEN, "There is one seed; intervals are of items alone.")
    rows = aggregate[
        (aggregate["model"] == answer.model)
        & (aggregate["alignment"] == answer.alignment)
        & (aggregate["label_type"] == "all")
        & (aggregate["context"].isin(list(CONTEXT_NAMES)))
    ]
    sets = "untargeted" if (rows["attributes"] == "untargeted").any() else "all"
    rows = rows[rows["attributes"] == sets]
    further = rows["seed_sd"] > rows["delta_se"]
    told = listed(
        f"{100 * row.seed_sd:.1f} ({CONTEXT_NAMES[row.context]}; error by template "
        f"{100 * row.delta_se:.1f})"
        for row in rows.itertuples()
    )
    verdict = DOUBT if further.any() else CLEAR
    said = f"The changes of {answer.n_seeds} seeds have a standard deviation of {told} points."
    return Doubt(question, about, verdict, said)


def of_places(position: pd.DataFrame) -> list[Doubt]:
    """Of answers by letter: whether an option's place decides rather than what it says."""
    found = []
    for model, of_model in position.groupby("model", sort=False):
        shares = of_model.groupby("run", sort=False).apply(_shares, include_groups=False)
        least = shares["content"].min()
        told = (
            f"Content decides {per_cent(shares['content'].iloc[0])} of the base's answers and at "
            f"least {per_cent(least)} of each run's, the place {per_cent(shares['place'].min())} "
            f"to {per_cent(shares['place'].max())} (position.tsv)."
        )
        verdict = CLEAR if (shares["content"] > shares["place"]).all() else DOUBT
        found.append(Doubt("Do letters or places decide?", str(model), verdict, told))
    return found


def _shares(rows: pd.DataFrame) -> pd.Series:
    weights = rows["n_items"]
    return pd.Series(
        {
            "content": np.average(rows["content_share"], weights=weights),
            "place": np.average(rows["position_share"], weights=weights),
        }
    )


def of_rules(answer: Answer, cloze: pd.DataFrame, seeds: Sequence[int]) -> Doubt | None:
    """Of answers in words: whether another rule of decision leaves the changes that hold."""
    held = [one for one in answer.pooled if one.verdict in ("improved", "degraded")]
    others = {cell.attribute for cell in answer.cells}
    rows = cloze[(cloze["model"] == answer.model) & cloze["attribute"].isin(others)]
    if not held or rows.empty:
        return None
    parts, verdict = [], CLEAR
    for one in held:
        here = rows[rows["context"] == one.context]
        values = {}
        for rule in ("sum", "per_token", "unconditional"):
            values[rule] = _net(here, f"accuracy_{rule}", answer, seeds)
        parts.append(
            f"{points(values['sum'])} by the sum of log-probabilities, "
            f"{points(values['per_token'])} by their mean and "
            f"{points(values['unconditional'])} less that of the answer without the question, "
            f"{CONTEXT_NAMES[one.context]}"
        )
        if any(value * one.change < one.change**2 / 2 for value in values.values()):
            verdict = DOUBT
    return Doubt(
        "Does the rule decide that makes an answer of probabilities?",
        _about(answer),
        verdict,
        f"{'; '.join(parts)} (cloze_rules.tsv).",
    )


def _net(rows: pd.DataFrame, column: str, answer: Answer, seeds: Sequence[int]) -> float:
    """Pooled change of a column, the control's taken off, over what all runs were asked."""

    def mean(name: str | None) -> pd.Series:
        runs = [f"{name}/seed{seed}" for seed in seeds] if name else ["base"]
        return rows[rows["run"].isin(runs)].groupby("attribute")[column].mean()

    before = mean(answer.control) if answer.control else mean(None)
    change = (mean(answer.alignment) - before).dropna()
    sizes = rows.groupby("attribute")["n_items"].min().reindex(change.index)
    return float(np.average(change, weights=sizes)) if len(change) else np.nan


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
        found.append(Doubt("Did evaluation see what training saw?", name, verdict, told))
    return found


def of_weights(models: Mapping[str, Mapping]) -> list[Doubt]:
    """Whether quantisation could have made a change."""
    return [
        Doubt(
            "Is it quantisation?",
            name,
            CLEAR,
            "Base and aligned runs compute with the same NF4 weights, so that a change is not "
            "theirs; how the model would answer unquantised is not measured."
            if model["quantization"] == "nf4"
            else "Weights are not quantised.",
        )
        for name, model in models.items()
        if "source" in model
    ]


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
