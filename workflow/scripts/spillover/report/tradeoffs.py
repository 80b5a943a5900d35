"""What alignment costs against what it changes, run by run, as a figure."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from spillover.report.figures import CONTROL_COLOUR
from spillover.report.labels import name_at_the_right

# What stands on the axes, and by how much a change is multiplied.
LABELS = {
    "language": ("change of log-probability, nats a byte", 1),
    "ability": ("change of accuracy, points: ability", 100),
    "fairness": ("change of accuracy, points: BBQ", 100),
    "stereotypes": ("change of stereotypes preferred, points", 100),
}
COLOUR = "#0072B2"


def tradeoff(
    runs: pd.DataFrame, table: pd.DataFrame, model: str, controls: list[str], alpha: float
) -> Figure:
    """Every run's change of one quantity against that of another, a panel a pair.

    Parameters
    ----------
    runs, table : ``tradeoff_runs.tsv`` and ``tradeoff.tsv``.
    controls : alignments that are controls, drawn in grey.
    alpha : the bars are intervals at level 1 - alpha.

    Open: a run on the way of a training; its name is left out. Above each panel the correlation,
    of which there is none with too few runs, or with runs that differ no more than by noise.
    """
    of_model = runs[runs["model"].astype(str) == str(model)]
    pairs = table[table["model"].astype(str) == str(model)]
    wide = of_model.pivot_table(["change", "low", "high"], "run", "quantity")
    n = max(len(pairs), 1)
    figure = Figure(figsize=(4.2 * n, 4.2), layout="constrained")
    panels = figure.subplots(1, n, squeeze=False)[0]
    for axes, row in zip(panels, pairs.itertuples(), strict=True):
        axes.axhline(0, color="0.85", lw=0.8)
        axes.axvline(0, color="0.85", lw=0.8)
        points, names = [], []
        for run, values in wide.iterrows():
            alignment, _, rest = str(run).rpartition("/")
            colour = CONTROL_COLOUR if alignment in controls else COLOUR
            (x, x_bar), (y, y_bar) = (_scaled(values, name) for name in (row.x, row.y))
            axes.plot(x_bar, [y, y], color=colour, lw=0.8, alpha=0.4)
            axes.plot([x, x], y_bar, color=colour, lw=0.8, alpha=0.4)
            on_the_way = "@" in rest
            axes.scatter(
                x,
                y,
                s=26,
                facecolors="white" if on_the_way else colour,
                edgecolors=colour,
                zorder=3,
            )
            if not on_the_way:
                points.append((x, y))
                names.append(alignment)
        name_at_the_right(axes, points, names)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        told = "no correlation"
        if pd.notna(row.correlation):
            told = f"r = {row.correlation:.2f} ({row.low:.2f} to {row.high:.2f})"
        axes.set_title(f"{row.x} and {row.y}: {told}", fontsize=9)
        axes.set_xlabel(LABELS[row.x][0])
        axes.set_ylabel(f"{LABELS[row.y][0]} ({100 * (1 - alpha):g} % intervals)")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _scaled(values: pd.Series, quantity: str) -> tuple[float, list[float]]:
    """A run's change and its interval, in the unit of the axis."""
    scale = LABELS[quantity][1]
    change, low, high = (scale * values[(part, quantity)] for part in ("change", "low", "high"))
    return change, [low, high]
