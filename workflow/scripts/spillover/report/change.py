"""A change of accuracy as the page tells it, read from a row of a table."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from spillover.report.figures import CONTEXT_NAMES
from spillover.report.words import name_of, p_value, points, span
from spillover.statistics.changes import POWER

HELD = ("improved", "degraded")


@dataclass(frozen=True)
class Change:
    """A change of accuracy in one context: of an attribute, or pooled over several.

    Attributes
    ----------
    of, minus : what the alignment and its control changed; NaN where there is no control, and
        ``change`` is what the alignment changed.
    p : corrected, but for a targeted attribute.
    bias, bias_low, bias_high, bias_p : the same for the bias score.
    """

    attribute: str
    context: str
    change: float
    low: float
    high: float
    p: float
    verdict: str
    n_items: int
    n_templates: int
    of: float = np.nan
    minus: float = np.nan
    bias: float = np.nan
    bias_low: float = np.nan
    bias_high: float = np.nan
    bias_p: float = np.nan

    @property
    def told(self) -> str:
        """The change with its interval and p."""
        return f"{points(self.change)}, {span(self.low, self.high)}, p {p_value(self.p)}"

    @property
    def where(self) -> str:
        """Attribute and context."""
        return f"{name_of(self.attribute)}, {CONTEXT_NAMES[self.context]}"

    @property
    def parts(self) -> str:
        """What the alignment and its control changed."""
        return "" if pd.isna(self.of) else f"{points(self.of)}, control {points(self.minus)}"

    @property
    def way(self) -> str:
        """What happened to accuracy, in a word for a title; with a control what it did itself."""
        own = self.change if pd.isna(self.of) else self.of
        if self.verdict not in HELD:
            return "is not shown to change"
        if (own > 0) == (self.change > 0):
            return "rises" if own > 0 else "falls"
        return (
            "falls less than its control's" if self.change > 0 else "rises less than its control's"
        )

    def detectable(self, alpha: float, family: int) -> float:
        """Change that would be found with 80 % power, by the error that the interval has."""
        degrees = self.n_templates - 1
        error = (self.high - self.low) / 2 / stats.t.ppf(1 - alpha / 2, degrees)
        if not error > 0:
            return np.nan
        strictest = stats.t.ppf(1 - alpha / (2 * family), degrees)
        return float(error * (strictest + stats.t.ppf(POWER, degrees)))


def of_contrast(row) -> Change:
    """A row of ``contrasts.tsv``."""
    found = of_row(row, "difference", "difference", "bias_difference")
    return replace(found, of=row.change_of, minus=row.change_minus)


def of_row(row, value: str, prefix: str, bias: str | None = None) -> Change:
    """A row of a table of changes; ``value``, ``prefix`` and ``bias`` are how its columns begin."""
    found = Change(
        row.attribute,
        row.context,
        getattr(row, value),
        getattr(row, f"{prefix}_low"),
        getattr(row, f"{prefix}_high"),
        row.cluster_p_adjusted,
        row.verdict,
        int(row.n_items),
        int(row.n_templates),
    )
    if bias is None:
        return found
    ends = (getattr(row, name) for name in (bias, f"{bias}_low", f"{bias}_high"))
    score, low, high = ends
    return replace(found, bias=score, bias_low=low, bias_high=high, bias_p=row.bias_p_adjusted)


def where(table: pd.DataFrame, **values: str) -> pd.DataFrame:
    """Rows that have these values."""
    for column, value in values.items():
        table = table[table[column] == value]
    return table


def rows_of(table: pd.DataFrame):
    """Rows one by one, as named tuples."""
    return table.itertuples(index=False)
