"""Whether an alignment learnt anything, from what training and its diagnosis wrote down."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from spillover.report.words import per_cent


@dataclass(frozen=True)
class Learnt:
    """What was seen of learning.

    Attributes
    ----------
    anything : whether preference of the chosen answers rose, on held-out pairs or on those that
        training met for the first time, further than chance explains.
    told : the numbers.
    """

    anything: bool
    told: str


def learnt(
    diagnostics: Sequence[pd.DataFrame], trainings: Sequence[pd.DataFrame], alpha: float
) -> Learnt | None:
    """Whether an alignment learnt anything; None where nothing was measured.

    Parameters
    ----------
    diagnostics : ``diagnostics.tsv`` of each seed: shares of held-out pairs whose chosen answer is
        the likelier one, for the base and aligned.
    trainings : ``training.tsv`` of each seed; of adapters made elsewhere there are none.
    alpha : intervals are at level 1 - alpha. Newcombe's, for the difference of two shares, takes
        the same pairs before and after for independent ones, and is wide; Wilson's, for
        pairs on their way through training, takes those of a template for independent ones, and
        is narrow.
    """
    said, signs = [], []
    if diagnostics:
        of = pd.concat(diagnostics).groupby("run")
        right = (of["n_pairs"].sum() * of["ranking_accuracy"].mean()).round()
        n = of["n_pairs"].sum()
        low, _ = confint_proportions_2indep(
            right["aligned"], n["aligned"], right["base"], n["base"], "newcomb", alpha=alpha
        )
        signs.append(low > 0)
        said.append(
            f"of {n['aligned']} held-out pairs {per_cent(right['base'] / n['base'])} were ranked "
            f"right before and {per_cent(right['aligned'] / n['aligned'])} after"
        )
    if trainings:
        # Of the first pass, where a pair is new to the model; before the first step all rewards
        # are 0.
        met = pd.concat([table[table["epoch"] <= 1].iloc[1:] for table in trainings])
        pairs = int(met["pairs"].sum())
        right = (met["pairs"] * met["reward_accuracy"]).sum()
        if pairs:
            low, _ = proportion_confint(round(right), pairs, alpha, "wilson")
            signs.append(low > 0.5)
            said.append(
                "when training met a pair for the first time, the chosen answer had gained more "
                f"than the rejected one in {per_cent(right / pairs)} of {pairs} (chance 50 %)"
            )
    return Learnt(any(signs), "; ".join(said)) if said else None
