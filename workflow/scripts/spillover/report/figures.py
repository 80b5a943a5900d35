"""Figures of a study: what changed, by attribute and context."""

from collections.abc import Collection, Sequence

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from spillover.core.files import replacing

# The same file for the same data: SVG ids are otherwise random.
mpl.rcParams.update({"svg.hashsalt": "spillover", "svg.fonttype": "path", "font.size": 9})

CONTEXT_NAMES = {"ambig": "ambiguous", "disambig": "disambiguated"}
# Colours of Okabe and Ito, told apart by colour-blind readers too.
CONTEXT_COLOURS = {"ambig": "#D55E00", "disambig": "#0072B2"}
CONTROL_COLOUR = "0.45"
FILLED = ("improved", "degraded")
POOLED = "untargeted, pooled"


def accuracy_change(
    spillover: pd.DataFrame,
    aggregate: pd.DataFrame,
    alignment: str,
    alpha: float,
    contrasts: pd.DataFrame | None = None,
    control: str | None = None,
) -> Figure:
    """Change of accuracy by attribute, the control's beside it; a panel a context.

    Parameters
    ----------
    spillover, aggregate : ``spillover.tsv`` and ``aggregate.tsv``.
    alignment, control : whose changes are shown.
    alpha : the intervals are at level 1 - alpha.
    contrasts : ``contrasts.tsv``, if there is a control.

    The last row pools the untargeted attributes. Points are filled where the change is not the
    control's too (the contrast holds after correction); without a control, where the change
    itself holds. A row of panels a model; targeted attributes are marked ◀.
    """
    attributes = sorted(spillover["attribute"].unique())
    targeted = set(spillover.loc[spillover["targeted"] & _is(spillover, alignment), "attribute"])
    rows = [*attributes, POOLED][::-1]
    models = spillover["model"].unique()
    figure, panels = _panels([(model, context) for model in models for context in CONTEXT_NAMES], 2)
    shown = [(alignment, 0.0)] if control is None else [(alignment, 0.15), (control, -0.17)]
    for (model, context), axes in panels.items():
        axes.axhspan(-0.5, 0.5, color="0.95", zorder=0)
        for name, above in shown:
            table = _changes(spillover, aggregate, model, name, context)
            holds = table["verdict"].isin(FILLED)
            if control is not None:
                found = contrasts[
                    _is(contrasts, alignment, "contrast")
                    & _is(contrasts, model, "model")
                    & (contrasts["context"] == context)
                ]
                pooled = _pooled(found, "attribute").assign(attribute=POOLED)
                verdicts = pd.concat([found, pooled]).set_index("attribute")["verdict"]
                holds = table["attribute"].map(verdicts).isin(FILLED)
            colour = CONTEXT_COLOURS[context] if name == alignment else CONTROL_COLOUR
            filled = holds if name == alignment else holds & False
            at = table["attribute"].map(rows.index) + above
            axes.hlines(at, 100 * table["low"], 100 * table["high"], color=colour, lw=1.5)
            axes.scatter(
                100 * table["change"],
                at,
                facecolors=[colour if fill else "white" for fill in filled],
                edgecolors=colour,
                marker="o" if name == alignment else "D",
                s=30 if name == alignment else 20,
                zorder=3,
                label=name,
            )
        title = CONTEXT_NAMES[context] if len(models) == 1 else f"{model}, {CONTEXT_NAMES[context]}"
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(f"change of accuracy, points ({100 * (1 - alpha):g} % interval)")
    first = next(iter(panels.values()))
    _label_attributes(first, rows, targeted)
    held = (
        "holds after correction"
        if control is None
        else "differs from the control's, after correction"
    )
    _legend(figure, first, f"filled: {held}; ◀: targeted")
    return figure


