"""Arms against a reference: which does the same with less harm to other attributes.

An arm is an alignment. It is judged by the attribute that it changes for the worst, among those
that no arm was trained on, by what it gains on the target, and by the others taken together.
"""

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import pandas as pd
from scipy import stats

from spillover.statistics.changes import stream
from spillover.statistics.clustered import ClusteredMean, clustered_mean, sign_flip_p
from spillover.statistics.corrections import adjust
from spillover.statistics.outcomes import CONTEXTS
from spillover.statistics.tables import exact_zeros

COLUMNS = [
    "model",
    "arm",
    "context",
    "worst_attribute",
    "worst",
    "worst_low",
    "worst_difference",
    "worst_p",
    "worst_p_adjusted",
    "gain",
    "gain_low",
    "gain_high",
    "gain_templates",
    "gain_difference",
    "gain_p",
    "gain_p_adjusted",
    "kept_p",
    "kept_p_adjusted",
    "others",
    "others_low",
    "others_high",
    "on_front",
    "verdict",
]
# Share of the reference's gain that an arm must be shown to keep to be better.
KEPT = 0.5


def ranking(
    items: pd.DataFrame,
    changes: Mapping[str, pd.Series],
    reference: str,
    targets: Collection[str],
    judged: Collection[str],
    settings: Mapping,
) -> pd.DataFrame:
    """Every arm of one model, the best by its worst attribute first.

    Parameters
    ----------
    items : ``item_id``, ``attribute``, ``context_condition``, ``template``.
    changes : of each arm its items' change of correctness from the base, by ``item_id``.
    reference : the arm that the others are compared with.
    targets : attributes that the arms are to gain on; of their items those that all arms hold out.
    judged : attributes that no arm was trained on.
    settings : ``alpha``, ``resamples``, ``correction``, ``seed``.

    Returns
    -------
    One row an arm and context (``ambig``, ``disambig``, ``both``), with the columns of
    :data:`COLUMNS` from ``arm`` on:

    ``worst_attribute``, ``worst`` : the judged attribute with the lowest mean change, and that.
    ``worst_low`` : lower end of the simultaneous interval of the judged attributes' changes, at
        the attribute where it is lowest. Attributes have no template in common, so their means
        are independent and Sidak's level, (1 - alpha)^(1 / attributes), is exact for all.
    ``worst_difference`` : ``worst`` minus that of the reference.
    ``worst_p`` : of lowest attributes that do not differ, :func:`_lowest_differ_p`.
    ``gain``, ``gain_difference``, ``gain_p`` : mean change on the targets with its interval, and
        minus the reference's, by sign flips of templates.
    ``kept_p`` : of an arm that gains nothing, or keeps no more than half of the reference's
        gain, one-sided, by Student's t of what it gains and of what it gains beyond that half:
        the margin of a non-inferiority test that preserves a share of an effect.
    ``gain_templates`` : templates of the targets' items that every arm has held out.
    ``others`` : mean change of the judged attributes together.
    ``on_front`` : no other arm has both a higher ``worst_low`` and a higher ``gain`` (one of them
        may be equal).
    ``verdict`` : ``worse`` where ``worst`` is lower than the reference's after correction over
        the arms of a context. Where it is higher: ``better`` if half of the gain is kept by the
        same rule, ``less harm, gains less`` if the gain is lower by it, ``less harm, gain in
        doubt`` if neither is shown. ``not told apart`` otherwise.

    Raises
    ------
    ValueError
        If an arm lacks an item that another has answered.
    """
    kept = _common(items, changes, targets, judged)
    rows = []
    for context, here in _contexts(kept):
        others, target = (here[here["attribute"].isin(list(names))] for names in (judged, targets))
        for arm in changes:
            row = {"arm": arm, "context": context, **_worst(others, arm, settings)}
            for what, of in (("gain", target), ("others", others)):
                estimate = _mean(of, arm)
                row[what] = estimate.value
                row[f"{what}_low"], row[f"{what}_high"] = estimate.interval(settings["alpha"])
            row["gain_templates"] = target["template"].nunique()
            if arm != reference:
                row |= _against(others, target, arm, reference, settings)
            rows.append(row)
    table = exact_zeros(pd.DataFrame(rows))
    for what in ("worst", "gain", "kept"):
        table[f"{what}_p_adjusted"] = adjust(
            table[f"{what}_p"], table["context"], settings["correction"]
        )
    table["on_front"] = [
        not _beaten(row, table[table["context"] == row.context]) for row in table.itertuples()
    ]
    table["verdict"] = [_verdict(row, reference, settings["alpha"]) for row in table.itertuples()]
    order = {"ambig": 0, "disambig": 1, "both": 2}
    table = table.sort_values(
        ["context", "worst_low"],
        key=lambda column: column.map(order) if column.name == "context" else -column,
        kind="stable",
    )
    return table[COLUMNS[COLUMNS.index("arm") :]].reset_index(drop=True)


def answer(table: pd.DataFrame, reference: str, context: str) -> str:
    """In words which arms are better than the reference in a context of one model's ranking."""
    here = table[table["context"] == context]
    better = here.loc[here["verdict"] == "better", "arm"].tolist()
    if better:
        return f"better than {reference}: {', '.join(better)}"
    costly = [
        f"{', '.join(arms)} ({gain})"
        for gain in ("gains less", "gain in doubt")
        if (arms := here.loc[here["verdict"] == f"less harm, {gain}", "arm"].tolist())
    ]
    less = f"; less harm: {', '.join(costly)}" if costly else ""
    return f"no arm is better than {reference}{less}"


