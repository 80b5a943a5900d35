"""Do language, ability, stereotypes and fairness change together? Correlations over runs.

A run is one aligned model: an alignment with one seed, at the end of training or on its way. Runs
are asked the same items and share a base, so items are drawn anew for all of them at once.
"""

import zlib
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from spillover.statistics import denoised
from spillover.statistics.clustered import draw_clusters
from spillover.statistics.companions import MEASURES, quantities
from spillover.statistics.forgetting import sums_of

# Changes from the base, as one number a run: of which kinds of sets by which measure.
OF_SETS = {
    "language": {"language": "logp_per_byte"},
    "ability": {"ability": "accuracy"},
    "stereotypes": {"stereoset": "stereotype_share", "crows_pairs": "stereotype_share"},
}
# What is set against each other, as the companion study does.
PAIRS = (("language", "ability"), ("language", "fairness"), ("language", "stereotypes"))
COLUMNS = [
    "model",
    "x",
    "y",
    "n_runs",
    "n_trainings",
    "n_seeds",
    "correlation",
    "low",
    "high",
    "p",
]
# Draws of items; of all items of a large set, more would not fit into memory.
MOST_DRAWS = 2000
RUN_COLUMNS = ["model", "run", "alignment", "quantity", "change", "low", "high"]


def of_set(
    name: str,
    kind: str,
    measure: str,
    items: pd.DataFrame,
    base: pd.DataFrame,
    runs: Sequence[pd.DataFrame],
    settings: Mapping,
) -> np.ndarray:
    """Change of a measure of one set in every run, (1 + draws, runs).

    Parameters
    ----------
    runs : each run's answers to the items.
    settings : ``resamples``, ``seed``.
    """
    how, clusters = MEASURES[kind][measure], items["cluster"].reset_index(drop=True)
    tables = [sums_of(how, quantities(kind, items, answers), clusters) for answers in (base, *runs)]
    weights = draw_clusters(len(tables[0]), _draws(settings), _stream(settings, name))
    before, *after = (how.scale * how.statistic(weights, table) for table in tables)
    return np.column_stack([values - before for values in after])


def of_sets(
    kinds: Mapping[str, str],
    items: Mapping[str, pd.DataFrame],
    answers: Mapping[str, Mapping[str, pd.DataFrame]],
    runs: Sequence[str],
    settings: Mapping,
) -> dict[str, np.ndarray]:
    """Change of each quantity that a study's companion sets measure, the mean over its sets.

    Parameters
    ----------
    kinds, items : of each set.
    answers : of each set by run, ``base`` among them.
    runs : which, and in which order.
    """
    drawn = {}
    for quantity, measures in OF_SETS.items():
        sets = [
            of_set(
                name,
                kind,
                measures[kind],
                items[name],
                answers[name]["base"],
                [answers[name][run] for run in runs],
                settings,
            )
            for name, kind in kinds.items()
            if kind in measures
        ]
        if sets:
            drawn[quantity] = np.mean(sets, axis=0)
    return drawn


def of_items(items: pd.DataFrame, changes: Sequence[pd.Series], settings: Mapping) -> np.ndarray:
    """Mean change of accuracy of every run over BBQ's attributes, each alike, (1 + draws, runs).

    Parameters
    ----------
    items : ``item_id``, ``attribute``, ``template``.
    changes : of each run its items' change of correctness, by ``item_id``.
    """
    columns = []
    asked_of_any = items[items["item_id"].isin({name for c in changes for name in c.index})]
    for change in changes:
        asked = items[items["item_id"].isin(change.index)]
        of_attributes = []
        for attribute, cell in asked.groupby("attribute"):
            # Drawn among those that any run was asked, for all runs alike.
            of_any = asked_of_any["attribute"] == attribute
            templates = np.sort(asked_of_any.loc[of_any, "template"].unique())
            weights = draw_clusters(len(templates), _draws(settings), _stream(settings, attribute))
            at = np.searchsorted(templates, cell["template"])
            total, count = (
                weights @ np.bincount(at, values, minlength=len(templates))
                for values in (change.loc[cell["item_id"]].to_numpy(), None)
            )
            with np.errstate(invalid="ignore"):
                of_attributes.append(total / count)
        columns.append(np.nanmean(of_attributes, axis=0))
    return np.column_stack(columns)


