"""What the tables have in common."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

PREFIXES = ("bias_", "delta_", "change_", "difference")


def mean(values: np.ndarray) -> float:
    """Mean of the values; NaN of none."""
    return values.mean() if len(values) else np.nan


def exact_zeros(table: pd.DataFrame) -> pd.DataFrame:
    """Scores and changes without the 1e-17, or the -0, that sums leave in place of 0."""
    scores = [column for column in table if column.startswith(PREFIXES)]
    return table.assign(**(table[scores].round(12) + 0.0))


def stack(tables: Sequence[pd.DataFrame], keys: Sequence[str]) -> pd.DataFrame:
    """One table of several, with the key columns first."""
    table = pd.concat(tables, ignore_index=True)
    return table[[*keys, *(column for column in table if column not in keys)]]