def _common(items, changes, targets, judged) -> pd.DataFrame:
    """Items of targets and judged attributes that every arm was asked, with all arms' changes."""
    wide = items[items["attribute"].isin([*targets, *judged])].set_index("item_id")
    wide = wide[["attribute", "context_condition", "template"]]
    for arm, change in changes.items():
        wide[arm] = change.reindex(wide.index)
    complete = wide[wide[list(changes)].notna().all(axis=1)].copy()
    for attribute in [*targets, *judged]:
        if not complete["attribute"].eq(attribute).any():
            raise ValueError(f"no item of {attribute} was asked of every arm")
    return complete


def _contexts(wide: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for context in CONTEXTS:
        yield context, wide[wide["context_condition"] == context]
    yield "both", wide


def _mean(items: pd.DataFrame, arm: str) -> ClusteredMean:
    return clustered_mean(items[arm].to_numpy(), items["template"].to_numpy())


def _worst(others: pd.DataFrame, arm: str, settings: Mapping) -> dict:
    """The attribute with the lowest mean, and the lowest end of simultaneous intervals."""
    means = {name: _mean(cell, arm) for name, cell in others.groupby("attribute")}
    level = 1 - (1 - settings["alpha"]) ** (1 / len(means))
    lowest = min(means, key=lambda name: means[name].value)
    return {
        "worst_attribute": lowest,
        "worst": means[lowest].value,
        "worst_low": np.min([mean.interval(level)[0] for mean in means.values()]),
    }


def _against(others, target, arm: str, reference: str, settings: Mapping) -> dict:
    """Differences from the reference on the same items, with tests."""
    gained = (target[arm] - target[reference]).to_numpy().copy()
    gained[np.abs(gained) < 1e-9] = 0.0
    templates = target["template"].to_numpy()
    kept = [
        _above_zero_p(clustered_mean(values.to_numpy(), templates))
        for values in (target[arm], target[arm] - KEPT * target[reference])
    ]
    return {
        "worst_difference": _lowest(others, arm) - _lowest(others, reference),
        "worst_p": _lowest_differ_p(others, arm, reference),
        "gain_difference": gained.mean(),
        "gain_p": sign_flip_p(gained, templates, settings["resamples"], stream(settings, target)),
        # Half of a loss is no gain that is kept.
        "kept_p": max(kept),
    }


def _lowest(others: pd.DataFrame, arm: str) -> float:
    return others.groupby("attribute")[arm].mean().min()


def _lowest_differ_p(others: pd.DataFrame, arm: str, reference: str) -> float:
    """p-value of two arms whose lowest attributes do not differ.

    That an arm's lowest mean is above the reference's says that for *some* attribute of the
    reference *every* attribute of the arm is above it: the largest p of one-sided t-tests (an
    intersection-union test, Berger 1982), and of the reference's attributes the smallest of
    these by Bonferroni. Likewise for below. It holds its level whatever the other attributes do;
    swapping the arms' answers, or drawing templates anew, does not: the lowest of several alike
    is low by chance, and lower than that of one alone.
    """
    cells = [cell for _, cell in others.groupby("attribute")]
    of, to = ([_mean(cell, name) for cell in cells] for name in (arm, reference))
    above = np.empty((len(cells), len(cells)))
    for i, j in np.ndindex(*above.shape):
        if i == j:
            values = (cells[i][arm] - cells[i][reference]).to_numpy().copy()
            values[np.abs(values) < 1e-9] = 0.0
            difference = clustered_mean(values, cells[i]["template"].to_numpy())
        else:
            difference = _independent(of[i], to[j])
        above[i, j] = _above_zero_p(difference)
    higher, lower = above.max(axis=0).min(), (1 - above).max(axis=1).min()
    return float(min(1.0, 2 * len(cells) * min(higher, lower)))


def _independent(one: ClusteredMean, other: ClusteredMean) -> ClusteredMean:
    """Difference of two means that share no template; Welch's degrees, as clusters less one."""
    variances = [mean.se**2 for mean in (one, other)]
    degrees = [mean.clusters - 1 for mean in (one, other)]
    parts = sum(v**2 / max(k, 1) for v, k in zip(variances, degrees, strict=True))
    degrees = sum(variances) ** 2 / parts if parts else 1.0
    return ClusteredMean(one.value - other.value, float(np.sqrt(sum(variances))), degrees + 1)


def _above_zero_p(mean: ClusteredMean) -> float:
    """One-sided p-value of a mean that is not above 0."""
    if mean.se == 0:
        return 0.5 if mean.value == 0 else float(mean.value < 0)
    return float(stats.t.sf(mean.value / mean.se, mean.clusters - 1))


def _beaten(row, here: pd.DataFrame) -> bool:
    """Whether another arm is at least as good in both, and better in one."""
    others = here[here["arm"] != row.arm]
    as_good = (others["worst_low"] >= row.worst_low) & (others["gain"] >= row.gain)
    better = (others["worst_low"] > row.worst_low) | (others["gain"] > row.gain)
    return bool((as_good & better).any())


def _verdict(row, reference: str, alpha: float) -> str:
    if row.arm == reference:
        return "reference"
    if not row.worst_p_adjusted < alpha:
        return "not told apart"
    if row.worst_difference < 0:
        return "worse"
    if row.kept_p_adjusted < alpha:
        return "better"
    loses = row.gain_p_adjusted < alpha and row.gain_difference < 0
    return f"less harm, {'gains less' if loses else 'gain in doubt'}"
