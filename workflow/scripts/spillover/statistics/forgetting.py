"""What an alignment costs: measures of companion sets, before and after, on the same items."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from spillover.core.errors import InputError
from spillover.statistics.companions import (
    MEASURES,
    Jackknifed,
    Measure,
    jackknife,
    moved,
    quantities,
    ratio,
)
from spillover.statistics.corrections import adjust
from spillover.statistics.tables import exact_zeros

COLUMNS = [
    "model",
    "alignment",
    "minus",
    "seeds",
    "set",
    "part",
    "measure",
    "n_items",
    "n_clusters",
    "value",
    "low",
    "high",
    "base",
    "change",
    "change_low",
    "change_high",
    "p",
    "p_adjusted",
]


def forgetting(
    name: str,
    kind: str,
    items: pd.DataFrame,
    base: pd.DataFrame,
    runs: Mapping[object, pd.DataFrame],
    settings: Mapping,
    control: Mapping[object, pd.DataFrame] | None = None,
) -> pd.DataFrame:
    """Measures of one set under an alignment, their change, and that net of its control.

    Parameters
    ----------
    name, kind : of the set (:data:`spillover.data.companions.SETS`).
    items : its items; of each ``cluster`` it is assumed that it is independent of the others.
    base, runs : answers of the base and, by seed, of the alignment.
    settings : ``alpha``.
    control : answers of the control by seed, for rows with its name in place of the base.

    Returns
    -------
    One row a part and measure with the columns of :data:`COLUMNS` from ``set`` to ``p``;
    ``against`` says which rows are net of the control. The mean over seeds of what each measures.

    ``part`` : ``all``, or a group or condition of the items, where the set has several.
    ``value``, ``base`` : with the alignment, and of what it is compared with: the base, or the
        control. ``low``, ``high`` : interval of ``value``.
    ``change`` : ``value`` less ``base``, with its interval; ``p`` of none. Standard errors by the
        jackknife over clusters, Student's t with clusters - 1 degrees: exact where nothing changed
        (p is 1), and for what is not linear too.

    Raises
    ------
    InputError
        If a run lacks an item or answers one twice.
    """
    items = items.reset_index(drop=True)
    before = [quantities(kind, items, base)]
    after = [quantities(kind, items, answers) for answers in runs.values()]
    if not after:
        raise InputError("expected the answers of at least one seed, found none")
    compared = {"base": before}
    if control is not None:
        compared["control"] = [quantities(kind, items, answers) for answers in control.values()]
    distances = [moved(kind, *_aligned(items, base, answers)) for answers in runs.values()]
    rows = []
    for part, chosen in parts(kind, items):
        clusters = items["cluster"][chosen]
        keys = {"set": name, "part": part, "n_items": int(chosen.sum())}
        keys["n_clusters"] = clusters.nunique()
        for measure, how in MEASURES[kind].items():
            value = _told("value", estimate(how, _chosen(after, chosen), clusters), settings)
            for against, other in compared.items():
                tables = (_chosen(after, chosen), _chosen(other, chosen))
                found = _change(how, *tables, clusters)
                row = _told("change", found, settings) | {"p": found.p, "against": against}
                row["base"] = value["value"] - found.value
                rows.append(keys | {"measure": measure} | value | row)
        for measure in distances[0]:
            how = Measure(ratio, (measure, "one"))
            tables = [table[chosen].assign(one=1.0) for table in distances]
            row = _told("value", estimate(how, tables, clusters), settings)
            rows.append(keys | {"measure": measure, "against": "base"} | row)
    return exact_zeros(pd.DataFrame(rows))


def correct(table: pd.DataFrame, method: str) -> pd.DataFrame:
    """Add adjusted p-values.

    A family is one model, alignment and what it is compared with: all measures of all sets, of
    whole sets and of their parts each.
    """
    whole = table["part"].eq("all").map({True: "all", False: "parts"})
    keys = table[["model", "alignment", "minus"]].fillna("").astype(str).agg("/".join, axis=1)
    return table.assign(p_adjusted=adjust(table["p"], keys + "/" + whole, method))[COLUMNS]


def parts(kind: str, items: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    """Each part of a set that is told by itself, and which items are in it."""
    yield "all", pd.Series(True, index=items.index)
    if kind not in ("stereoset", "crows_pairs"):
        return
    columns = ("condition", "group") if kind == "stereoset" else ("group",)
    for column in columns:
        for value in sorted(items[column].unique()):
            yield value, items[column] == value


def estimate(how: Measure, tables: Sequence[pd.DataFrame], clusters: pd.Series) -> Jackknifed:
    """A measure of some items, the mean over seeds, with its error.

    Parameters
    ----------
    tables : the quantities of each seed.
    """
    of = _over_seeds(how, tables, clusters)
    return jackknife(of, clusters.nunique())


def sums_of(how: Measure, values: pd.DataFrame, clusters: pd.Series) -> np.ndarray:
    """Sums of a measure's quantities over each cluster, (k, m)."""
    return values[[*how.columns]].groupby(clusters, sort=True).sum().to_numpy()


def _over_seeds(
    how: Measure, tables: Sequence[pd.DataFrame], clusters: pd.Series
) -> Callable[[np.ndarray], np.ndarray]:
    """A measure as a function of the clusters' weights: its mean over seeds.

    Of what is not linear the mean of the seeds' values is not that of their mean answers.
    """
    sums = [sums_of(how, table, clusters) for table in tables]

    def mean(weights: np.ndarray) -> np.ndarray:
        return how.scale * np.mean([how.statistic(weights, each) for each in sums], axis=0)

    return mean


def _change(
    how: Measure,
    after: Sequence[pd.DataFrame],
    before: Sequence[pd.DataFrame],
    clusters: pd.Series,
) -> Jackknifed:
    """A measure with an alignment less that without."""
    of, to = (_over_seeds(how, tables, clusters) for tables in (after, before))

    def difference(weights: np.ndarray) -> np.ndarray:
        found = of(weights) - to(weights)
        found[np.abs(found) < 1e-12] = 0.0
        return found

    return jackknife(difference, clusters.nunique())


def _told(what: str, found: Jackknifed, settings: Mapping) -> dict[str, float]:
    """An estimate with its interval: columns ``value, low, high`` or ``change, change_low, …``."""
    low, high = found.interval(settings["alpha"])
    prefix = "" if what == "value" else f"{what}_"
    return {what: found.value, f"{prefix}low": low, f"{prefix}high": high}


def _chosen(tables: Sequence[pd.DataFrame], chosen: pd.Series) -> list[pd.DataFrame]:
    return [table[chosen] for table in tables]


def _aligned(items: pd.DataFrame, *answers: pd.DataFrame) -> list[pd.DataFrame]:
    return [table.set_index("item_id").loc[items["item_id"]].reset_index() for table in answers]