def correlations(
    drawn: Mapping[str, np.ndarray],
    trainings: Sequence[str],
    seeds: Sequence[object],
    settings: Mapping,
    pairs: Collection[tuple[str, str]] = PAIRS,
) -> pd.DataFrame:
    """Pearson correlation over runs of each pair of quantities that there are.

    Parameters
    ----------
    drawn : of each quantity what :func:`of_sets` or :func:`of_items` gives.
    trainings : of each run what was trained for it: runs on the way of a training, or derived
        from it, share that.
    seeds : of each run. They are drawn anew with the items, the same for all alignments.
    settings : ``alpha``, ``resamples``, ``seed``.

    Returns
    -------
    One row a pair with the columns of :data:`COLUMNS` from ``x`` on. What noise of the items does
    to a correlation is taken off (:mod:`spillover.statistics.denoised`); intervals are
    percentiles, ``p`` twice the share of draws on the other side of 0. Nothing with fewer than
    four runs, or where runs differ no more than by noise. Of training's own chance the
    intervals know by as many seeds as there are.
    """
    names = sorted(set(seeds), key=str)
    rng = np.random.default_rng(_stream(settings, "seeds"))
    draws = _draws(settings)
    times = np.ones((1 + draws, len(names)))
    if len(names) > 1:
        times[1:] = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    weights = times[:, [names.index(seed) for seed in seeds]]
    counts = {
        "n_runs": len(seeds),
        "n_trainings": len(set(zip(trainings, seeds, strict=True))),
        "n_seeds": len(names),
    }
    rows = []
    for x, y in pairs:
        if x not in drawn or y not in drawn:
            continue
        row = {"x": x, "y": y} | counts
        if len(seeds) >= 4:
            found = denoised.correlation(drawn[x], drawn[y], weights)
            if np.isfinite(found[0]):
                low, high = denoised.interval(found, settings["alpha"])
                # A draw without a correlation is on either side.
                sides = [np.sum(~(found[1:] * sign > 0)) + 1 for sign in (1, -1)]
                row |= {"correlation": found[0], "low": low, "high": high}
                row["p"] = min(1.0, 2 * min(sides) / (draws + 1))
        rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS[COLUMNS.index("x") :])


def points(
    drawn: Mapping[str, np.ndarray], runs: Sequence[str], alignments: Sequence[str], alpha: float
) -> pd.DataFrame:
    """Every run's changes with intervals (percentiles), one row a run and quantity."""
    rows = []
    for quantity, values in drawn.items():
        low, high = np.nanquantile(values[1:], [alpha / 2, 1 - alpha / 2], axis=0)
        for at, (run, alignment) in enumerate(zip(runs, alignments, strict=True)):
            rows.append(
                {
                    "run": run,
                    "alignment": alignment,
                    "quantity": quantity,
                    "change": values[0, at],
                    "low": low[at],
                    "high": high[at],
                }
            )
    return pd.DataFrame(rows, columns=RUN_COLUMNS[1:])


def by_alignment(
    drawn: Mapping[str, np.ndarray], alignments: Sequence[str], reference: str, alpha: float
) -> pd.DataFrame:
    """Each alignment's changes, the mean of its runs, and what they differ by from a reference's.

    Returns
    -------
    By alignment, for each quantity ``{quantity}`` with ``_low`` and ``_high`` (percentiles), and
    ``{quantity}_difference`` with the same: simultaneous for all alignments (Bonferroni).
    """
    names = list(dict.fromkeys(alignments))
    table = pd.DataFrame(index=pd.Index(names))
    for quantity, values in drawn.items():
        means = np.column_stack(
            [values[:, [of == name for of in alignments]].mean(axis=1) for name in names]
        )
        differences = means - means[:, [names.index(reference)]]
        for suffix, of, level in (
            ("", means, alpha),
            ("_difference", differences, alpha / max(len(names) - 1, 1)),
        ):
            column = f"{quantity}{suffix}"
            table[column] = of[0]
            table[f"{column}_low"], table[f"{column}_high"] = np.nanquantile(
                of[1:], [level / 2, 1 - level / 2], axis=0
            )
    return table


def verdicts(table: pd.DataFrame, ranking: pd.DataFrame, strong: float = 0.5) -> dict[str, str]:
    """What a study says of the companion study's findings: holds, does not hold, cannot be told.

    Parameters
    ----------
    table : of :func:`correlations`, of one model.
    ranking : ``ranking.tsv`` of that model, with what :func:`by_alignment` gives; its arms are
        remedies.
    strong : a correlation from which on two go together strongly.
    """
    by_pair = table.set_index(["x", "y"])

    def told(pair: tuple[str, str], above: float, below: float) -> str:
        if pair not in by_pair.index:
            return "not measured"
        low, high = by_pair.loc[pair, ["low", "high"]]
        return _told(low > above, high < below)

    return {
        "downstream performance is strongly correlated with overall forgetting": told(
            ("language", "ability"), strong, strong
        ),
        "fewer stereotypes go with more overall forgetting": told(
            ("language", "stereotypes"), 0, 0
        ),
        "remedies reduce neither overall forgetting nor the loss of ability": _of_remedies(ranking),
    }


def _of_remedies(ranking: pd.DataFrame) -> str:
    names = [f"{name}_difference" for name in ("language", "ability")]
    if not all(name in ranking for name in names):
        return "not measured"
    arms = ranking[(ranking["verdict"] != "reference") & (ranking["context"] == "both")]
    helps = any((arms[f"{name}_low"] > 0).any() for name in names)
    return _told(all((arms[f"{name}_high"] <= 0).all() for name in names), helps)


def _told(holds: bool, fails: bool) -> str:
    return "holds" if holds else "does not hold" if fails else "cannot be told"


def _draws(settings: Mapping) -> int:
    return min(settings["resamples"], MOST_DRAWS)


def _stream(settings: Mapping, name: str) -> np.random.SeedSequence:
    return np.random.SeedSequence([settings["seed"], zlib.crc32(name.encode())])
