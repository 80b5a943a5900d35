"""Did alignment change fairness, and how sure can one be?

Everything is paired: the same items, before and after. Seeds and option orders are averaged item
by item first, and what is left varies by template, so tests and intervals are clustered by it.
McNemar's test, which takes every item for an independent observation, stands beside them.
"""

import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from spillover import outcomes
from spillover.clustered import clustered_mean, equivalence_p, sign_flip_p
from spillover.errors import InputError

STATES = ("gold", "target", "nontarget", "unknown", "unparsed", "other")
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
]
POSITION_COLUMNS = [
    "attribute",
    "context",
    "n_items",
    "n_orders",
    "content_share",
    "position_share",
    "mixed_share",
    "unparsed_share",
    "first_place_rate",
    "second_place_rate",
    "third_place_rate",
]


def metrics(items: pd.DataFrame, predictions: pd.DataFrame, alpha: float = 0.05) -> pd.DataFrame:
    """Accuracy, outcome rates and bias score of one run.

    Parameters
    ----------
    items : one row an item; every one must have been answered.
    predictions : one row an item and option order; orders are averaged item by item.
    alpha : one minus the level of the bias score's interval.

    Returns
    -------
    One row an attribute, context and label type: ``all``, and ``label`` and ``name`` where an
    attribute has both. ``accuracy_se`` and the interval are clustered by template. The rates of
    target and non-target answers and the bias score are over the items that have a target; the
    other rates and accuracy over all. ``bias_score_perfect_model`` is the score of an answerer
    that is always right, which is not 0 where templates are unbalanced. NaN is undefined.

    Raises
    ------
    InputError
        If an item has no prediction, or two for one option order.
    """
    items = outcomes.in_order(items)
    table = outcomes.shares(items, outcomes.align(items, predictions))
    perfect = outcomes.perfect_shares(items)
    rows = []
    for keys, cell in outcomes.cells(items):
        has_target = cell["target"].notna()
        scored = cell.index[has_target]
        context, templates = keys["context"], cell["template"].to_numpy()
        accuracy = clustered_mean(table.loc[cell.index, "correct"].to_numpy(), templates)
        bias = clustered_mean(
            outcomes.bias_values(table.loc[scored], context), templates[has_target]
        )
        offset = outcomes.bias_values(perfect.loc[scored], context)
        low, high = bias.interval(alpha)
        rates = table.loc[cell.index, list(outcomes.OUTCOMES)].mean()
        rows.append(
            keys
            | {
                "n_items": len(cell),
                "n_templates": accuracy.clusters,
                "accuracy": accuracy.value,
                "accuracy_se": accuracy.se,
            }
            | {f"{outcome}_rate": rates[outcome] for outcome in outcomes.OUTCOMES}
            | {
                "bias_score": bias.value,
                "bias_score_low": low,
                "bias_score_high": high,
                "bias_score_perfect_model": offset.mean() if len(offset) else np.nan,
            }
        )
    return _exact_zeros(pd.DataFrame(rows))


