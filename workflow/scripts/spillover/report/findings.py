"""What the tables of a study say, in words: every number is read from them.

A part a table, each a list of Markdown paragraphs. Changes are in points, differences of
accuracy times 100.
"""

from collections.abc import Iterable

import pandas as pd

from spillover.report.costs import UNITS
from spillover.report.figures import CONTEXT_NAMES
from spillover.report.words import listed, name_of
from spillover.statistics.ranking import answer
from spillover.statistics.tradeoff import verdicts

# Changes on companion sets, their units, and by what they are multiplied for these.
COSTS = {"language": ("thousandths of a nat a byte", 1000), "ability": ("points", 100)}
VERDICTS = ("improved", "degraded", "equivalent", "inconclusive")


def matrix(table: pd.DataFrame, alpha: float) -> list[str]:
    """What a spillover matrix holds: cells that stand after correction, and the diagonal.

    Parameters
    ----------
    table : ``matrix.tsv`` of one model. Cells net of a control, where there are any.
    alpha : level of the tests.
    """
    minus = table["minus"].fillna("")
    net = table[minus.ne("")] if minus.ne("").any() else table
    controls = set(minus) - {""}
    cells = net[~net["targeted"].astype(bool)]
    paragraphs = [
        f"{net['alignment'].nunique()} alignments, {_what(controls)}: "
        + "; ".join(
            f"of {len(here)} {CONTEXT_NAMES[context]} cells off the diagonal "
            + listed(f"{sum(here['verdict'] == v)} {v}" for v in VERDICTS)
            for context, here in cells.groupby("context")
        )
        + f" (corrected as one family a context; {_span(cells['n_templates'])} templates a cell)."
    ]
    held = cells[cells["verdict"].isin(["improved", "degraded"])]
    if held.empty:
        paragraphs.append("No single cell holds after correction.")
    else:
        paragraphs.append(
            _table(
                ["aligned for", "attribute", "context", "change", "interval", "adjusted p"],
                [
                    [
                        row.alignment,
                        name_of(row.attribute),
                        CONTEXT_NAMES[row.context],
                        points(row.delta_accuracy),
                        interval(row.delta_low, row.delta_high),
                        _p(row.cluster_p_adjusted),
                    ]
                    for row in held.itertuples()
                ],
            )
        )
    bias = cells[cells["bias_p_adjusted"] < alpha]
    paragraphs.append(
        "Bias scores: "
        + (
            "no cell's change holds after correction."
            if bias.empty
            else "; ".join(
                f"{row.alignment} on {name_of(row.attribute)}, {CONTEXT_NAMES[row.context]}, "
                f"{100 * row.delta_bias:+.1f} hundredths (adjusted p {_p(row.bias_p_adjusted)})"
                for row in bias.itertuples()
            )
            + "."
        )
    )
    own = net[net["targeted"].astype(bool) & net["target"].eq(net["attribute"])]
    paragraphs.append(
        "On the diagonal, held-out items of the attribute that was aligned for: "
        + "; ".join(
            f"{CONTEXT_NAMES[context]} {points(here['delta_accuracy'].mean())} in the mean, from "
            f"{points(here['delta_accuracy'].min())} to {points(here['delta_accuracy'].max())}"
            for context, here in own.groupby("context")
        )
        + "."
    )
    return paragraphs


def profiles(table: pd.DataFrame, alpha: float) -> list[str]:
    """Who spills, who suffers, how asymmetric and how similar: ``profiles.tsv`` of one model."""
    paragraphs = []
    for context, name in CONTEXT_NAMES.items():
        here = table[table["context"] == context]
        parts = []
        for measure, column, what in (
            ("spills", "of", "the mean change of what an alignment does not target"),
            ("suffers", "to", "the mean change of an attribute under alignments for others"),
        ):
            rows = here[here["measure"] == measure].sort_values("value")
            if rows.empty:
                continue
            ends = [
                f"{name_of(row[column])} ({points(row['value'])}, "
                f"{interval(row['low'], row['high'])})"
                for row in (rows.iloc[0], rows.iloc[-1])
            ]
            worse, better = (
                sum((rows["p_adjusted"] < alpha) & (sign * rows["value"] > 0)) for sign in (-1, 1)
            )
            parts.append(
                f"{what} goes from {' to '.join(ends)}; {better} of {len(rows)} are for the "
                f"better and {worse} for the worse after correction, and "
                f"{name_of(rows.iloc[0][column])} is the lowest in "
                f"{100 * rows.iloc[0]['worst_share']:.0f} % of draws of templates"
            )
        paragraphs.append(f"In {name} contexts " + ". Here ".join(parts) + ".")
    uneven = table[table["measure"] == "asymmetry"]
    if len(uneven):
        held = uneven[uneven["p_adjusted"] < alpha]
        paragraphs.append(
            f"Of {len(uneven)} pairs of alignments and contexts, {len(held)} do not do to each "
            "other the same, after correction"
            + "".join(
                f"; what {row.of} does to {row.to}'s attribute less what {row.to} does to "
                f"{row.of}'s: {points(row.value)}, {CONTEXT_NAMES[row.context]}"
                for row in held.itertuples()
            )
            + "."
        )
    similar = table[table["measure"] == "similarity"].dropna(subset=["value"])
    if len(similar):
        ends = [similar.loc[similar["low"].idxmax()], similar.loc[similar["high"].idxmin()]]
        paragraphs.append(
            "Similarity of two alignments' effects on what neither targets: of "
            f"{len(similar)} pairs that vary by more than noise {sum(similar['low'] > 0)} have an "
            f"interval above 0 and {sum(similar['high'] < 0)} below; surest to be alike are "
            + ", to be opposed ".join(
                f"{pair['of']} and {pair['to']} "
                f"({pair['value']:.2f}, {pair['low']:.2f} to {pair['high']:.2f})"
                for pair in ends
            )
            + "."
        )
    return paragraphs


