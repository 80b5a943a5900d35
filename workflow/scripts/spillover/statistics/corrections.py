"""From p-values to verdicts: corrections over families of tests, and the rule that decides."""

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests


def adjust(p: pd.Series, family: pd.Series, method: str) -> pd.Series:
    """p-values corrected for the number of tests in their family.

    Parameters
    ----------
    p : NaN where a quantity is not defined, which is no test.
    family : names each test's family; a test without one (null) keeps its raw p-value.
    method : ``holm``, ``fdr_bh`` or ``none``.
    """
    adjusted = p.copy()
    if method == "none":
        return adjusted
    tested = p.dropna()
    for _, of_family in tested.groupby(family[tested.index]):
        adjusted[of_family.index] = multipletests(of_family, method=method)[1]
    return adjusted


def family_sizes(family: pd.Series) -> pd.Series:
    """Number of tests in each test's family; 1 for a test without one."""
    return family.map(family.value_counts()).fillna(1).astype(int)


def verdicts(
    change: pd.Series, adjusted: pd.Series, equivalence: pd.Series, alpha: float
) -> np.ndarray:
    """``improved``, ``degraded``, ``equivalent`` or ``inconclusive``, by the first that holds.

    Parameters
    ----------
    change : whose sign says the direction of what is significant.
    adjusted : corrected p-values of no change.
    equivalence : p-values of a change beyond the margin.
    """
    significant = adjusted < alpha
    return np.select(
        [significant & (change > 0), significant & (change < 0), equivalence < alpha],
        ["improved", "degraded", "equivalent"],
        default="inconclusive",
    )
