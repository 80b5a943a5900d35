"""What a spillover matrix says as a whole: who spills, who suffers, and who resembles whom.

Everything is off the diagonal: a targeted attribute's change is not spillover. Items are the
same for all alignments but where one targets them, so that sums over alignments are taken item
by item first, and what is left varies by template.
"""

import itertools
from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd
from scipy import stats

from spillover.statistics import denoised
from spillover.statistics.changes import stream
from spillover.statistics.clustered import ClusteredMean, clustered_mean, draw_clusters, sign_flip_p
from spillover.statistics.corrections import adjust
from spillover.statistics.tables import exact_zeros

COLUMNS = [
    "measure",
    "of",
    "to",
    "context",
    "n_items",
    "n_templates",
    "value",
    "low",
    "high",
    "p",
    "p_adjusted",
    "worst_share",
]


def profiles(
    items: pd.DataFrame,
    changes: Mapping[str, pd.Series],
    targets: Mapping[str, Collection[str]],
    settings: Mapping,
) -> pd.DataFrame:
    """Summaries of one model's matrix, with intervals.

    Parameters
    ----------
    items : ``item_id``, ``attribute``, ``context_condition``, ``template`` of the study's items.
    changes : of each alignment its items' change of correctness, net of its control where it
        has one, by ``item_id``.
    targets : of each alignment the attributes that it targets.
    settings : ``alpha``, ``resamples``, ``correction``, ``seed``.

    Returns
    -------
    One row a measure and context:

    ``spills`` : mean change over the attributes that alignment ``of`` does not target, items
        weighted alike; ``worst_share`` is how often, when templates are drawn anew, no other
        alignment's is lower.
    ``suffers`` : mean change of attribute ``to`` over the alignments that do not target it;
        ``worst_share`` likewise among attributes.
    ``asymmetry`` : what ``of`` does to the target of ``to``, minus what that does to its own,
        for alignments of one target each; different items, so the variances add up (Welch).
    ``similarity`` : Pearson correlation of two alignments' changes over attributes and contexts
        (``context``: ``both``) that neither targets, less what noise adds to it; interval by
        drawing templates anew within attributes (percentiles).

    p-values are corrected among the rows of one measure and context; a similarity has none.
    """
    names = list(changes)
    wide = items.set_index("item_id")[["attribute", "context_condition", "template"]]
    for name in names:
        untargeted = ~wide["attribute"].isin(list(targets[name]))
        wide[name] = changes[name].reindex(wide.index).where(untargeted)
    wide = wide[wide[names].notna().any(axis=1)]
    drawn = _Drawn(wide, names, settings)
    rows = []
    for context, table in wide.groupby("context_condition"):
        spills, suffers = drawn.worst(context)
        cells = _cells(table, names)
        found = [
            {"measure": "spills", "of": name, "worst_share": spills[name]}
            | _mean(table.loc[table[name].notna()], table[name].dropna(), settings)
            for name in names
            if table[name].notna().any()
        ]
        found += [
            {"measure": "suffers", "to": attribute, "worst_share": suffers[attribute]}
            | _mean(some, some[names].mean(axis=1), settings)
            for attribute, some in table.groupby("attribute")
        ]
        found += [
            {"measure": "asymmetry", "of": one, "to": other}
            | _asymmetry(cells, one, other, targets, settings)
            for one, other in itertools.combinations(names, 2)
            if len(targets[one]) == len(targets[other]) == 1 and targets[one] != targets[other]
        ]
        rows += [row | {"context": context} for row in found]
    rows += [
        {"measure": "similarity", "of": one, "to": other, "context": "both"}
        | drawn.similarity(one, other, settings["alpha"])
        for one, other in itertools.combinations(names, 2)
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    table["p_adjusted"] = adjust(
        table["p"], table["measure"] + "/" + table["context"], settings["correction"]
    )
    return exact_zeros(table)


def _mean(items: pd.DataFrame, values: pd.Series, settings: Mapping) -> dict:
    """A clustered mean with interval and test."""
    values, templates = values.to_numpy().copy(), items["template"].to_numpy()
    values[np.abs(values) < 1e-9] = 0.0
    estimate = clustered_mean(values, templates)
    low, high = estimate.interval(settings["alpha"])
    return {
        "n_items": len(values),
        "n_templates": estimate.clusters,
        "value": estimate.value,
        "low": low,
        "high": high,
        "p": sign_flip_p(values, templates, settings["resamples"], stream(settings, items)),
    }


def _cells(table: pd.DataFrame, names: list[str]) -> dict[tuple[str, str], ClusteredMean]:
    """Mean change by each alignment of each attribute that is there."""
    cells = {}
    for attribute, of in table.groupby("attribute"):
        templates = of["template"].to_numpy()
        for name in names:
            values = of[name].to_numpy()
            known = ~np.isnan(values)
            cells[name, attribute] = clustered_mean(values[known], templates[known])
    return cells


def _asymmetry(cells: Mapping, one: str, other: str, targets: Mapping, settings: Mapping) -> dict:
    """Of two means on different items the difference, by Welch's t."""
    absent = ClusteredMean(np.nan, np.nan, 0)
    there, back = (
        cells.get((name, next(iter(targets[target]))), absent)
        for name, target in ((one, other), (other, one))
    )
    variances = np.array([there.se**2, back.se**2])
    degrees = np.array([there.clusters - 1, back.clusters - 1])
    se, value = np.sqrt(variances.sum()), there.value - back.value
    found = {"n_templates": there.clusters + back.clusters, "value": value}
    if not se > 0:
        return found
    df = variances.sum() ** 2 / np.sum(variances**2 / degrees)
    half = stats.t.ppf(1 - settings["alpha"] / 2, df) * se
    p = 2 * stats.t.sf(abs(value) / se, df)
    return found | {"low": value - half, "high": value + half, "p": p}


class _Drawn:
    """Every cell of a matrix, with templates drawn anew within attributes many times.

    ``sums`` and ``counts`` are (draws, attributes, contexts, alignments); the first draw is the
    items as they are.
    """

    def __init__(self, wide: pd.DataFrame, names: list[str], settings: Mapping):
        self.names, self.attributes = names, sorted(wide["attribute"].unique())
        self.contexts = sorted(wide["context_condition"].unique())
        shape = (settings["resamples"] + 1, len(self.attributes), len(self.contexts), len(names))
        self.sums, self.counts = np.zeros(shape), np.zeros(shape)
        self.varies = np.zeros((len(self.attributes), 1), dtype=bool)
        for i, attribute in enumerate(self.attributes):
            of = wide[wide["attribute"] == attribute]
            codes, templates = pd.factorize(of["template"])
            k = len(templates)
            self.varies[i] = k > 1
            weights = draw_clusters(k, settings["resamples"], stream(settings, of))
            for j, context in enumerate(self.contexts):
                here = (of["context_condition"] == context).to_numpy()
                values = of.loc[here, names].to_numpy(float)
                by_template = np.zeros((2, k, len(names)))
                np.add.at(by_template[0], codes[here], np.nan_to_num(values))
                np.add.at(by_template[1], codes[here], ~np.isnan(values))
                self.sums[:, i, j] = weights @ by_template[0]
                self.counts[:, i, j] = weights @ by_template[1]

    def worst(self, context: str) -> tuple[dict[str, float], dict[str, float]]:
        """How often an alignment's mean, and an attribute's, is the lowest of all."""
        j = self.contexts.index(context)
        sums, counts = self.sums[1:, :, j], self.counts[1:, :, j]
        by_name = _lowest(sums.sum(1), counts.sum(1))
        by_attribute = _lowest(sums.sum(2), counts.sum(2))
        return (
            dict(zip(self.names, by_name, strict=True)),
            dict(zip(self.attributes, by_attribute, strict=True)),
        )

    def similarity(self, one: str, other: str, alpha: float) -> dict:
        """Correlation of two alignments' cells, those that both have, with percentiles.

        Cells of one template, whose noise nobody knows, are left out.

        Noise is taken off (:mod:`spillover.statistics.denoised`): alignments share items and a
        base. Where cells vary no more than by noise there is no correlation.
        """
        of, to = (self.names.index(name) for name in (one, other))
        both = (self.counts[0, :, :, of] > 0) & (self.counts[0, :, :, to] > 0) & self.varies
        if both.sum() < 3:
            return {}
        with np.errstate(invalid="ignore", divide="ignore"):
            x, y = ((self.sums[..., name] / self.counts[..., name])[:, both] for name in (of, to))
        r = denoised.correlation(x, y)
        low, high = denoised.interval(r, alpha)
        return {"value": r[0], "low": low, "high": high}


def _lowest(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Share of draws (rows) in which each column's mean is the lowest; ties count for each."""
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(counts > 0, sums / counts, np.inf)
    return (means <= means.min(1, keepdims=True) + 1e-12).mean(0)
