"""The answer of a study, from its tables by rule: what spilled over, what it cost, what is open.

Changes are differences of accuracy; texts give them in points, times 100.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from spillover.report.figures import CONTEXT_NAMES
from spillover.report.learnt import Learnt
from spillover.report.words import listed, name_of, p_value, points, span
from spillover.statistics.corrections import adjust

# A change of this size is what the page says a larger study is needed for.
SMALL = 0.05
HELD = {"improved": "more accurate", "degraded": "less accurate"}
TOLD = HELD | {"equivalent": "as accurate as before", "inconclusive": "not shown to change"}


@dataclass(frozen=True)
class Change:
    """A change of accuracy in one context: of an attribute, or pooled over several.

    Attributes
    ----------
    of, minus : what the alignment and its control changed; NaN where there is no control, and
        ``change`` is what the alignment changed.
    p : corrected, but for a targeted attribute.
    """

    attribute: str
    context: str
    change: float
    low: float
    high: float
    p: float
    verdict: str
    n_items: int
    n_templates: int
    of: float = np.nan
    minus: float = np.nan

    @property
    def told(self) -> str:
        """The change with its interval and p."""
        return f"{points(self.change)}, {span(self.low, self.high)}, p {p_value(self.p)}"

    @property
    def where(self) -> str:
        """Attribute and context."""
        return f"{name_of(self.attribute)}, {CONTEXT_NAMES[self.context]}"


@dataclass(frozen=True)
class Answer:
    """What a study says of an alignment of a model.

    Attributes
    ----------
    targets : attributes that were aligned for; there may be none.
    control : the alignment that is taken off, if there is one.
    n_seeds : that changes are means of.
    learnt : whether it learnt anything; None where that was not measured.
    pooled : over the attributes that were not aligned for, a context each.
    cells, own : of each attribute that was not, and that was aligned for.
    detectable : smallest and largest change from the base that a single attribute's test finds
        with 80 % power; None where there is no such test.
    needed : templates an attribute for a change of :data:`SMALL` to be found; None likewise.
    available : templates that the benchmark has of each attribute.
    costs : changes of companion sets, as sentences.
    """

    model: str
    alignment: str
    targets: Sequence[str]
    control: str | None
    n_seeds: int
    learnt: Learnt | None
    pooled: Sequence[Change]
    cells: Sequence[Change]
    own: Sequence[Change]
    detectable: tuple[float, float] | None
    needed: int | None
    available: Sequence[int]
    costs: Sequence[str]

    @property
    def headline(self) -> list[str]:
        """The answer in a few sentences."""
        said = []
        if self.learnt is not None and not self.learnt.anything:
            said.append(f"Nothing was learnt that could be seen: {self.learnt.told}.")
        if not self.pooled:
            return [
                *said,
                "Every attribute that was evaluated was aligned for: none can spill over.",
            ]
        beyond = f" beyond its control, {self.control}" if self.control else ""
        n = len({cell.attribute for cell in self.cells})
        others = "" if self.targets else " of the benchmark"
        not_for = " that it was not aligned for" if self.targets else ""
        said.append(
            f"On the {n} attribute{'s' * (n != 1)}{others}{not_for}, answers are "
            + listed(
                f"{TOLD[one.verdict]} in {CONTEXT_NAMES[one.context]} contexts "
                f"({points(one.change)} points, {span(one.low, one.high)}; "
                f"{'adjusted ' if self.corrected else ''}p {p_value(one.p)})"
                for one in self.pooled
            )
            + f"{beyond}."
        )
        if self.control is None:
            said.append(
                "Without a control it cannot be told what of this comes from what was taught, "
                "and what from training at all."
            )
        return said + self._of_control()

    @property
    def reach(self) -> float:
        """The largest number that an interval of a pooled change goes to, for drawing them."""
        ends = [abs(end) for one in self.pooled for end in (one.low, one.high, one.change)]
        return float(np.nanmax([*ends, SMALL]))

    @property
    def corrected(self) -> bool:
        """Whether p-values are of more than one test."""
        return len(self.pooled) > 1

    def _of_control(self) -> list[str]:
        """How much of the differences is a change of the control."""
        if self.control is None:
            return []
        return [
            "The alignment itself changed accuracy by "
            + listed(f"{points(one.of)} ({CONTEXT_NAMES[one.context]})" for one in self.pooled)
            + ", its control by "
            + listed(f"{points(one.minus)}" for one in self.pooled)
            + "."
        ]

    def held(self, verdict: str) -> list[Change]:
        """Single attributes that were not aligned for, with a verdict; the largest change first."""
        cells = [cell for cell in self.cells if cell.verdict == verdict]
        return sorted(cells, key=lambda cell: -abs(cell.change))

    @property
    def open(self) -> str:
        """What cannot be told of single attributes, and how large a study could tell."""
        n = len(self.held("inconclusive"))
        if not n:
            return "Of every attribute and context it can be told."
        said = f"Of {n} of {len(self.cells)} attributes and contexts it cannot be told."
        if self.detectable is None or not np.isfinite(self.detectable).all():
            return said
        low, high = self.detectable
        said += (
            f" A change from the base is found with 80 % power from {100 * low:.0f}"
            + (f" to {100 * high:.0f}" if round(100 * high) > round(100 * low) else "")
            + " points on, by attribute."
        )
        if self.needed is not None:
            said += (
                f" For one of {100 * SMALL:.0f} points about {self.needed} templates an attribute "
                f"would be needed; here are {_range([cell.n_templates for cell in self.cells])}, "
                f"and the benchmark has {_range(self.available)}."
            )
        return said


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
    tables : ``spillover`` and ``aggregate``; ``contrasts`` and ``forgetting`` if there are any.
    alignments : those to tell of, each with its ``target`` and ``control``.
    learnt : by model and alignment, as far as it was measured.
    n_templates : that the benchmark has of each attribute.
    settings : ``alpha``, ``correction``.
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
    targets, control = alignment["target"], alignment["control"]
    raw = _of(tables["spillover"], model=model, alignment=name)
    if control is None:
        cells = [_change(row, "delta_accuracy", "delta") for row in _rows(raw)]
        pooled = _pooled(_of(tables["aggregate"], model=model, alignment=name), targets, settings)
    else:
        found = _of(tables["contrasts"], model=model, of=name, minus=control)
        cells = [
            _change(row, "difference", "difference", of=row.change_of, minus=row.change_minus)
            for row in _rows(found)
        ]
        by_pool = {cell.attribute: [] for cell in cells}
        for cell in cells:
            by_pool[cell.attribute].append(cell)
        pooled = by_pool.get("untargeted", [] if targets else by_pool.get("all", []))
        cells = [cell for cell in cells if cell.attribute not in ("untargeted", "all")]
    pooled = [one for one in pooled if one.context in CONTEXT_NAMES]
    other = raw[~raw["targeted"].astype(bool)]
    sizes = other["minimum_detectable_change"].dropna()
    needed = None
    if len(sizes):
        needed = int(np.ceil((other["n_templates"] * (sizes / SMALL) ** 2).median()))
    return Answer(
        model,
        name,
        targets,
        control,
        int(raw["seeds"].max()),
        learnt,
        pooled,
        [cell for cell in cells if cell.attribute not in targets],
        [cell for cell in cells if cell.attribute in targets],
        (float(sizes.min()), float(sizes.max())) if len(sizes) else None,
        needed,
        [n_templates[attribute] for attribute in other["attribute"].unique()],
        costs(tables.get("forgetting"), model, name, control, settings["alpha"]),
    )


def summary(answers: Sequence[Answer]) -> str:
    """Of several alignments how many change other attributes, and which way."""
    shown = [answer for answer in answers if answer.pooled]
    if len(shown) < 2:
        return ""
    said = []
    for context, name in CONTEXT_NAMES.items():
        verdicts = [o.verdict for answer in shown for o in answer.pooled if o.context == context]
        counts = {told: verdicts.count(verdict) for verdict, told in TOLD.items()}
        told = listed(f"{what} under {n}" for what, n in counts.items() if n)
        said.append(f"in {name} contexts {told}")
    beyond = ", beyond the control where there is one" * any(a.control for a in shown)
    return (
        f"Of {len(shown)} alignments, what they were not aligned for is, all attributes together"
        f"{beyond}: {'; '.join(said)}."
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
        rows = _of(contrasts, contrast=name, attribute="all")
        told = "; ".join(
            f"{CONTEXT_NAMES[one.context]} {points(one.difference)} "
            f"({span(one.difference_low, one.difference_high)}; "
            f"p {p_value(one.cluster_p_adjusted)})"
            for one in _rows(rows[rows["context"].isin(list(CONTEXT_NAMES))])
        )
        said.append(f"{pair['of']} less {pair['minus']}, as they are, accuracy in points: {told}.")
    return said


def _pooled(aggregate: pd.DataFrame, targets: Sequence[str], settings: Mapping) -> list[Change]:
    """Changes pooled over what was not aligned for, corrected as contrasts are."""
    label = aggregate["label_type"] == "all"
    # Where nothing was aligned for, all attributes are untargeted.
    wanted = "untargeted" if targets else "all"
    rows = aggregate[label & (aggregate["attributes"] == wanted)].reset_index(drop=True)
    family = pd.Series("pooled", index=rows.index)
    rows = rows.assign(
        attribute=wanted,
        cluster_p_adjusted=adjust(rows["cluster_p"], family, settings["correction"]),
    )
    significant = rows["cluster_p_adjusted"] < settings["alpha"]
    signs = np.where(rows["delta_accuracy"] > 0, "improved", "degraded")
    rows["verdict"] = np.where(significant, signs, "inconclusive")
    return [_change(row, "delta_accuracy", "delta") for row in _rows(rows)]


def _change(row, value: str, prefix: str, **also: float) -> Change:
    return Change(
        row.attribute,
        row.context,
        getattr(row, value),
        getattr(row, f"{prefix}_low"),
        getattr(row, f"{prefix}_high"),
        row.cluster_p_adjusted,
        row.verdict,
        int(row.n_items),
        int(row.n_templates),
        **also,
    )


def costs(
    forgetting: pd.DataFrame | None, model: str, alignment: str, control: str | None, alpha: float
) -> list[str]:
    """What an alignment cost on companion sets, a sentence a set.

    Against the control where there is one, else against the base; measures whose change holds
    after correction, or that none does.
    """
    if forgetting is None:
        return []
    rows = _of(forgetting, model=model, alignment=alignment, part="all")
    minus = rows["minus"].fillna("")
    rows = rows[(minus == (control or "")) & rows["p"].notna()]
    said = []
    for name, here in rows.groupby("set", sort=False):
        held = here[here["p_adjusted"] < alpha]
        if held.empty:
            smallest = here["p_adjusted"].min()
            said.append(
                f"{name}: no change is shown ({listed(here['measure'])}; smallest adjusted p "
                f"{p_value(smallest)})."
            )
            continue
        said.append(
            f"{name}: "
            + "; ".join(
                f"{row.measure} {'falls' if row.change < 0 else 'rises'} by {abs(row.change):.3g} "
                f"({row.change_low:.3g} to {row.change_high:.3g}, adjusted p "
                f"{p_value(row.p_adjusted)})"
                for row in held.itertuples()
            )
            + "."
        )
    return said


def _of(table: pd.DataFrame, **values: str) -> pd.DataFrame:
    for column, value in values.items():
        table = table[table[column] == value]
    return table


def _rows(table: pd.DataFrame):
    return table.itertuples(index=False)


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low} to {high}"