@dataclass(frozen=True)
class Paired:
    """The same items before and after, one row an item, orders and seeds averaged.

    ``change`` is the change of an item's correctness, in [-1, 1]; ``by_seed`` holds it for every
    seed alone, (items, seeds).
    """

    items: pd.DataFrame
    base: pd.DataFrame
    aligned: pd.DataFrame
    change: np.ndarray
    by_seed: np.ndarray


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
    items, before, after = _answers(items, base, aligned)
    base_shares = outcomes.shares(items, before)
    by_seed = [outcomes.shares(items, answers) for answers in after]
    changes = np.column_stack([(s["correct"] - base_shares["correct"]) for s in by_seed])
    change = changes.mean(axis=1)
    change[np.abs(change) < 1e-9] = 0.0  # 1/3 averaged over three seeds is not quite 1/3
    return Paired(items, base_shares, sum(by_seed) / len(by_seed), change, changes)


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
        change = _change_of_accuracy(paired, rows_of, settings)
        scored = cell.index[cell["target"].notna()]
        before = outcomes.bias_values(paired.base.loc[scored], context)
        after = outcomes.bias_values(paired.aligned.loc[scored], context)
        offset = outcomes.bias_values(perfect.loc[scored], context)
        bias_change, templates = after - before, cell.loc[scored, "template"].to_numpy()
        bias = clustered_mean(bias_change, templates)
        low, high = bias.interval(settings["alpha"])
        rows.append(
            {
                "attribute": keys["attribute"],
                "context": context,
                "seeds": len(aligned),
                **change,
                "delta_bias": bias.value,
                "delta_bias_low": low,
                "delta_bias_high": high,
                "bias_p": sign_flip_p(
                    bias_change, templates, settings["resamples"], _stream(settings, keys)
                ),
                "bias_base": _mean(before),
                "bias_aligned": _mean(after),
                "bias_perfect_model": _mean(offset),
            }
        )
    table = _exact_zeros(pd.DataFrame(rows))
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
    table["cluster_p_adjusted"] = table["cluster_p"]
    table["bias_p_adjusted"] = table["bias_p"]
    family_size = pd.Series(1, index=table.index)
    untargeted = table[~table["targeted"].astype(bool)]
    if settings["correction"] != "none":
        for _, family in untargeted.groupby(["model", "alignment", "context"]):
            family_size[family.index] = len(family)
            for p in ("cluster_p", "bias_p"):
                tested = family[p].dropna()  # an undefined score is not a test
                if len(tested):
                    adjusted = multipletests(tested, method=settings["correction"])[1]
                    table.loc[tested.index, f"{p}_adjusted"] = adjusted
    degrees = table["n_templates"] - 1
    strictest = stats.t.ppf(1 - settings["alpha"] / (2 * family_size), degrees)
    table["minimum_detectable_change"] = table["delta_se"] * (
        strictest + stats.t.ppf(POWER, degrees)
    )
    significant = table["cluster_p_adjusted"] < settings["alpha"]
    table["verdict"] = np.select(
        [
            significant & (table["delta_accuracy"] > 0),
            significant & (table["delta_accuracy"] < 0),
            table["equivalence_p"] < settings["alpha"],
        ],
        ["improved", "degraded", "equivalent"],
        default="inconclusive",
    )
    return table[SPILLOVER_COLUMNS]


def aggregate(
    items: pd.DataFrame,
    base: pd.DataFrame,
    aligned: Mapping[object, pd.DataFrame],
    settings: Mapping,
    targeted: Collection[str] = (),
) -> pd.DataFrame:
    """The change of accuracy over several attributes, beside what an average of them hides.

    Parameters
    ----------
    items, base, aligned, settings : as for ``compare``.
    targeted : attributes that alignment was for.

    Returns
    -------
    One row a set of attributes (``all``, ``untargeted``), context (``ambig``, ``disambig``,
    ``both``) and label type (``all``; ``label`` and ``name`` where there are both).

    ``delta_accuracy`` weights every item alike (pooled, with interval and tests clustered by
    template), ``delta_by_template`` every template, ``delta_by_attribute`` every cell: an
    attribute in a context. ``mean_absolute_change`` is over cells too; it exceeds the absolute
    ``delta_by_attribute`` exactly when cells move in opposite directions, of which ``rose`` and
    ``fell`` are the counts.
    """
    paired = pair(items, base, aligned)
    of = paired.items
    sets = {"all": pd.Series(True, index=of.index)}
    if targeted:
        sets["untargeted"] = ~of["attribute"].isin(list(targeted))
    types = {"all": pd.Series(True, index=of.index)}
    if {"label", "name"} <= set(of["label_type"].dropna().unique()):
        types |= {name: of["label_type"] == name for name in ("label", "name")}
    contexts = {name: of["context_condition"] == name for name in outcomes.CONTEXTS}
    contexts["both"] = pd.Series(True, index=of.index)
    rows = []
    for attributes, in_set in sets.items():
        for context, in_context in contexts.items():
            for label_type, of_type in types.items():
                keys = {"attributes": attributes, "context": context, "label_type": label_type}
                rows_of = np.flatnonzero(in_set & in_context & of_type)
                if len(rows_of):
                    rows.append(_aggregate_row(paired, rows_of, keys, settings))
    return pd.DataFrame(rows)


