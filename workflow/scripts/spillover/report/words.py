"""How numbers and names are written in texts."""

from collections.abc import Iterable

import pandas as pd

MINUS = "\N{MINUS SIGN}"


def points(value: float) -> str:
    """A change of accuracy in points, with its sign."""
    return "no value" if pd.isna(value) else f"{100 * value:+.1f}".replace("-", MINUS)


def number(value: float) -> str:
    """A change with its sign, to two digits."""
    return f"{float(f'{value:.2g}'):+g}".replace("-", MINUS)


def span(low: float, high: float) -> str:
    """An interval in points; of one template there is none."""
    return "no interval" if pd.isna(low) else f"{points(low)} to {points(high)}"


def p_value(value: float) -> str:
    """With how it compares: ``= 0.012``, ``< 0.0001``."""
    if pd.isna(value):
        return "not defined"
    return "< 0.0001" if value < 1e-4 else f"= {value:.2g}" if value < 0.9995 else "= 1"


def per_cent(value: float) -> str:
    """A share in per cent."""
    return f"{100 * value:.0f} %"


def name_of(attribute: str) -> str:
    """An attribute's name for readers."""
    return str(attribute).replace("_", " ")


def listed(parts: Iterable[str]) -> str:
    """``a, b and c``."""
    *most, last = map(str, parts)
    return f"{', '.join(most)} and {last}" if most else last
