"""Names of points, where they do not hide each other."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from scipy.optimize import isotonic_regression

LINE = 1.3  # of the size of the letters, from one name to the next


def apart(places: Sequence[float], gap: float) -> np.ndarray:
    """Places at least ``gap`` from each other, in their order, moved as little as can be.

    Least squares within [0, 1], as far as there is room: what is wanted less i gaps, made to
    ascend, and the gaps put back.
    """
    places = np.asarray(places, dtype=float)
    order = np.argsort(places, kind="stable")
    gaps = gap * np.arange(len(places))
    moved = np.empty_like(places)
    ascending = isotonic_regression(places[order] - gaps).x
    moved[order] = np.clip(ascending, 0, max(1 - gaps[-1], 0)) + gaps
    return moved


def name_at_the_right(
    axes: Axes, points: Sequence[tuple[float, float]], names: Sequence[str], size: float = 7
) -> None:
    """Write names right of a panel, apart from each other, each with a thin line to its point.

    Parameters
    ----------
    points : where the lines go, in data coordinates; the panel's limits must be final.
    size : of the letters, in points.
    """
    if not names:
        return
    low, high = axes.get_ylim()
    # Before the layout is known: a panel takes about four fifths of its figure.
    height = 0.8 * axes.get_position().height * axes.figure.get_figheight() * 72
    # At one height the leftmost first: its line then passes the others' below.
    points = np.asarray(points, dtype=float)
    order = np.lexsort((points[:, 0], points[:, 1]))
    wanted = (points[order, 1] - low) / (high - low)
    for place, at in zip(apart(wanted, LINE * size / height), order, strict=True):
        axes.annotate(
            names[at],
            tuple(points[at]),
            xytext=(1.03, place),
            textcoords="axes fraction",
            fontsize=size,
            color="0.3",
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "0.75", "lw": 0.5, "shrinkA": 0, "shrinkB": 3},
            zorder=2,
        )
