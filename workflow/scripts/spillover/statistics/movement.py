"""How far answers moved, whether or not they became right or wrong."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from spillover.statistics import outcomes
from spillover.statistics.changes import answers_of

THIRDS = ("least", "middle", "most")


def certainty(
    items: pd.DataFrame, base: pd.DataFrame, aligned: Mapping[object, pd.DataFrame]
) -> pd.DataFrame:
    """How far answers moved, by how sure the base run was of them.

    A base's certainty of an answer is the largest of its three options' normalised
    probabilities, in [1/3, 1]. Answers are sorted by it and cut into thirds, in each context.

    Returns
    -------
    One row a context and third (``least``, ``middle``, ``most`` certain): ``certainty_low``,
    ``certainty_high``, ``n_answers`` (items times option orders), ``changed`` and
    ``option_kl`` as in :func:`spillover.statistics.changes.compare`; no row where the base run
    has no probabilities.
    """
    items, before, after = answers_of(items, base, aligned)
    sure = np.exp(before[outcomes.OPTION_LOGP].to_numpy()).max(axis=1)
    changed = np.mean([outcomes.changed(before, answers) for answers in after], axis=0)
    kl = np.mean([outcomes.option_kl(before, answers) for answers in after], axis=0)
    contexts = items["context_condition"].to_numpy()[before["item"]]
    rows = []
    for context in outcomes.CONTEXTS:
        here = np.flatnonzero((contexts == context) & ~np.isnan(sure))
        in_order = here[np.argsort(sure[here], kind="stable")]
        for third, part in zip(THIRDS, np.array_split(in_order, 3), strict=True):
            if len(part):
                rows.append(
                    {
                        "context": context,
                        "certainty": third,
                        "certainty_low": sure[part].min(),
                        "certainty_high": sure[part].max(),
                        "n_answers": len(part),
                        "changed": changed[part].mean(),
                        "option_kl": kl[part].mean(),
                    }
                )
    return pd.DataFrame(rows, columns=CERTAINTY_COLUMNS)


CERTAINTY_COLUMNS = [
    "context",
    "certainty",
    "certainty_low",
    "certainty_high",
    "n_answers",
    "changed",
    "option_kl",
]