def _changes(
    spillover: pd.DataFrame, aggregate: pd.DataFrame, model: str, alignment: str, context: str
) -> pd.DataFrame:
    """Changes of one panel: each attribute's, and that of the untargeted ones together."""
    pooled = _pooled(aggregate[aggregate["label_type"] == "all"], "attributes")
    tables = [spillover, pooled.assign(attribute=POOLED, verdict="inconclusive")]
    table = pd.concat(
        [t[_is(t, model, "model") & _is(t, alignment) & (t["context"] == context)] for t in tables]
    )
    names = {"delta_accuracy": "change", "delta_low": "low", "delta_high": "high"}
    return table.rename(columns=names)[["attribute", "verdict", *names.values()]]


def _pooled(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Rows over the untargeted attributes: over all, where none is targeted."""
    untargeted = table[table[column] == "untargeted"]
    return table[table[column] == "all"] if untargeted.empty else untargeted


def _is(table: pd.DataFrame, name: str, column: str = "alignment") -> pd.Series:
    """Rows of one name; a table that was read again may hold a number in its place."""
    return table[column].astype(str) == str(name)


def bias_scores(
    metrics: pd.DataFrame, alignment: str, targeted: Collection[str], control: str | None = None
) -> Figure:
    """Bias scores before (hollow) and after (filled), a row an attribute, a panel a context.

    Parameters
    ----------
    metrics : ``metrics.tsv``; seeds are averaged.
    alignment, targeted : which runs are *after*, and the attributes they were aligned for.
    control : whose runs are shown beside them.

    s_AMB and s_DIS are in [-1, 1]; 0 is no lean, and a tick is the score of a model that is
    always right, which unbalanced templates put beside 0. A row of panels a model.
    """
    metrics = metrics[metrics["label_type"] == "all"]
    base = metrics[metrics["run"] == "base"]
    rows = sorted(metrics["attribute"].unique(), reverse=True)
    models = metrics["model"].unique()
    figure, panels = _panels([(model, context) for model in models for context in CONTEXT_NAMES], 2)
    for (model, context), axes in panels.items():
        before = base[_is(base, model, "model") & (base["context"] == context)]
        before = before.set_index("attribute")
        at = before.index.map(rows.index)
        colour = CONTEXT_COLOURS[context]
        for name, above in (
            ((alignment, 0.0),) if control is None else ((alignment, 0.12), (control, -0.2))
        ):
            runs = metrics[
                metrics["run"].str.startswith(f"{name}/seed")
                & _is(metrics, model, "model")
                & (metrics["context"] == context)
            ]
            after = runs.groupby("attribute")["bias_score"].mean().reindex(before.index)
            if name == alignment:
                axes.hlines(at + above, before["bias_score"], after, color=colour, lw=1.2)
                axes.scatter(
                    before["bias_score"],
                    at + above,
                    s=28,
                    c="white",
                    edgecolors=colour,
                    zorder=3,
                    label="before",
                )
            axes.scatter(
                after,
                at + above,
                color=colour if name == alignment else CONTROL_COLOUR,
                marker="o" if name == alignment else "D",
                s=28 if name == alignment else 18,
                zorder=4,
                label=f"after {name}",
            )
        if context == "disambig":
            perfect = before["bias_score_perfect_model"]
            axes.scatter(perfect, at, marker="|", s=70, color="0.2", lw=1, zorder=2)
        title = CONTEXT_NAMES[context] if len(models) == 1 else f"{model}, {CONTEXT_NAMES[context]}"
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("s_AMB" if context == "ambig" else "s_DIS")
    first = next(iter(panels.values()))
    _label_attributes(first, rows, set(targeted))
    _legend(figure, first, "bias scores; |: a perfect model; ◀: targeted")
    return figure


def _panels(keys: Sequence[tuple[str, str]], n_columns: int) -> tuple[Figure, dict]:
    """A figure and its panels by key, ``n_columns`` of them in a row."""
    n_rows = len(keys) // n_columns
    figure = Figure(figsize=(8.4, 1.2 + 3.9 * n_rows), layout="constrained")
    axes_of = figure.subplots(n_rows, n_columns, sharey=True, sharex=True, squeeze=False)
    panels = dict(zip(keys, axes_of.flat, strict=True))
    for axes in panels.values():
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.93", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.axvline(0, color="0.6", linewidth=0.8)
    return figure, panels


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
        ncols=3,
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
