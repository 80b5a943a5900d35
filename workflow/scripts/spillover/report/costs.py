"""What an alignment cost on companion sets, in sentences."""

import pandas as pd

from spillover.report.words import number, p_value

# Of measures of companion sets, in which unit they are told, and by what they are multiplied.
SHARES = ("accuracy", "accuracy_norm", "accuracy_letter", "accuracy_gap", "stereotype_share")
UNITS = dict.fromkeys(SHARES, ("points", 100))
UNITS |= dict.fromkeys(("lms", "ss", "icat"), ("per cent", 1))
UNITS |= dict.fromkeys(("logp_per_token", "logp_per_byte", "stereotype_preference"), ("nats", 1))


def costs(
    forgetting: pd.DataFrame | None, model: str, alignment: str, control: str | None, alpha: float
) -> list[str]:
    """Changes of whole companion sets, a sentence a set, those that hold first.

    Against the control where there is one, else against the base. What is not shown to change has
    its interval: that nothing was lost is another claim.
    """
    if forgetting is None:
        return []
    rows = forgetting[
        (forgetting["model"] == model)
        & (forgetting["alignment"] == alignment)
        & (forgetting["part"] == "all")
        & (forgetting["minus"].fillna("") == (control or ""))
        & forgetting["p"].notna()
    ]
    said = []
    for name, here in rows.groupby("set", sort=False):
        here = here.sort_values("p_adjusted", kind="stable")
        said.append(f"{name}: {'; '.join(_told(row, alpha) for row in here.itertuples())}.")
    return said


def _told(row, alpha: float) -> str:
    unit, scale = UNITS[row.measure]
    change, low, high = (
        number(scale * value) for value in (row.change, row.change_low, row.change_high)
    )
    holds = "" if row.p_adjusted < alpha else "not shown to change, "
    return (
        f"{row.measure} {change} {unit} ({low} to {high}; {holds}adjusted p "
        f"{p_value(row.p_adjusted)})"
    )
