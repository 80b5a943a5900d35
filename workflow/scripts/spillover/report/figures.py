"""Figures of a study: what changed, by attribute and context."""

from collections.abc import Collection

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from spillover.core.files import replacing

# The same file for the same data: SVG ids are otherwise random.
mpl.rcParams.update({"svg.hashsalt": "spillover", "svg.fonttype": "path", "font.size": 9})

CONTEXT_NAMES = {"ambig": "ambiguous", "disambig": "disambiguated"}
# Colours of Okabe and Ito, told apart by colour-blind readers too.
CONTEXT_COLOURS = {"ambig": "#D55E00", "disambig": "#0072B2"}
FILLED = ("improved", "degraded")


def accuracy_change(spillover: pd.DataFrame, alpha: float) -> Figure:
    """Change of accuracy with its clustered interval, a row an attribute, a panel a model.

    Parameters
    ----------
    spillover : rows of ``spillover.tsv`` of one alignment.
    alpha : the intervals are at level 1 - alpha.

    Filled points are changes that hold after correction; targeted attributes are marked ◀.
    """
    attributes = sorted(spillover["attribute"].unique(), reverse=True)
    targeted = set(spillover.loc[spillover["targeted"], "attribute"])
    figure, panels = _panels(spillover["model"].unique(), len(attributes))
    for axes, (_, of_model) in zip(panels, spillover.groupby("model", sort=False), strict=True):
        for context, rows, at, colour in _by_context(of_model, attributes, 0.14):
            axes.hlines(at, 100 * rows["delta_low"], 100 * rows["delta_high"], color=colour, lw=1.5)
            filled = rows["verdict"].isin(FILLED)
            axes.scatter(
                100 * rows["delta_accuracy"],
                at,
                facecolors=[colour if fill else "white" for fill in filled],
                edgecolors=colour,
                s=26,
                zorder=3,
                label=CONTEXT_NAMES[context],
            )
        axes.set_xlabel(f"change of accuracy, points ({100 * (1 - alpha):g} % interval)")
    _label_attributes(panels[0], attributes, targeted)
    _legend(figure, panels[0], "filled: holds after correction; ◀: targeted")
    return figure


def bias_scores(metrics: pd.DataFrame, alignment: str, targeted: Collection[str]) -> Figure:
    """Bias scores before (hollow) and after (filled), a row an attribute, a panel a model.

    Parameters
    ----------
    metrics : ``metrics.tsv``; seeds are averaged.
    alignment, targeted : which runs are *after*, and the attributes they were aligned for.

    s_AMB and s_DIS are in [-1, 1]; 0 is no lean, and a tick is the score of a model that is
    always right, which unbalanced templates put beside 0.
    """
    metrics = metrics[metrics["label_type"] == "all"]
    base = metrics[metrics["run"] == "base"]
    aligned = metrics[metrics["run"].str.startswith(f"{alignment}/seed")]
    keys = ["model", "attribute", "context"]
    mean = aligned.groupby(keys, sort=False)["bias_score"].mean().rename("after")
    table = base.merge(mean.reset_index(), on=keys)
    attributes = sorted(table["attribute"].unique(), reverse=True)
    figure, panels = _panels(table["model"].unique(), len(attributes))
    for axes, (_, of_model) in zip(panels, table.groupby("model", sort=False), strict=True):
        for context, rows, at, colour in _by_context(of_model, attributes, 0.16):
            axes.hlines(at, rows["bias_score"], rows["after"], color=colour, lw=1.2)
            axes.scatter(rows["bias_score"], at, s=26, c="white", edgecolors=colour, zorder=3)
            axes.scatter(
                rows["after"], at, s=26, color=colour, zorder=4, label=CONTEXT_NAMES[context]
            )
            if context == "disambig":
                perfect = rows["bias_score_perfect_model"]
                axes.scatter(perfect, at, marker="|", s=70, color="0.2", lw=1, zorder=2)
        axes.set_xlabel("bias score (ambiguous s_AMB, disambiguated s_DIS)")
    _label_attributes(panels[0], attributes, set(targeted))
    _legend(figure, panels[0], "hollow: before, filled: after; |: a perfect model; ◀: targeted")
    return figure


def _panels(models: Collection[str], n_rows: int):
    figure = Figure(figsize=(2.2 + 3.6 * len(models), 1.4 + 0.42 * n_rows), layout="constrained")
    panels = figure.subplots(1, len(models), sharey=True, sharex=True, squeeze=False)[0]
    for axes, model in zip(panels, models, strict=True):
        axes.set_title(model, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.93", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.axvline(0, color="0.6", linewidth=0.8)
    return figure, panels


def _by_context(table: pd.DataFrame, attributes: list[str], shift: float):
    """Yield each context's name, rows, their heights (one context above the other), colour."""
    for context, above in (("ambig", shift), ("disambig", -shift)):
        rows = table[table["context"] == context]
        at = [attributes.index(name) + above for name in rows["attribute"]]
        yield context, rows, at, CONTEXT_COLOURS[context]


def _label_attributes(axes, attributes: list[str], targeted: set[str]) -> None:
    names = [name.replace("_", " ") + (" ◀" if name in targeted else "") for name in attributes]
    axes.set_yticks(range(len(attributes)), names)
    for label, name in zip(axes.get_yticklabels(), attributes, strict=True):
        label.set_fontweight("bold" if name in targeted else "normal")


def _legend(figure: Figure, axes, note: str) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper center",
        ncols=2,
        frameon=False,
        title=note,
        title_fontsize=8,
    )


def save(figure: Figure, paths: Collection[str]) -> None:
    """Write a figure in the formats that the paths' suffixes name, without a date in them."""
    for path in paths:
        with replacing(path) as temporary:
            dated = "Date" if temporary.suffix == ".svg" else "CreationDate"
            figure.savefig(temporary, metadata={dated: None})
