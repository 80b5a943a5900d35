"""Did alignment change fairness, and how sure can one be?

Everything is paired: the same items, before and after. Seeds and option orders are averaged item
by item first, and what is left varies by template, so tests and intervals are clustered by it.
McNemar's test, which takes every item for an independent observation, stands beside them.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from spillover.core.errors import InputError
from spillover.statistics import outcomes
from spillover.statistics.bias import bias_difference, bias_values
from spillover.statistics.clustered import clustered_mean, equivalence_p, sign_flip_p
from spillover.statistics.corrections import adjust, family_sizes, verdicts
from spillover.statistics.tables import exact_zeros, mean

POWER = 0.8  # of the minimum detectable change

SPILLOVER_COLUMNS = [
    "model",
    "alignment",
    "seeds",
    "targeted",
    "attribute",
    "context",
    "n_items",
    "n_templates",
    "accuracy_base",
    "accuracy_aligned",
    "delta_accuracy",
    "delta_low",
    "delta_high",
    "helped",
    "harmed",
    "mcnemar_p",
    "cluster_p",
    "cluster_p_adjusted",
    "delta_bias",
    "delta_bias_low",
    "delta_bias_high",
    "bias_p",
    "bias_p_adjusted",
    "verdict",
    "delta_se",
    "equivalence_p",
    "minimum_detectable_change",
    "seed_sd",
    "bias_base",
    "bias_aligned",
    "bias_perfect_model",
    "changed",
    "option_kl",
]


@dataclass(frozen=True)
class Paired:
    """The same items before and after, one row an item, orders and seeds averaged.

    ``change`` is the change of an item's correctness, in [-1, 1]; ``by_seed`` holds it for every
    seed alone, (items, seeds). ``changed`` is the share of an item's answers that are another
    option than before, ``option_kl`` the mean divergence of its options (nats, or NaN).
    """

    items: pd.DataFrame
    base: pd.DataFrame
    aligned: pd.DataFrame
    change: np.ndarray
    by_seed: np.ndarray
    changed: np.ndarray
    option_kl: np.ndarray


def pair(items: pd.DataFrame, base: pd.DataFrame, aligned: Mapping[object, pd.DataFrame]) -> Paired:
    """Put the answers of a base run and of its aligned runs side by side, item by item.

    Parameters
    ----------
    items : the items to compare; predictions of others are left aside.
    base, aligned : predictions of the base run and, by seed, of the aligned runs.

    Raises
    ------
    InputError
        If a run lacks an item, answers one twice, or was asked in other option orders.
    """
    items, before, after = answers_of(items, base, aligned)
    base_shares = outcomes.shares(items, before)
    by_seed = [outcomes.shares(items, answers) for answers in after]
    changes = np.column_stack([(s["correct"] - base_shares["correct"]) for s in by_seed])
    change = changes.mean(axis=1)
    change[np.abs(change) < 1e-9] = 0.0  # 1/3 averaged over three seeds is not quite 1/3
    item = before["item"].to_numpy()
    asked = np.bincount(item) * len(after)

    def mean_of(quantity):
        total = sum(quantity(before, answers).astype(float) for answers in after)
        return np.bincount(item, weights=total) / asked

    return Paired(
        items,
        base_shares,
        sum(by_seed) / len(by_seed),
        change,
        changes,
        mean_of(outcomes.changed),
        mean_of(outcomes.option_kl),
    )


def net_change(
    items: pd.DataFrame,
    base: pd.DataFrame,
    of: Mapping[object, pd.DataFrame],
    minus: Mapping[object, pd.DataFrame] | None = None,
) -> pd.Series:
    """Each item's change of correctness by an alignment, less that by its control, by item_id.

    Parameters
    ----------
    items, base : as for :func:`pair`.
    of, minus : predictions by seed of the alignment, and of its control if it has one.
    """
    change = pair(items, base, of)
    values = change.change - (pair(items, base, minus).change if minus else 0.0)
    return pd.Series(values, index=change.items["item_id"].to_numpy())


def compare(
    items: pd.DataFrame,
    base: pd.DataFrame,
    aligned: Mapping[object, pd.DataFrame],
    settings: Mapping,
) -> pd.DataFrame:
    """Paired change of accuracy and of bias, by attribute and context.

    Parameters
    ----------
    items : the items to compare (of a targeted attribute: the held-out ones).
    base : predictions of the base run, one row an item and option order.
    aligned : predictions by seed, for the same items and option orders.
    settings : ``alpha``, ``equivalence_margin``, ``resamples``, ``seed``.

    Returns
    -------
    One row an attribute and context with the columns of ``SPILLOVER_COLUMNS``, but for those that
    the caller knows (``model``, ``alignment``, ``targeted``) and those that ``correct`` adds.
    Changes are aligned minus base: shares of items, or differences of bias scores, neither in
    per cent. NaN is undefined.

    Raises
    ------
    InputError
        If a run lacks an item, answers one twice, or was asked in other option orders.
    """
    paired = pair(items, base, aligned)
    perfect = outcomes.perfect_shares(paired.items)
    rows = []
    for keys, cell in outcomes.cells(paired.items):
        if keys["label_type"] != "all":
            continue
        context, rows_of = keys["context"], cell.index.to_numpy()
        change = change_of_accuracy(paired, rows_of, settings)
        scored = cell.index[cell["target"].notna()]
        before, after, offset = (
            table.loc[scored] for table in (paired.base, paired.aligned, perfect)
        )
        templates = cell.loc[scored, "template"].to_numpy()
        delta_bias, low, high, bias_p = bias_difference(
            after, before, templates, context, settings, stream(settings, cell)
        )
        rows.append(
            {
                "attribute": keys["attribute"],
                "context": context,
                "seeds": len(aligned),
                **change,
                "delta_bias": delta_bias,
                "delta_bias_low": low,
                "delta_bias_high": high,
                "bias_p": bias_p,
                "bias_base": mean(bias_values(before, context)),
                "bias_aligned": mean(bias_values(after, context)),
                "bias_perfect_model": mean(bias_values(offset, context)),
                "changed": paired.changed[rows_of].mean(),
                "option_kl": paired.option_kl[rows_of].mean(),
            }
        )
    table = exact_zeros(pd.DataFrame(rows))
    return table[[column for column in SPILLOVER_COLUMNS if column in table]]


def correct(table: pd.DataFrame, settings: Mapping) -> pd.DataFrame:
    """Add adjusted p-values, minimum detectable changes and verdicts.

    A family is the untargeted attributes of one model, alignment and context. A targeted
    attribute answers another question (did alignment work?) and keeps its raw p-value.

    Parameters
    ----------
    table : what ``compare`` gave, with ``model``, ``alignment`` and ``targeted`` (bool).
    settings : ``alpha``, ``equivalence_margin``, ``correction`` (``holm``, ``fdr_bh``, ``none``).

    Returns
    -------
    The table with the columns of ``SPILLOVER_COLUMNS``, in their order, rows as they came.
    ``minimum_detectable_change`` is the true change of accuracy that the study finds with 80 %
    power at the strictest threshold it may meet, alpha divided by the size of the family.
    """
    table = table.copy()
    family = table[["model", "alignment", "context"]].astype(str).agg("/".join, axis=1)
    family = family.where(~table["targeted"].astype(bool))
    for p in ("cluster_p", "bias_p"):
        table[f"{p}_adjusted"] = adjust(table[p], family, settings["correction"])
    sizes = 1 if settings["correction"] == "none" else family_sizes(family)
    degrees = table["n_templates"] - 1
    strictest = stats.t.ppf(1 - settings["alpha"] / (2 * sizes), degrees)
    # An error of 0 is one that was not seen: with it every change would be found.
    error = table["delta_se"].where(table["delta_se"] > 0)
    table["minimum_detectable_change"] = error * (strictest + stats.t.ppf(POWER, degrees))
    table["verdict"] = verdicts(
        table["delta_accuracy"],
        table["cluster_p_adjusted"],
        table["equivalence_p"],
        settings["alpha"],
    )
    return table[SPILLOVER_COLUMNS]


def answers_of(items, base, aligned):
    """Items in a fixed order, and the answers of the base run and of each seed, row by row."""
    if not aligned:
        raise InputError("aligned: expected the predictions of at least one seed, found none")
    items = outcomes.in_order(items)
    before = outcomes.align(items, base)
    after = [outcomes.align(items, aligned[seed]) for seed in sorted(aligned, key=str)]
    for seed, answers in zip(sorted(aligned, key=str), after, strict=True):
        if not answers[["item", "order"]].equals(before[["item", "order"]]):
            raise InputError(
                f"aligned, seed {seed}: expected the option orders of the base run "
                f"({_orders(before)}), found {_orders(answers)}"
            )
    return items, before, after


def _orders(answers):
    return f"{len(answers)} answers in orders " + " ".join(sorted(answers["order"].unique()))


def change_of_accuracy(paired: Paired, rows: np.ndarray, settings: Mapping) -> dict:
    """Everything about the change of accuracy of some items."""
    change, templates = paired.change[rows], paired.items["template"].to_numpy()[rows]
    helped, harmed = int(np.sum(change > 0)), int(np.sum(change < 0))
    estimate = clustered_mean(change, templates)
    low, high = estimate.interval(settings["alpha"])
    by_seed = paired.by_seed[rows].mean(axis=0)
    return {
        "n_items": len(rows),
        "n_templates": estimate.clusters,
        "accuracy_base": paired.base["correct"].to_numpy()[rows].mean(),
        "accuracy_aligned": paired.aligned["correct"].to_numpy()[rows].mean(),
        "delta_accuracy": estimate.value,
        "delta_low": low,
        "delta_high": high,
        "helped": helped,
        "harmed": harmed,
        "mcnemar_p": mcnemar([[0, harmed], [helped, 0]], exact=True).pvalue,
        "cluster_p": sign_flip_p(
            change, templates, settings["resamples"], stream(settings, paired.items.iloc[rows])
        ),
        "delta_se": estimate.se,
        "equivalence_p": equivalence_p(estimate, settings["equivalence_margin"]),
        "seed_sd": by_seed.std(ddof=1) if len(by_seed) > 1 else np.nan,
    }


def stream(settings: Mapping, items: pd.DataFrame) -> np.random.SeedSequence:
    """Random numbers for the items of a cell, or of several, whichever other cells there are."""
    where = "+".join(sorted(items["attribute"].unique()))
    context = "+".join(sorted(items["context_condition"].unique()))
    name = f"{where}/{context}"
    return np.random.SeedSequence([settings["seed"], zlib.crc32(name.encode())])
