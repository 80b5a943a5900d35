"""The spillover matrix as a figure: targets against attributes, the change as colour."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from spillover.report.figures import CONTEXT_NAMES

# Orange to purple: told apart by colour-blind readers, and both ends are dark in grey.
COLOURS = "PuOr_r"
NAMES = {
    "delta_accuracy": "change of accuracy, points",
    "delta_bias": "change of bias score, hundredths",
}


def matrix(table: pd.DataFrame, model: str, value: str, alpha: float) -> Figure:
    """Change of every attribute by every alignment, a panel a context.

    Parameters
    ----------
    table : ``matrix.tsv``.
    value : ``delta_accuracy`` or ``delta_bias``.
    alpha : below which a corrected p-value holds.

    Above are the alignments, net of their controls where they have one; below the line the
    controls' own changes. All cells share one scale, symmetric about 0. Cells that hold after
    correction have bold figures and a dot; the targeted ones are framed.
    """
    of_model = table[table["model"].astype(str) == str(model)]
    controls = set(of_model["minus"].dropna()) - {""}
    net = of_model.groupby("alignment")["minus"].transform(lambda minus: minus.fillna("").max())
    shown = of_model[of_model["minus"].fillna("") == net]
    attributes = sorted(shown["attribute"].unique())
    rows = sorted(shown["alignment"].unique(), key=lambda name: name in controls)
    net_of = shown.groupby("alignment")["minus"].first().fillna("").to_dict()
    uncontrolled = {name for name in rows if name not in controls and controls and not net_of[name]}
    labels = [f"{name} (no control)" if name in uncontrolled else name for name in rows]
    most = 100 * shown[value].abs().max() or 1.0
    figure = Figure(figsize=(1.6 + 1.15 * len(attributes), 1.6 + 0.42 * len(rows) * 2))
    figure.set_layout_engine("constrained")
    panels = figure.subplots(2, 1, sharex=True, squeeze=False).flat
    p = {"delta_accuracy": "cluster_p_adjusted", "delta_bias": "bias_p_adjusted"}[value]
    for axes, (context, title) in zip(panels, CONTEXT_NAMES.items(), strict=True):
        cells = shown[shown["context"] == context].set_index(["alignment", "attribute"])
        wide = cells.reset_index().pivot_table(value, "alignment", "attribute")
        values = 100 * wide.reindex(index=rows, columns=attributes)
        image = axes.imshow(values, cmap=COLOURS, vmin=-most, vmax=most, aspect="auto")
        for (i, j), number in np.ndenumerate(values.to_numpy()):
            if np.isnan(number):
                continue
            cell = cells.loc[(rows[i], attributes[j])]
            holds = cell[p] < alpha
            axes.text(
                j,
                i,
                f"{number:+.0f}{'•' if holds else ''}",
                ha="center",
                va="center",
                fontsize=8,
                fontweight="bold" if holds else "normal",
                color="white" if abs(number) > 0.7 * most else "black",
            )
            if cell["targeted"]:
                frame = Rectangle((j - 0.47, i - 0.45), 0.94, 0.9, fill=False, lw=1.6, ec="black")
                axes.add_patch(frame)
        first = sum(name not in controls for name in rows)
        if first < len(rows):
            axes.axhline(first - 0.5, color="black", lw=1)
        axes.set_title(title, fontsize=10)
        axes.set_yticks(range(len(rows)), labels)
        axes.set_xticks(
            range(len(attributes)),
            [name.replace("_", "\n") for name in attributes],
            fontsize=8,
        )
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=figure.axes, label=NAMES[value], shrink=0.6)
    return figure
