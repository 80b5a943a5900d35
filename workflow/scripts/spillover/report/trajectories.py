"""Changes along training, items, strength or rank as a figure."""

import pandas as pd
from matplotlib.figure import Figure

from spillover.report.figures import CONTEXT_COLOURS, CONTEXT_NAMES, CONTROL_COLOUR
from spillover.report.labels import name_at_the_right

LABELS = {
    "training": "share of training",
    "items": "items trained on",
    "strength": "strength (0: base, 1: aligned)",
    "rank": "rank that is kept",
}
# Quantities of which twice as much is one step.
DOUBLING = ("items", "rank")
# At which nothing has changed: the base.
BEGINS_AT_BASE = ("training", "strength")


def trajectory(table: pd.DataFrame, model: str, along: str, of: str, alpha: float) -> Figure:
    """Change of accuracy against the quantity, a panel a context.

    Parameters
    ----------
    table : ``trajectory.tsv``.
    model, along, of : which series.
    alpha : the bands are intervals at level 1 - alpha.

    Thick: the untargeted attributes together and, in black, the targeted ones, with their
    intervals; thin: each untargeted attribute; dashed: the control's untargeted ones together, if
    every point has a control. Nothing is net of it.
    """
    series = table[
        (table["model"].astype(str) == str(model))
        & (table["along"] == along)
        & (table["of"].astype(str) == str(of))
        & table["minus"].fillna("").eq("")
    ]
    net = table[table["minus"].fillna("").ne("")]
    controls = set(net["minus"])
    own = series[~series["alignment"].isin(controls)]
    control = series[series["alignment"].isin(controls)]
    if set(control["at"]) != set(own["at"]):  # a line between few points would look measured
        control = control.iloc[:0]
    figure = Figure(figsize=(9.2, 4.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    ends = {}
    for axes, (context, title) in zip(panels, CONTEXT_NAMES.items(), strict=True):
        here = own[own["context"] == context]
        axes.axhline(0, color="0.6", lw=0.8)
        for name, line in here.groupby("attribute"):
            if name in ("targeted", "untargeted") or line["targeted"].any():
                continue
            at, change = _line(line, along)
            axes.plot(at, change, color="0.7", lw=0.9)
            ends[axes, name.replace("_", " ")] = (at[-1], change[-1])
        shown = (
            ("untargeted", here, CONTEXT_COLOURS[context], "-", "untargeted, pooled"),
            ("targeted", here, "black", "-", "targeted"),
            (
                "untargeted",
                control[control["context"] == context],
                CONTROL_COLOUR,
                "--",
                "control, untargeted",
            ),
        )
        for pool, of_pool, colour, style, label in shown:
            line = of_pool[of_pool["attribute"] == pool]
            if line.empty:
                continue
            at, change = _line(line, along)
            axes.plot(at, change, style, color=colour, lw=2, marker="o", ms=4, label=label)
            if style == "-":
                _, low = _line(line, along, "delta_low")
                _, high = _line(line, along, "delta_high")
                axes.fill_between(at, low, high, color=colour, alpha=0.15, lw=0)
        if along in DOUBLING:
            axes.set_xscale("log", base=2)
            ticks = sorted(here["at"].unique())
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(LABELS[along])
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels:
        named = {name: end for (of_axes, name), end in ends.items() if of_axes is axes}
        name_at_the_right(axes, list(named.values()), list(named), size=6)
    panels[0].set_ylabel(f"change of accuracy, points ({100 * (1 - alpha):g} % interval)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    return figure


def _line(
    rows: pd.DataFrame, along: str, column: str = "delta_accuracy"
) -> tuple[list[float], list[float]]:
    """Where a line goes, from the base on where that is a point of it; in points."""
    rows = rows.sort_values("at")
    at, values = rows["at"].tolist(), (100 * rows[column]).tolist()
    if along in BEGINS_AT_BASE and at[0] > 0:
        return [0.0, *at], [0.0, *values]
    return at, values