def overlap(table: pd.DataFrame) -> list[str]:
    """How far shared words go with change: ``overlap.tsv`` of one model."""
    return [
        "Overlap of vocabulary with the change of a cell (Spearman's correlation; attributes "
        "relabelled for p, corrected within a context):",
        _table(
            ["context", "overlap", "with", "correlation", "interval", "p", "adjusted p"],
            [
                [
                    CONTEXT_NAMES[row.context],
                    row.overlap,
                    row.change,
                    f"{row.correlation:.2f}",
                    f"{row.low:.2f} to {row.high:.2f}",
                    _p(row.p),
                    _p(row.p_adjusted),
                ]
                for row in table.itertuples()
            ],
        ),
    ]


def timing(table: pd.DataFrame) -> list[str]:
    """Whether spillover comes before the gain: ``timing.tsv`` of one model."""
    return [
        _table(
            ["alignment", "context", "target", "untargeted", "lead of the untargeted", "verdict"],
            [
                [
                    row.of + (f" minus {row.minus}" if isinstance(row.minus, str) else ""),
                    CONTEXT_NAMES[row.context],
                    f"{points(row.target_change)} ({interval(row.target_low, row.target_high)})",
                    f"{points(row.spillover_change)} "
                    f"({interval(row.spillover_low, row.spillover_high)})",
                    ""
                    if pd.isna(row.lead)
                    else f"{row.lead:+.2f} ({row.lead_low:+.2f} to {row.lead_high:+.2f})",
                    row.verdict,
                ]
                for row in table.itertuples()
            ],
        )
    ]


def order(table: pd.DataFrame) -> list[str]:
    """What ``timing.tsv`` of one model says of alignments net of their controls, in sentences."""
    net = table[table["minus"].notna()] if table["minus"].notna().any() else table
    return [
        f"{row.of}, {CONTEXT_NAMES[row.context]}: whether other attributes change before the "
        f"target gains: {row.verdict}"
        + (
            ""
            if pd.isna(row.lead)
            else f" (lead {row.lead:+.2f} of training, {row.lead_low:+.2f} to {row.lead_high:+.2f})"
        )
        + "."
        for row in net.itertuples()
    ]


def series(table: pd.DataFrame, along: str) -> list[str]:
    """Change of targeted and untargeted attributes along a quantity: ``trajectory.tsv``.

    Parameters
    ----------
    table : of one model.
    along : ``training``, ``items``, ``strength`` or ``rank``.
    """
    rows = table[(table["along"] == along) & table["attribute"].isin(["targeted", "untargeted"])]
    rows = rows.assign(minus=rows["minus"].fillna(""))
    parts = []
    for of, here in rows.groupby("of", sort=False):
        parts += _series(here, along, of)
    return parts


def _series(rows: pd.DataFrame, along: str, of: str) -> list[str]:
    """One series as a table."""
    net, raw = rows[rows["minus"].ne("")], rows[rows["minus"].eq("")]
    # A point without a control is no part of a series net of it.
    has_controls = set(raw["at"]) == set(net["at"])
    shown = net if has_controls else raw[~raw["alignment"].isin(set(net["minus"]))]
    cells = [(context, pool) for context in CONTEXT_NAMES for pool in ("targeted", "untargeted")]
    by_cell = shown.set_index(["at", "context", "attribute"])

    def told(*key: object) -> str:
        if key not in by_cell.index:
            return ""
        row = by_cell.loc[key]
        parts = ""
        if has_controls:
            own = raw[(raw["alignment"] == row["alignment"]) & (raw["at"] == key[0])]
            own = own.set_index(["context", "attribute"]).loc[key[1:], "delta_accuracy"]
            parts = f"; {points(own)}, control {points(own - row['delta_accuracy'])}"
        ends = interval(row["delta_low"], row["delta_high"])
        return f"{points(row['delta_accuracy'])} ({ends}{parts})"

    net_of = (
        "net of the control (behind each interval both changes)" if has_controls else "as it is"
    )
    return [
        f"{of}: change of accuracy, points, {net_of}:",
        _table(
            [along, *(f"{CONTEXT_NAMES[context]}, {pool}" for context, pool in cells)],
            [[f"{at:g}", *(told(at, *cell) for cell in cells)] for at in sorted(set(shown["at"]))],
        ),
    ]


