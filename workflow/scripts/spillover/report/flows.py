"""What became of answers, as flows from outcomes before to outcomes after."""

from collections.abc import Collection
from dataclasses import dataclass

import pandas as pd

from spillover.report.figures import CONTEXT_NAMES

# From good to bad, as they stand under each other; colours are the page's.
NAMES = {
    "gold": "right",
    "unknown": "unknown, wrongly",
    "nontarget": "against the stereotype",
    "target": "along the stereotype",
    "other": "wrong, not along or against",
    "unparsed": "not readable",
}
HEIGHT, GAP, WIDTH, BAR, LINE = 220.0, 10.0, 420.0, 12.0, 17.0


@dataclass(frozen=True)
class Bar:
    """An outcome on one side: its name, share of the answers, rectangle, and label's height."""

    outcome: str
    name: str
    share: float
    x: float
    y: float
    height: float
    label: float


@dataclass(frozen=True)
class Band:
    """Answers that went from one outcome to another: their share, and the path of an SVG."""

    before: str
    after: str
    share: float
    path: str


@dataclass(frozen=True)
class Flows:
    """The flows of a context."""

    bars: list[Bar]
    bands: list[Band]
    told: str


def flows(
    transitions: pd.DataFrame, model: str, alignment: str, context: str, targets: Collection[str]
) -> Flows | None:
    """Flows over the attributes that were not aligned for; None if there is no answer.

    Parameters
    ----------
    transitions : ``transitions.tsv``: ``before``, ``after`` and the number of ``items``.
    """
    rows = transitions[
        (transitions["model"] == model)
        & (transitions["alignment"] == alignment)
        & (transitions["context"] == context)
        & ~transitions["attribute"].isin(list(targets))
    ]
    counts = rows.groupby(["before", "after"])["items"].sum()
    total = counts.sum()
    if not total:
        return None
    shares = (counts / total).to_dict()
    seen = [name for name in NAMES if any(name in pair and n > 0 for pair, n in shares.items())]
    scale = HEIGHT - GAP * (len(seen) - 1)
    bars, tops = [], []
    for side in (0, 1):
        y, top, above = 0.0, {}, -LINE
        for name in seen:
            share = sum(n for pair, n in shares.items() if pair[side] == name)
            height = share * scale
            # Labels of thin bars would stand upon each other.
            above = max(y + height / 2, above + LINE)
            x = side * (WIDTH - BAR)
            bars.append(Bar(name, NAMES[name], share, x, y, height, above))
            top[name] = y
            y += share * scale + GAP
        tops.append(top)
    bands = []
    for before in seen:
        for after in seen:
            share = shares.get((before, after), 0.0)
            if share > 0:
                path = _path(tops[0][before], tops[1][after], share * scale)
                bands.append(Band(before, after, share, path))
                tops[0][before] += share * scale
                tops[1][after] += share * scale
    moved = sum(band.share for band in bands if band.before != band.after)
    largest = sorted(
        (band for band in bands if band.before != band.after), key=lambda band: -band.share
    )[:3]
    told = (
        f"{model}, {alignment}, attributes not aligned for, {CONTEXT_NAMES[context]} contexts: "
        f"{100 * moved:.0f} % of answers have another outcome than before"
    ) + "".join(
        f"; {100 * band.share:.0f} % went from {NAMES[band.before]} to {NAMES[band.after]}"
        for band in largest
    )
    return Flows(bars, bands, f"{told}.")


def _path(left: float, right: float, height: float) -> str:
    """A band between two bars, from heights ``left`` and ``right`` downwards."""
    start, end, middle = BAR, WIDTH - BAR, WIDTH / 2
    return (
        f"M{start:.1f} {left:.1f}C{middle:.1f} {left:.1f} {middle:.1f} {right:.1f} {end:.1f} "
        f"{right:.1f}V{right + height:.1f}C{middle:.1f} {right + height:.1f} {middle:.1f} "
        f"{left + height:.1f} {start:.1f} {left + height:.1f}Z"
    )
