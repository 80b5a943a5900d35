"""Changes along a quantity: a share of training, a number of items, a strength, a rank.

Does spillover come before, with or after what the alignment gains on its target?
"""

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd
from scipy import stats

from spillover.statistics.changes import stream
from spillover.statistics.clustered import clustered_mean, draw_clusters
from spillover.statistics.tables import exact_zeros

COLUMNS = [
    "model",
    "along",
    "of",
    "at",
    "alignment",
    "minus",
    "attribute",
    "context",
    "targeted",
    "n_items",
    "n_templates",
    "delta_accuracy",
    "delta_low",
    "delta_high",
]
TIMING_COLUMNS = [
    "model",
    "of",
    "minus",
    "context",
    "target_change",
    "target_low",
    "target_high",
    "spillover_change",
    "spillover_low",
    "spillover_high",
    "lead",
    "lead_low",
    "lead_high",
    "verdict",
]
# Attributes together, and whether they are the targets.
POOLED = {"targeted": True, "untargeted": False}


def kinds_of(alignment: str, controls: Mapping[str, str]) -> dict[str, tuple[str, str | None]]:
    """What is followed of an alignment, as the one that changes and the one it is net of.

    ``raw`` is the alignment as it is; with a control there are ``control``, that as it is, and
    ``net``, the one without the other.
    """
    control = controls.get(alignment)
    if control is None:
        return {"raw": (alignment, None)}
    return {"raw": (alignment, None), "control": (control, None), "net": (alignment, control)}


def point(
    items: pd.DataFrame, change: pd.Series, targeted: Collection[str], alpha: float
) -> pd.DataFrame:
    """Changes at one point of a series, by attribute and context, and pooled.

    Parameters
    ----------
    items : ``item_id``, ``attribute``, ``context_condition``, ``template``.
    change : of each item its change of correctness, by ``item_id``; others are left aside.
    targeted : the attributes that the alignment targets.
    alpha : the intervals, by template, are at level 1 - alpha.

    Returns
    -------
    One row an attribute and context, and one for the ``targeted`` and the ``untargeted``
    attributes together, with the columns of :data:`COLUMNS` from ``attribute`` on.
    """
    table = _joined(items, change, targeted)
    rows = []
    for context, here in table.groupby("context_condition"):
        cells = dict(list(here.groupby("attribute")))
        cells |= {name: here[here["targeted"] == is_so] for name, is_so in POOLED.items()}
        for name, cell in cells.items():
            if len(cell):
                estimate = clustered_mean(cell["change"].to_numpy(), cell["template"].to_numpy())
                low, high = estimate.interval(alpha)
                rows.append(
                    {
                        "attribute": name,
                        "context": context,
                        "targeted": bool(cell["targeted"].iloc[0]),
                        "n_items": len(cell),
                        "n_templates": estimate.clusters,
                        "delta_accuracy": estimate.value,
                        "delta_low": low,
                        "delta_high": high,
                    }
                )
    return exact_zeros(pd.DataFrame(rows))


