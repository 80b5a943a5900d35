"""Arms by what they gain and what they harm, as a figure."""

import pandas as pd
from matplotlib.figure import Figure

from spillover.report.figures import CONTEXT_COLOURS
from spillover.report.labels import name_at_the_right
from spillover.statistics.ranking import answer

PANELS = {"ambig": "ambiguous", "disambig": "disambiguated", "both": "both contexts"}


def ranking(table: pd.DataFrame, model: str, alpha: float) -> Figure:
    """Gain on the target against the worst untargeted attribute, a panel a context.

    Parameters
    ----------
    table : ``ranking.tsv``.
    alpha : the intervals are at level 1 - alpha; those of the worst attribute are simultaneous.

    The reference is a square; the line is the Pareto front of gain and the lower ends of the
    vertical intervals: no such end lies up and to the right of it. Filled: the worst attribute's
    change differs from the reference's after correction. What the tests say as a whole stands
    above each panel.
    """
    of_model = table[table["model"].astype(str) == str(model)]
    reference = of_model.loc[of_model["verdict"] == "reference", "arm"].iloc[0]
    figure = Figure(figsize=(12.6, 5.0), layout="constrained")
    panels = figure.subplots(1, len(PANELS))
    for axes, (context, title) in zip(panels, PANELS.items(), strict=True):
        here = of_model[of_model["context"] == context]
        colour = CONTEXT_COLOURS.get(context, "#009E73")
        axes.axhline(0, color="0.8", lw=0.8)
        axes.axvline(0, color="0.8", lw=0.8)
        front = here[here["on_front"].astype(bool)].sort_values("gain")
        axes.plot(
            100 * front["gain"],
            100 * front["worst_low"],
            drawstyle="steps-pre",
            color="0.6",
            lw=1,
            zorder=1,
        )
        for row in here.itertuples():
            held = row.verdict not in ("reference", "not told apart")
            x, y = 100 * row.gain, 100 * row.worst
            axes.plot([x, x], [100 * row.worst_low, y], color=colour, lw=0.8, alpha=0.5)
            axes.plot([100 * row.gain_low, 100 * row.gain_high], [y, y], color="0.85", lw=0.6)
            axes.scatter(
                x,
                y,
                s=42,
                marker="s" if row.arm == reference else "o",
                facecolors=colour if held else "white",
                edgecolors=colour,
                zorder=3,
            )
        points = 100 * here[["gain", "worst"]].to_numpy()
        name_at_the_right(axes, points, here["arm"].astype(str).tolist())
        axes.set_title(f"{title}\n{answer(here, reference, context)}", fontsize=9)
        axes.set_xlabel("gain on the target, points")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("worst untargeted attribute, points (down: simultaneous interval)")
    return figure