def transitions(
    items: pd.DataFrame, base: pd.DataFrame, aligned: Mapping[object, pd.DataFrame]
) -> pd.DataFrame:
    """What became of the answers: how many items went from which state to which.

    An answer is in exactly one state: ``gold`` if it is right, whatever it names; else
    ``unparsed``, ``unknown`` (wrong in disambiguated contexts only), ``target`` or ``nontarget``;
    and ``other`` if it wrongly names somebody on an item without target.

    Returns
    -------
    One row an attribute, context, state ``before`` and state ``after`` (``other`` only where it
    occurs), with the number of ``items`` (fractional: an item's answers count one in all, over
    option orders and seeds) and their ``share`` of the attribute's items in that context.
    """
    items, before, after = _answers(items, base, aligned)
    n, k = len(items), len(STATES)
    item = before["item"].to_numpy()
    weight = 1 / (np.bincount(item, minlength=n)[item] * len(after))
    first = _states(before)
    counts = np.zeros((n, k * k))
    for answers in after:
        step = first * k + _states(answers)
        counts += np.bincount(item * k * k + step, weights=weight, minlength=n * k * k).reshape(
            n, -1
        )
    tables = []
    steps = pd.MultiIndex.from_product([STATES, STATES], names=["before", "after"])
    for keys, cell in outcomes.cells(items):
        if keys["label_type"] != "all":
            continue
        table = pd.DataFrame({"items": counts[cell.index].sum(axis=0)}, index=steps).reset_index()
        rare = (table["before"] == "other") | (table["after"] == "other")
        table = table[~rare | (table["items"] > 0)]
        table = table.assign(share=table["items"] / len(cell))
        table.insert(0, "attribute", keys["attribute"])
        table.insert(1, "context", keys["context"])
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def position(items: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """How far the place of an option on the page decides, by attribute and context.

    Over the option orders that an item was asked in, a choice is decided by ``content`` if the
    same option was always chosen, by ``position`` if the same place was, ``unparsed`` if an
    answer could not be parsed, and ``mixed`` otherwise. Choosing at random among three orders
    gives 1/9 each of content and position.

    Returns
    -------
    One row an attribute and context, over the items asked in more than one order (no row where
    there is none): ``n_items``, ``n_orders``, the four shares, the share of answers that chose
    the first, second and third place, and, if there are rows, accuracy and bias score for each
    order alone.
    """
    items = outcomes.in_order(items)
    answers = outcomes.align(items, predictions)
    item, predicted = answers["item"].to_numpy(), answers["predicted"].to_numpy()
    # order[k] is the option at place k: the place of option p is where p stands in order
    codes, names = pd.factorize(answers["order"])
    place_of = np.array([[*(name.find(option) for option in "012"), -1] for name in names])
    place = place_of[codes, predicted]  # -1, unparsed, picks the last column

    n = len(items)
    asked = np.bincount(item, minlength=n)
    chosen = np.column_stack(
        [np.bincount(item, weights=predicted == p, minlength=n) for p in range(3)]
    )
    placed = np.column_stack([np.bincount(item, weights=place == p, minlength=n) for p in range(3)])
    decided = np.select(
        [
            chosen.sum(axis=1) < asked,
            chosen.max(axis=1) == asked,
            placed.max(axis=1) == asked,
        ],
        ["unparsed", "content", "position"],
        default="mixed",
    )
    by_order = {}
    for order, alone in answers.groupby("order", observed=True):
        asked_so = items.loc[alone["item"]].reset_index(drop=True)
        table = outcomes.shares(asked_so, alone.assign(item=np.arange(len(alone))))
        by_order[order] = table.set_axis(alone["item"]).reindex(items.index)
    rows = []
    for keys, cell in outcomes.cells(items):
        cell = cell[asked[cell.index] > 1]
        if keys["label_type"] != "all" or cell.empty:
            continue
        here = cell.index.to_numpy()
        row = {key: keys[key] for key in ("attribute", "context")}
        row |= {"n_items": len(here), "n_orders": asked[here].max()}
        for reason in ("content", "position", "mixed", "unparsed"):
            row[f"{reason}_share"] = np.mean(decided[here] == reason)
        for p, name in enumerate(("first", "second", "third")):
            row[f"{name}_place_rate"] = placed[here, p].sum() / asked[here].sum()
        for order, table in by_order.items():
            table = table.iloc[here]
            scored = table.dropna()  # items asked in this order that have a target
            row[f"accuracy_{order}"] = table["correct"].mean()
            row[f"bias_score_{order}"] = _mean(outcomes.bias_values(scored, keys["context"]))
        rows.append(row)
    return _exact_zeros(pd.DataFrame(rows, columns=None if rows else POSITION_COLUMNS))


def _answers(items, base, aligned):
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


def _change_of_accuracy(paired: Paired, rows: np.ndarray, settings: Mapping) -> dict:
    """Everything about the change of accuracy of some items."""
    change, templates = paired.change[rows], paired.items["template"].to_numpy()[rows]
    helped, harmed = int(np.sum(change > 0)), int(np.sum(change < 0))
    mean = clustered_mean(change, templates)
    low, high = mean.interval(settings["alpha"])
    by_seed = paired.by_seed[rows].mean(axis=0)
    where = "+".join(sorted(paired.items["attribute"].iloc[rows].unique()))
    context = "+".join(sorted(paired.items["context_condition"].iloc[rows].unique()))
    return {
        "n_items": len(rows),
        "n_templates": mean.clusters,
        "accuracy_base": paired.base["correct"].to_numpy()[rows].mean(),
        "accuracy_aligned": paired.aligned["correct"].to_numpy()[rows].mean(),
        "delta_accuracy": mean.value,
        "delta_low": low,
        "delta_high": high,
        "helped": helped,
        "harmed": harmed,
        "mcnemar_p": mcnemar([[0, harmed], [helped, 0]], exact=True).pvalue,
        "cluster_p": sign_flip_p(
            change,
            templates,
            settings["resamples"],
            _stream(settings, {"attribute": where, "context": context}),
        ),
        "delta_se": mean.se,
        "equivalence_p": equivalence_p(mean, settings["equivalence_margin"]),
        "seed_sd": by_seed.std(ddof=1) if len(by_seed) > 1 else np.nan,
    }


def _aggregate_row(paired: Paired, rows: np.ndarray, keys: dict, settings: Mapping) -> dict:
    of = paired.items.iloc[rows].assign(change=paired.change[rows])
    by_cell = of.groupby(["attribute", "context_condition"])["change"].mean()
    by_template = of.groupby("template")["change"].mean()
    direction = np.sign(by_cell.round(12))  # thirds that cancel leave a last bit
    pooled = _change_of_accuracy(paired, rows, settings)
    return {
        **keys,
        "n_attributes": of["attribute"].nunique(),
        **{name: pooled[name] for name in pooled if name != "equivalence_p"},
        "delta_by_template": by_template.mean(),
        "delta_by_attribute": by_cell.mean(),
        "mean_absolute_change": by_cell.abs().mean(),
        "rose": int(np.sum(direction > 0)),
        "fell": int(np.sum(direction < 0)),
    }


def _states(answers: pd.DataFrame) -> np.ndarray:
    """Place in ``STATES`` of every answer; outcome -1 is the last, ``other``."""
    of_outcome = np.array([STATES.index(name) for name in (*outcomes.OUTCOMES, "other")])
    state = of_outcome[answers["outcome"].to_numpy()]
    return np.where(answers["correct"].to_numpy(), STATES.index("gold"), state)


def _stream(settings: Mapping, keys: Mapping) -> np.random.SeedSequence:
    """Random numbers of one cell, whichever other cells there are."""
    name = f"{keys['attribute']}/{keys['context']}"
    return np.random.SeedSequence([settings["seed"], zlib.crc32(name.encode())])


def _mean(values: np.ndarray) -> float:
    return values.mean() if len(values) else np.nan


def _exact_zeros(table: pd.DataFrame) -> pd.DataFrame:
    """Scores and changes without the 1e-17, or the -0, that sums leave in place of 0."""
    scores = [column for column in table if column.startswith(("bias_", "delta_"))]
    return table.assign(**(table[scores].round(12) + 0.0))