def timing(
    items: pd.DataFrame,
    changes: Mapping[float, pd.Series],
    targeted: Collection[str],
    settings: Mapping,
) -> pd.DataFrame:
    """Whether untargeted attributes change before, with or after the targeted ones.

    A change's progress at a share of training is the change there over that at the end. ``lead``
    is the area between the progress of the untargeted attributes together and that of the
    targeted ones, over training from 0 to 1 (trapezia; both begin at 0 and end at 1): positive
    where spillover comes first, and half of what it would be if it came at once and the target's
    gain only in the end. Intervals by drawing templates anew within attributes (percentiles,
    expanded for how few templates the smaller of the two pools has).

    Parameters
    ----------
    changes : of each share of training each item's change; 1 is the end.
    settings : ``alpha``, ``resamples``, ``seed``.

    Returns
    -------
    One row a context, with the columns of :data:`TIMING_COLUMNS` from ``context`` on.
    ``verdict`` is ``before`` or ``after`` if the interval of ``lead`` is on one side of 0,
    ``not told apart`` if it holds 0, and ``no change to time`` if one of the two changes at the
    end is not distinguished from 0: a progress is then a ratio of noise.
    """
    shares = sorted(changes)
    tables = [_joined(items, changes[share], targeted) for share in shares]
    rows = []
    for context in sorted(tables[-1]["context_condition"].unique()):
        here = [table[table["context_condition"] == context] for table in tables]
        last = here[-1]
        ends = {
            name: clustered_mean(cell["change"].to_numpy(), cell["template"].to_numpy())
            for name, is_so in POOLED.items()
            for cell in [last[last["targeted"] == is_so]]
        }
        (target_low, target_high), (low, high) = (
            ends[name].interval(settings["alpha"]) for name in POOLED
        )
        row = {
            "context": context,
            "target_change": ends["targeted"].value,
            "target_low": target_low,
            "target_high": target_high,
            "spillover_change": ends["untargeted"].value,
            "spillover_low": low,
            "spillover_high": high,
        }
        if not (_apart(target_low, target_high) and _apart(low, high)):
            rows.append(row | {"verdict": "no change to time"})
            continue
        drawn = _leads(here, [0.0, *shares], settings)
        tail = _expanded(settings["alpha"], min(end.clusters for end in ends.values()))
        lead_low, lead_high = np.nanquantile(drawn[1:], [tail, 1 - tail])
        side = "before" if lead_low > 0 else "after" if lead_high < 0 else "not told apart"
        row |= {"lead": drawn[0], "lead_low": lead_low, "lead_high": lead_high, "verdict": side}
        rows.append(row)
    columns = TIMING_COLUMNS[TIMING_COLUMNS.index("context") :]
    return pd.DataFrame(rows, columns=columns)


def _joined(items: pd.DataFrame, change: pd.Series, targeted: Collection[str]) -> pd.DataFrame:
    """Items with their change, in the items' order."""
    table = items[items["item_id"].isin(change.index)]
    table = table[["item_id", "attribute", "context_condition", "template"]]
    return table.assign(
        change=change.loc[table["item_id"]].to_numpy(),
        targeted=table["attribute"].isin(list(targeted)),
    )


def _apart(low: float, high: float) -> bool:
    """Whether an interval does not hold 0."""
    return low > 0 or high < 0


def _expanded(alpha: float, clusters: int) -> float:
    """Tail of a percentile interval that is as long as one by Student's t (Hesterberg 2015).

    With few clusters plain percentiles are as narrow as a normal distribution's.
    """
    return float(stats.norm.cdf(stats.t.ppf(alpha / 2, clusters - 1)))


def _leads(here: list[pd.DataFrame], shares: list[float], settings: Mapping) -> np.ndarray:
    """Lead of the items as they are, and of as many draws of templates."""
    last = here[-1]
    means = {}
    for name, is_so in POOLED.items():
        sums = np.zeros((settings["resamples"] + 1, len(here)))
        counts = np.zeros((settings["resamples"] + 1, 1))
        for _, of in last[last["targeted"] == is_so].groupby("attribute"):
            codes, templates = pd.factorize(of["template"])
            k = len(templates)
            weights = draw_clusters(k, settings["resamples"], stream(settings, of))
            at = np.column_stack(
                [np.bincount(codes, table.loc[of.index, "change"], minlength=k) for table in here]
            )
            sums += weights @ at
            counts += weights @ np.bincount(codes, minlength=k)[:, None]
        means[name] = sums / counts
    with np.errstate(invalid="ignore", divide="ignore"):
        progress = {name: values / values[:, -1:] for name, values in means.items()}
    ahead = progress["untargeted"] - progress["targeted"]
    ahead = np.column_stack([np.zeros(len(ahead)), ahead])
    return np.trapezoid(ahead, shares, axis=1)
