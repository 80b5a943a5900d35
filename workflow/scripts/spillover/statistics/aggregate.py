"""The change of accuracy over several attributes, beside what an average of them hides."""

from collections.abc import Collection, Mapping

import numpy as np
import pandas as pd

from spillover.statistics import outcomes
from spillover.statistics.changes import Paired, change_of_accuracy, pair


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


def _aggregate_row(paired: Paired, rows: np.ndarray, keys: dict, settings: Mapping) -> dict:
    of = paired.items.iloc[rows].assign(change=paired.change[rows])
    by_cell = of.groupby(["attribute", "context_condition"])["change"].mean()
    by_template = of.groupby("template")["change"].mean()
    direction = np.sign(by_cell.round(12))  # thirds that cancel leave a last bit
    pooled = change_of_accuracy(paired, rows, settings)
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
