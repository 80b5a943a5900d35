"""Whether an alignment learnt anything, from what training and its diagnosis wrote down."""

import math
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
    kl : KL divergence of answers to held-out pairs from the base's, nats; NaN if not measured.
    """

    anything: bool
    told: str
    kl: float = math.nan


def learnt(
    diagnostics: Sequence[pd.DataFrame], trainings: Sequence[pd.DataFrame], alpha: float
) -> Learnt | None:
    """Whether an alignment learnt anything; None where nothing was measured.

    Parameters
    ----------
    diagnostics : ``diagnostics.tsv`` of each seed: shares of held-out pairs whose chosen answer is
        the likelier one, for the base and aligned.
    trainings : ``training.tsv`` of each seed; of what was not trained here there are none.
    alpha : intervals are at level 1 - alpha. Newcombe's, for the difference of two shares, takes
        the same pairs before and after for independent ones, and is wide; Wilson's, for
        pairs on their way through training, takes those of a template for independent ones, and
        is narrow. Seeds see the same pairs: shares are their means, and pairs count once.
    """
    said, signs, kl = [], [], math.nan
    if diagnostics:
        table = pd.concat(diagnostics)
        share = table.groupby("run")["ranking_accuracy"].mean()
        n = int(table["n_pairs"].max())
        kl = float(table.groupby("run")["kl_to_base"].mean()["aligned"])
        after, before = (round(share[run] * n) for run in ("aligned", "base"))
        low, _ = confint_proportions_2indep(after, n, before, n, "newcomb", alpha=alpha)
        signs.append(low > 0)
        said.append(
            f"of {n} held-out pairs {per_cent(share['base'])} were ranked right before and "
            f"{per_cent(share['aligned'])} after"
        )
    if trainings:
        # Of the first pass, where a pair is new to the model; before the first step all rewards
        # are 0.
        met = [table[table["epoch"] <= 1].iloc[1:] for table in trainings]
        pairs = int(met[0]["pairs"].sum())
        if pairs:
            shares = [(of["pairs"] * of["reward_accuracy"]).sum() / pairs for of in met]
            share = sum(shares) / len(shares)
            low, _ = proportion_confint(round(share * pairs), pairs, alpha, "wilson")
            signs.append(low > 0.5)
            said.append(
                "when training met a pair for the first time, the chosen answer had gained more "
                f"than the rejected one in {per_cent(share)} of {pairs} (chance 50 %)"
            )
    if not said:
        return None
    seeds = max(len(diagnostics), len(trainings))
    told = "; ".join(said) + (f", in the mean of {seeds} seeds" if seeds > 1 else "")
    return Learnt(any(signs), told, kl)
