"""The answer of a study, from its tables by rule: what spilled over, what it cost, what is open.

Changes are differences of accuracy; texts give them in points, times 100. With a control they are
what an alignment changed beyond it, and are told as that: not as a rise or a fall.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from spillover.report.change import Change, of_contrast, of_row, rows_of, where
from spillover.report.costs import costs
from spillover.report.figures import CONTEXT_NAMES
from spillover.report.learnt import Learnt
from spillover.report.words import listed, p_value, points, span
from spillover.statistics.clustered import ClusteredMean, equivalence_p
from spillover.statistics.corrections import adjust, verdicts

# A change of this size is what the page says a larger study is needed for.
SMALL = 0.05
# What is said of accuracy, from the base and against a control.
FROM_BASE = {
    "improved": "higher than before",
    "degraded": "lower than before",
    "equivalent": "as before",
    "inconclusive": "not shown to change",
}
AGAINST_CONTROL = {
    "improved": "higher than its control's",
    "degraded": "lower than its control's",
    "equivalent": "equal to its control's",
    "inconclusive": "not shown to differ from its control's",
}


@dataclass(frozen=True)
class Answer:
    """What a study says of an alignment of a model.

    Attributes
    ----------
    targets : attributes that were aligned for; there may be none.
    control : the alignment that is taken off, if there is one.
    shuffled, control_shuffled : whether its own preferences, and those of its control, were
        shuffled, so that they taught nothing.
    n_seeds : that changes are means of.
    learnt : whether it learnt anything; None where that was not measured.
    corrected : whether p-values are corrected for several tests.
    pooled : over the attributes that were not aligned for, a context each.
    cells, own : of each attribute that was not, and that was aligned for.
    detectable : changes that single attributes' tests find with 80 % power, in their order.
    family : number of tests that single attributes' p-values are corrected for.
    available : templates that the benchmark has of each attribute.
    trainings : what the alignment rests on.
    costs : changes on companion sets, as sentences.
    alpha : level of the tests.
    """

    model: str
    alignment: str
    targets: Sequence[str]
    control: str | None
    shuffled: bool
    control_shuffled: bool
    n_seeds: int
    learnt: Learnt | None
    corrected: bool
    pooled: Sequence[Change]
    cells: Sequence[Change]
    own: Sequence[Change]
    detectable: Sequence[float]
    family: int
    available: Sequence[int]
    trainings: str
    costs: Sequence[str]
    alpha: float

    @property
    def nothing(self) -> str:
        """Why no change can be of a learnt preference; empty if one can."""
        if self.shuffled:
            return "Its preferences were shuffled: there was nothing to learn, it is a control."
        if self.learnt is not None and not self.learnt.anything:
            return f"Nothing was learnt that could be seen: {self.learnt.told}."
        return ""

    @property
    def headline(self) -> list[str]:
        """The answer in a few sentences."""
        said = [self.nothing] if self.nothing else []
        if not self.pooled:
            return [*said, "All that was evaluated was aligned for: nothing can spill over."]
        n = len({cell.attribute for cell in self.cells})
        others = " that it was not aligned for" if self.targets else " of the benchmark"
        words = AGAINST_CONTROL if self.control else FROM_BASE
        p = "adjusted p" if self.corrected else "p"
        said.append(
            f"On the {n} attribute{'s' * (n != 1)}{others}, accuracy is "
            + listed(
                f"{words[one.verdict]} in {CONTEXT_NAMES[one.context]} contexts "
                f"({points(one.change)} points, {span(one.low, one.high)}; {p} {p_value(one.p)})"
                for one in self.pooled
            )
            + "."
        )
        if self.control is None:
            if not self.shuffled:
                said.append(
                    "Without a control it cannot be told what of this comes from what was taught, "
                    "and what from training at all."
                )
            return said
        said.append(
            "From the base it changed by "
            + listed(f"{points(one.of)} ({CONTEXT_NAMES[one.context]})" for one in self.pooled)
            + f", its control, {self.control}, by "
            + listed(points(one.minus) for one in self.pooled)
            + "."
        )
        return said

    @property
    def reach(self) -> float:
        """The largest number that an interval of a pooled change goes to, for drawing them."""
        ends = [abs(end) for one in self.pooled for end in (one.low, one.high, one.change)]
        return float(np.nanmax([*ends, SMALL]))

    @property
    def least_p(self) -> str:
        """Of what was aligned for: the least p that so few held-out templates can have."""
        fewest = min((cell.n_templates for cell in self.own), default=99)
        least = 2.0 ** (1 - fewest)
        if least < self.alpha:
            return ""
        return f"With {fewest} templates no p can be below {least:.2g}."

    def held(self, verdict: str) -> list[Change]:
        """Single attributes that were not aligned for, with a verdict; the largest change first."""
        cells = [cell for cell in self.cells if cell.verdict == verdict]
        return sorted(cells, key=lambda cell: -abs(cell.change))

    @property
    def bias(self) -> str:
        """Whether bias scores of single attributes that were not aligned for changed."""
        known = [cell for cell in self.cells if not pd.isna(cell.bias_p)]
        undefined = len(self.cells) - len(known)
        none = f" {undefined} are undefined: no answer names anybody." if undefined else ""
        few = sum(pd.isna(cell.bias_low) for cell in known)
        none += f" In {few} too few templates name either person to tell." if few else ""
        if not known:
            return "No change of a bias score is defined."
        held = [cell for cell in known if cell.bias_p < self.alpha]
        if not held:
            least = min(cell.bias_p for cell in known)
            return (
                f"Of {len(known)} bias scores none is shown to "
                f"{'differ from the control' if self.control else 'change'}"
                f" (smallest p {p_value(least)}).{none}"
            )
        return (
            "; ".join(
                f"{cell.where} {cell.bias:+.2f} ({cell.bias_low:+.2f} to {cell.bias_high:+.2f}, "
                f"p {p_value(cell.bias_p)})"
                for cell in held
            )
            + f"; the other {len(known) - len(held)} are not shown to. Above 0 is more along the "
            f"stereotype.{none}"
        )

    @property
    def open(self) -> str:
        """What cannot be told of single attributes, and how large a study could tell."""
        n = len(self.held("inconclusive"))
        if not n:
            return "Nothing of single attributes and contexts."
        said = f"{n} of {len(self.cells)} single attributes and contexts."
        known = [
            (size, cell)
            for size, cell in zip(self.detectable, self.cells, strict=True)
            if np.isfinite(size)
        ]
        if not known:
            return said
        corrected = f"; p corrected for {self.family} tests" * (self.family > 1)
        low, middle, high = np.quantile([min(size, 1) for size, _ in known], [0, 0.5, 1])
        needed = np.median([cell.n_templates * (size / SMALL) ** 2 for size, cell in known])
        n_templates = [cell.n_templates for cell in self.cells]
        return said + (
            f" A {'difference from the control' if self.control else 'change'} is found with 80 % "
            f"power from {100 * low:.0f} to {100 * high:.0f} points on, by attribute (median "
            f"{100 * middle:.0f}{corrected}). For one of "
            f"{100 * SMALL:.0f} points it would take about "
            f"{np.ceil(needed):.0f} templates an attribute; here are {_range(n_templates)}, and "
            f"the benchmark has {_range(self.available)}."
        )


def answers(
    tables: Mapping[str, pd.DataFrame],
    alignments: Mapping[str, Mapping],
    learnt: Mapping[tuple[str, str], Learnt],
    n_templates: Mapping[str, int],
    settings: Mapping,
) -> list[Answer]:
    """What a study says, model by model and alignment by alignment.

    Parameters
    ----------
    tables : ``spillover`` and ``aggregate``; ``contrasts``, ``matrix`` and ``forgetting`` if there
        are any.
    alignments : those to tell of, each with its ``target`` and ``control``, and whether preferences
        of the two are shuffled: ``shuffled``, ``control_shuffled``.
    learnt : by model and alignment, as far as it was measured.
    n_templates : that the benchmark has of each attribute.
    settings : ``alpha``, ``correction``, ``equivalence_margin``.
    """
    if "spillover" not in tables:
        return []
    spillover = tables["spillover"]
    return [
        _answer(tables, model, name, alignment, learnt.get((model, name)), n_templates, settings)
        for model in spillover["model"].unique()
        for name, alignment in alignments.items()
        if ((spillover["model"] == model) & (spillover["alignment"] == name)).any()
    ]


def _answer(tables, model, name, alignment, learnt, n_templates, settings) -> Answer:
    targets, control, alpha = alignment["target"], alignment["control"], settings["alpha"]
    raw = where(tables["spillover"], model=model, alignment=name)
    if control is None:
        cells = [of_row(row, "delta_accuracy", "delta", "delta_bias") for row in rows_of(raw)]
        pooled = _pooled(where(tables["aggregate"], model=model, alignment=name), targets, settings)
    else:
        found = where(tables["contrasts"], model=model, of=name, minus=control)
        cells = [of_contrast(row) for row in rows_of(found)]
        # Where nothing was aligned for, all attributes are untargeted.
        wanted = "untargeted" if targets else "all"
        pooled = [one for one in cells if one.attribute == wanted]
        cells = [cell for cell in cells if cell.attribute not in ("untargeted", "all")]
    others = [cell for cell in cells if cell.attribute not in targets]
    family = len({cell.attribute for cell in others})
    if "matrix" in tables:
        others, family = _of_matrix(others, tables["matrix"], model, name, control)
    family = family if settings["correction"] != "none" else 1
    return Answer(
        model,
        name,
        targets,
        control,
        alignment["shuffled"],
        alignment["control_shuffled"],
        int(raw["seeds"].max()),
        learnt,
        settings["correction"] != "none",
        [one for one in pooled if one.context in CONTEXT_NAMES],
        others,
        [cell for cell in cells if cell.attribute in targets],
        [cell.detectable(alpha, family) for cell in others],
        family,
        [n_templates[name] for name in {cell.attribute for cell in others}],
        alignment["trainings"],
        costs(tables.get("forgetting"), model, name, control, alpha),
        alpha,
    )


def _of_matrix(
    cells: Sequence[Change], matrix: pd.DataFrame, model: str, name: str, control: str | None
) -> tuple[list[Change], int]:
    """Cells with the p-values and verdicts of the matrix, whose family is all of its cells.

    Who looks at several alignments looks for a cell among all of them.
    """
    rows = where(matrix, model=model)
    minus = rows["minus"].fillna("")
    own = rows[(rows["alignment"] == name) & (minus == (control or ""))]
    own = own.set_index(["attribute", "context"])
    alike = rows[(minus != "") == (control is not None)]
    off = alike[~alike["targeted"].astype(bool)]
    found = [
        replace(
            cell,
            p=row["cluster_p_adjusted"],
            verdict=row["verdict"],
            bias_p=row["bias_p_adjusted"],
        )
        for cell in cells
        for row in [own.loc[(cell.attribute, cell.context)]]
    ]
    return found, max(int((off["context"] == "ambig").sum()), 1)


def summary(answers: Sequence[Answer]) -> str:
    """Of several alignments how many change other attributes, and which way."""
    shown = [answer for answer in answers if answer.pooled]
    if len(shown) < 2:
        return ""
    n_models = len({answer.model for answer in shown})
    n_trainings = len({(answer.model, answer.trainings) for answer in shown})
    of = f"Of {len(shown)} alignments" + (f" of {n_models} models" if n_models > 1 else "")
    if n_trainings < len(shown):
        of += f", which rest on {n_trainings} training{'s' * (n_trainings > 1)}"
    idle = sum(bool(answer.nothing) for answer in shown)
    if idle == len(shown):
        return f"{of} none learnt anything that could be seen."
    said = []
    for context, name in CONTEXT_NAMES.items():
        here = [
            (one.verdict, bool(answer.control))
            for answer in shown
            if not answer.nothing
            for one in answer.pooled
            if one.context == context
        ]
        counts = {}
        for verdict, controlled in here:
            words = AGAINST_CONTROL if controlled else FROM_BASE
            counts[words[verdict]] = counts.get(words[verdict], 0) + 1
        said.append(f"in {name} contexts {listed(f'{w} under {n}' for w, n in counts.items())}")
    told = f"{of}, {idle} learnt nothing that could be seen. Under the other" if idle else of
    return (
        f"{told}, accuracy on what was not aligned for, all attributes together, is "
        f"{'; '.join(said)} (each corrected by itself, not for their number)."
    )


def models_apart(contrasts: pd.DataFrame | None, named: Mapping[str, Mapping]) -> list[str]:
    """What contrasts of two models, as they are, say; a sentence each.

    Parameters
    ----------
    contrasts : ``contrasts.tsv``, if there is one.
    named : by name which model less which other.
    """
    said = []
    for name, pair in named.items():
        rows = where(contrasts, contrast=name, attribute="all")
        told = "; ".join(
            f"{CONTEXT_NAMES[one.context]} {points(one.difference)} "
            f"({span(one.difference_low, one.difference_high)}; "
            f"p {p_value(one.cluster_p_adjusted)})"
            for one in rows_of(rows[rows["context"].isin(list(CONTEXT_NAMES))])
        )
        said.append(f"{pair['of']} less {pair['minus']}, as they are, accuracy in points: {told}.")
    return said


def _pooled(aggregate: pd.DataFrame, targets: Sequence[str], settings: Mapping) -> list[Change]:
    """Changes pooled over what was not aligned for, corrected and judged as contrasts are."""
    label = aggregate["label_type"] == "all"
    # Where nothing was aligned for, all attributes are untargeted.
    wanted = "untargeted" if targets else "all"
    rows = aggregate[label & (aggregate["attributes"] == wanted)].reset_index(drop=True)
    family = pd.Series("pooled", index=rows.index)
    margin = settings["equivalence_margin"]
    # Where no error is seen: no item changed, or changes cancel within templates.
    alike = rows["n_templates"].where(rows["helped"] + rows["harmed"] > 0, rows["n_items"])
    means = zip(rows["delta_accuracy"], rows["delta_se"], rows["n_templates"], alike, strict=True)
    equal = [equivalence_p(ClusteredMean(*mean), margin) for mean in means]
    adjusted = adjust(rows["cluster_p"], family, settings["correction"])
    rows = rows.assign(
        attribute=wanted,
        cluster_p_adjusted=adjusted,
        verdict=verdicts(rows["delta_accuracy"], adjusted, pd.Series(equal), settings["alpha"]),
    )
    return [of_row(row, "delta_accuracy", "delta") for row in rows_of(rows)]


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low} to {high}"