def ranking(table: pd.DataFrame) -> list[str]:
    """Arms against their reference: ``ranking.tsv`` of one model."""
    reference = table.loc[table["verdict"] == "reference", "arm"].iloc[0]
    paragraphs = [
        "By rule, "
        + "; ".join(
            f"{label}: {answer(table, reference, context)}"
            for context, label in {**CONTEXT_NAMES, "both": "both contexts together"}.items()
        )
        + "."
    ]
    here = table[table["context"] == "both"]
    # What the companion sets say, where there are any.
    costs = {name: unit for name, unit in COSTS.items() if name in here}
    paragraphs.append(
        _table(
            [
                *("arm", "worst untargeted", "its change", "at least", "gain on target", "front"),
                *(f"{name}, {unit}" for name, (unit, _) in costs.items()),
                "",
            ],
            [
                [
                    row.arm,
                    name_of(row.worst_attribute),
                    points(row.worst),
                    points(row.worst_low),
                    f"{points(row.gain)} ({interval(row.gain_low, row.gain_high)})",
                    "yes" if row.on_front else "",
                    *(
                        f"{scale * getattr(row, name):+.1f} "
                        f"({scale * getattr(row, f'{name}_low'):+.1f} to "
                        f"{scale * getattr(row, f'{name}_high'):+.1f})"
                        for name, (_, scale) in costs.items()
                    ),
                    row.verdict,
                ]
                for row in here.itertuples()
            ],
        )
    )
    return paragraphs


def tradeoff(table: pd.DataFrame, ranking: pd.DataFrame) -> list[str]:
    """Whether changes go together over runs, and the companion study's findings.

    Parameters
    ----------
    table, ranking : ``tradeoff.tsv`` and ``ranking.tsv`` of one model.
    """
    return [
        _table(
            ["over runs", "runs", "trainings", "seeds", "correlation", "interval", "p"],
            [
                [
                    f"{row.x} and {row.y}",
                    row.n_runs,
                    row.n_trainings,
                    row.n_seeds,
                    *_correlation(row),
                    _p(row.p),
                ]
                for row in table.itertuples()
            ],
        ),
        "Of the companion study's findings: "
        + "; ".join(f"*{claim}*: {told}" for claim, told in verdicts(table, ranking).items())
        + ".",
    ]


def forgetting(table: pd.DataFrame, alpha: float) -> list[str]:
    """What alignments cost: changes of whole sets that hold, ``forgetting.tsv`` of one model."""
    whole = table[(table["part"] == "all") & table["p"].notna()]
    held = whole[whole["p_adjusted"] < alpha]
    said = (
        f"Of {len(whole)} changes of companion sets {len(held)} hold after correction within an "
        "alignment"
    )
    if held.empty:
        return [f"{said}."]
    rows = [
        [
            row.alignment,
            row.minus if isinstance(row.minus, str) else "the base",
            row.set,
            row.measure,
            unit,
            f"{scale * row.base:.3g}",
            f"{scale * row.change:+.2g}",
            f"{scale * row.change_low:+.2g} to {scale * row.change_high:+.2g}",
            _p(row.p_adjusted),
        ]
        for row in held.itertuples()
        for unit, scale in [UNITS[row.measure]]
    ]
    head = ["alignment", "against", "set", "measure", "in", "was", "change", "interval"]
    head.append("adjusted p")
    return [f"{said}:", _table(head, rows)]


def _correlation(row) -> tuple[str, str]:
    """A correlation and its interval; of runs that differ no more than by noise there is none."""
    if pd.isna(row.correlation):
        return "none", ""
    return f"{row.correlation:.2f}", f"{row.low:.2f} to {row.high:.2f}"


def points(value: float) -> str:
    """A change of accuracy in points, with its sign."""
    return f"{100 * value:+.1f}"


def interval(low: float, high: float) -> str:
    """An interval in points; of one template there is none."""
    return "no interval" if pd.isna(low) else f"{points(low)} to {points(high)}"


def _p(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.2g}"


def _what(controls: set[str]) -> str:
    return "each net of its control" if controls else "without controls"


def _span(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low}" if low == high else f"{low} to {high}"


def _table(head: list[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
