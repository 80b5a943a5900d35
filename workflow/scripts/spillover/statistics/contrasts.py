"""What an alignment has that its control has not: differences between two changes.

The change of an alignment and that of its control are taken from the same base on the same
items, so that item by item the base cancels and what is left is their difference. Everything
else is as for a change: seeds and option orders averaged first, clustered by template, corrected
over attributes.
"""

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import pandas as pd

from spillover.statistics import outcomes
from spillover.statistics.bias import bias_difference
from spillover.statistics.changes import Paired, pair, stream
from spillover.statistics.clustered import clustered_mean, equivalence_p, sign_flip_p
from spillover.statistics.corrections import adjust, verdicts
from spillover.statistics.tables import exact_zeros

COLUMNS = [
    "contrast",
    "model",
    "of",
    "minus",
    "attribute",
    "context",
    "n_items",
    "n_templates",
    "change_of",
    "change_minus",
    "difference",
    "difference_low",
    "difference_high",
    "cluster_p",
    "cluster_p_adjusted",
    "bias_difference",
    "bias_difference_low",
    "bias_difference_high",
    "bias_p",
    "bias_p_adjusted",
    "verdict",
    "equivalence_p",
    "changed",
    "option_kl",
]


def contrast(
    items: pd.DataFrame,
    of: Mapping[object, pd.DataFrame],
    minus: Mapping[object, pd.DataFrame],
    settings: Mapping,
    base: pd.DataFrame | None = None,
    targeted: Collection[str] = (),
) -> pd.DataFrame:
    """Difference of two runs' accuracy and bias, by attribute and context, and pooled.

    Parameters
    ----------
    items : the items to compare; predictions of others are left aside.
    of, minus : predictions by the same seeds, for the same items and option orders.
    settings : ``alpha``, ``equivalence_margin``, ``resamples``, ``correction``, ``seed``.
    base : predictions of the run that both are changes from. Without it, ``of`` and ``minus``
        are bases themselves.
    targeted : attributes that the alignments are for.

    Returns
    -------
    One row an attribute and context; and pooled over the attributes, ``untargeted`` (if there
    are targeted ones) and ``all``, one a context and one for ``both``. The columns are those of
    ``COLUMNS`` from ``attribute`` on:

    ``change_of``, ``change_minus`` : change of accuracy from the base; without a base, accuracy.
    ``difference`` : the first minus the second (difference in differences), with its interval.
    ``bias_difference`` : the same for the bias score; undefined in both contexts together.
    ``cluster_p_adjusted``, ``bias_p_adjusted`` : a family is the untargeted attributes in one
        context. A targeted attribute keeps its raw p-value. A pooled set's family is its
        contexts.
    ``verdict`` : ``improved`` says that ``of`` changed for the better, compared with ``minus``.
    ``changed``, ``option_kl`` : share of answers that are another option in ``of`` than in
        ``minus``, and divergence of the options from those of ``minus`` (nats), seed by seed.

    Raises
    ------
    InputError
        If a run lacks an item, answers one twice, or was asked in other option orders.
    """
    reference = base if base is not None else next(iter(minus.values()))
    first, second = (pair(items, reference, runs) for runs in (of, minus))
    by_seed = [pair(items, minus[seed], {seed: of[seed]}) for seed in of if seed in minus]
    moved = {
        column: np.mean([getattr(paired, column) for paired in by_seed], axis=0)
        for column in ("changed", "option_kl")
    }
    rows = [
        {"attribute": name, "context": context}
        | _difference(first, second, np.flatnonzero(chosen), context, settings, base is None)
        | {column: values[chosen].mean() for column, values in moved.items()}
        for name, context, chosen in _cells(first.items, targeted)
    ]
    table = exact_zeros(pd.DataFrame(rows))
    pooled = table["attribute"].isin(["all", "untargeted"])
    family = table["attribute"].where(pooled, table["context"])
    family = family.where(~table["attribute"].isin(list(targeted)))
    for p in ("cluster_p", "bias_p"):
        table[f"{p}_adjusted"] = adjust(table[p], family, settings["correction"])
    table["verdict"] = verdicts(
        table["difference"], table["cluster_p_adjusted"], table["equivalence_p"], settings["alpha"]
    )
    return table[COLUMNS[COLUMNS.index("attribute") :]]


def _cells(items: pd.DataFrame, targeted: Collection[str]) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield each row's attribute (or set of them), context, and its items as a boolean array."""
    attribute = items["attribute"].to_numpy()
    contexts = {name: (items["context_condition"] == name).to_numpy() for name in outcomes.CONTEXTS}
    for name in sorted(set(attribute)):
        for context, in_context in contexts.items():
            if ((attribute == name) & in_context).any():
                yield name, context, (attribute == name) & in_context
    everywhere = np.ones(len(items), dtype=bool)
    untargeted = ~items["attribute"].isin(list(targeted)).to_numpy()
    sets = {"untargeted": untargeted} if targeted and untargeted.any() else {}
    for name, in_set in (sets | {"all": everywhere}).items():
        for context, in_context in (contexts | {"both": everywhere}).items():
            if (in_set & in_context).any():
                yield name, context, in_set & in_context


def _difference(
    first: Paired,
    second: Paired,
    rows: np.ndarray,
    context: str,
    settings: Mapping,
    levels: bool,
) -> dict:
    """Everything about the difference on some items; ``levels`` gives accuracies, not changes."""
    items = first.items.iloc[rows]
    value = first.change[rows] - second.change[rows]
    value[np.abs(value) < 1e-9] = 0.0
    templates = items["template"].to_numpy()
    estimate = clustered_mean(value, templates)
    low, high = estimate.interval(settings["alpha"])
    resamples, signs = settings["resamples"], stream(settings, items)
    bias, bias_low, bias_high, bias_p = [np.nan] * 4
    if context != "both":
        scored = items["target"].notna().to_numpy()
        of, minus = (paired.aligned.iloc[rows[scored]] for paired in (first, second))
        bias, bias_low, bias_high, bias_p = bias_difference(
            of, minus, templates[scored], context, settings, signs
        )
    change_of, change_minus = (
        (paired.aligned["correct"].to_numpy() if levels else paired.change)[rows].mean()
        for paired in (first, second)
    )
    return {
        "n_items": len(rows),
        "n_templates": estimate.clusters,
        "change_of": change_of,
        "change_minus": change_minus,
        "difference": estimate.value,
        "difference_low": low,
        "difference_high": high,
        "cluster_p": sign_flip_p(value, templates, resamples, signs),
        "equivalence_p": equivalence_p(estimate, settings["equivalence_margin"]),
        "bias_difference": bias,
        "bias_difference_low": bias_low,
        "bias_difference_high": bias_high,
        "bias_p": bias_p,
    }
