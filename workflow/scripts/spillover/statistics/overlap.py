"""How far shared words go with spillover: overlap of vocabulary against changes of a matrix.

An alignment that was trained on one attribute's items may move those of another because they
share words. Overlap is of all items of the two attributes, whatever was sampled from them: it is
known without error, and the same for every model.
"""

import itertools
import math
import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

import numpy as np
import pandas as pd
from scipy import stats

from spillover.statistics.corrections import adjust

WORD = re.compile(r"\w+(?:['\u2019]\w+)*")
MEASURES = ["words", "cosine", "answers", "wordings"]
OVERLAP_COLUMNS = ["alignment", "target", "attribute", *MEASURES]
COLUMNS = [
    "model",
    "context",
    "overlap",
    "change",
    "n_targets",
    "n_attributes",
    "n_cells",
    "correlation",
    "low",
    "high",
    "p",
    "p_adjusted",
]
LEAST_TARGETS = 3  # with two, an attribute left out leaves a row
EXACT_UP_TO = 5040  # relabellings: 7!


def overlaps(items: pd.DataFrame, targets: Mapping[str, Collection[str]]) -> pd.DataFrame:
    """Overlap of every alignment's targets with each attribute that it does not target.

    Parameters
    ----------
    items : ``attribute``, ``context``, ``question``, ``options``, ``unknown`` of all items.
    targets : of each alignment the attributes that it targets.

    Returns
    -------
    One row an alignment and untargeted attribute, every overlap in [0, 1]:

    ``words`` : Jaccard similarity of the two sets of words, of contexts and questions.
    ``cosine`` : cosine of the two vectors of those words' counts, which frequent words decide.
    ``answers`` : Jaccard similarity of the sets of words of the answers that name somebody; the
        answers of *unknown* are the same ten everywhere.
    ``wordings`` : share of the attribute's questions, as they are worded, that targets have too.

    A word is a run of letters and digits, with apostrophes within, in lower case.
    """
    counts, answers, wordings = {}, {}, {}
    for name, of in items.groupby("attribute"):
        counts[name] = Counter(itertools.chain(*map(words, of["context"] + " " + of["question"])))
        named = {
            option
            for options, unknown in zip(of["options"], of["unknown"], strict=True)
            for place, option in enumerate(options)
            if place != unknown
        }
        answers[name] = set(itertools.chain(*map(words, named)))
        wordings[name] = {tuple(words(question)) for question in of["question"].unique()}
    rows = []
    for alignment, of in targets.items():
        ours = sum((counts[name] for name in of), Counter())
        our_answers, our_wordings = (
            set().union(*(sets[name] for name in of)) for sets in (answers, wordings)
        )
        rows += [
            {
                "alignment": alignment,
                "target": "+".join(of),
                "attribute": name,
                "words": jaccard(set(ours), set(counts[name])),
                "cosine": cosine(ours, counts[name]),
                "answers": jaccard(our_answers, answers[name]),
                "wordings": len(our_wordings & wordings[name]) / len(wordings[name]),
            }
            for name in counts
            if of and name not in of
        ]
    return pd.DataFrame(rows, columns=OVERLAP_COLUMNS)


def words(text: str) -> list[str]:
    """Words of a text, in lower case."""
    return WORD.findall(text.lower())


def jaccard(one: Collection, other: Collection) -> float:
    """Share of what either set has that both have; NaN of two empty sets."""
    either = len(one | other)
    return len(one & other) / either if either else np.nan


def cosine(one: Counter, other: Counter) -> float:
    """Cosine of two vectors of counts."""
    product = sum(count * other[word] for word, count in one.items())
    return product / np.sqrt(math.prod(sum(n**2 for n in of.values()) for of in (one, other)))


def correlations(overlaps: pd.DataFrame, matrix: pd.DataFrame, settings: Mapping) -> pd.DataFrame:
    """Spearman's correlation of overlap with change, over the cells off a matrix's diagonal.

    Parameters
    ----------
    overlaps : what :func:`overlaps` gave.
    matrix : as ``matrix.tsv`` has it. A cell's change is net of the control where there is one;
        alignments that are mere controls have no cells, nor have those of several targets.
    settings : ``alpha``, ``resamples``, ``correction``, ``seed``.

    Returns
    -------
    One row a model, context, overlap (of ``MEASURES``) and change: of ``accuracy``, and of its
    ``magnitude``, how far it moved in whichever direction. NaN where fewer than
    ``LEAST_TARGETS`` attributes are targeted by themselves, or nothing varies.

    Cells are no independent observations: those of a row share an alignment, those of a column
    an attribute, and an overlap is nearly the same both ways.

    ``p`` : two-sided, by the quadratic assignment procedure (Mantel 1967; Krackhardt 1988).
        Attributes are relabelled at random, rows and columns together, in the table of overlaps
        alone, so that whatever hangs together stays together in both tables. Attributes that
        nothing targets are exchanged among themselves. Up to ``EXACT_UP_TO`` relabellings are
        enumerated; of ``resamples`` random ones p = (b + 1) / (resamples + 1).
    ``low``, ``high`` : jackknife of Fisher's z over the n attributes, each left out as row and
        column at once (Snijders and Borgatti 1999, whose factor (n - 2) / 2n is for cells that
        go with either of two left out), with Student's t, n - 1 degrees. Relabelling gives no
        interval, since it supposes no relation, and Fisher's own takes cells for independent.
        NaN with three attributes, or where one left out leaves a correlation of 1.
    ``p_adjusted`` : a family is one model and context.
    """
    matrix = matrix.assign(minus=matrix["minus"].fillna(""))
    cells = _cells(overlaps, matrix)
    rows = []
    for model in matrix["model"].unique():
        for context in matrix["context"].unique():
            of = cells[(cells["model"] == model) & (cells["context"] == context)]
            keys = {"model": model, "context": context}
            rows += [keys | row for row in _correlations(of, overlaps, context, settings)]
    table = pd.DataFrame(rows, columns=COLUMNS)
    family = table["model"].astype(str) + "/" + table["context"]
    return table.assign(p_adjusted=adjust(table["p"], family, settings["correction"]))


def _cells(overlaps: pd.DataFrame, matrix: pd.DataFrame) -> pd.DataFrame:
    """Cells of alignments of one target that have an overlap: net of a control if there is one."""
    controlled = set(matrix.loc[matrix["minus"] != "", "alignment"])
    controls = set(matrix["minus"]) - controlled - {""}
    alone = overlaps.loc[overlaps["target"].isin(overlaps["attribute"]), ["alignment", "attribute"]]
    chosen = (matrix["minus"] != "") | ~matrix["alignment"].isin(controlled | controls)
    cells = matrix[chosen & matrix["delta_accuracy"].notna()]
    return cells.merge(alone, on=["alignment", "attribute"])


def _correlations(
    cells: pd.DataFrame, overlaps: pd.DataFrame, context: str, settings: Mapping
) -> Iterable[dict]:
    """Rows of one model and context."""
    targets = sorted(cells["target"].unique())
    others = sorted(set(cells["attribute"]) - set(targets))
    names = pd.Index([*targets, *others])
    at = names.get_indexer(cells["target"]), names.get_indexer(cells["attribute"])
    changes = {"accuracy": cells["delta_accuracy"].to_numpy()}
    changes["magnitude"] = np.abs(changes["accuracy"])
    enough = len(targets) >= LEAST_TARGETS
    relabelled = _relabelled(len(targets), len(others), context, settings) if enough else None
    for measure, (change, values) in itertools.product(MEASURES, changes.items()):
        row = {
            "overlap": measure,
            "change": change,
            "n_targets": len(targets),
            "n_attributes": len(names),
            "n_cells": len(cells),
        }
        if enough:
            by_name = overlaps.pivot_table(measure, "target", "attribute", "first", dropna=False)
            table = by_name.reindex(index=names, columns=names).to_numpy()
            row |= _relation(table, at, values, relabelled, settings["alpha"])
        yield row


def _relation(table: np.ndarray, at: tuple, values: np.ndarray, relabelled, alpha: float) -> dict:
    """Correlation of a table of overlaps (names, names) with values of its cells ``at``."""
    rho = _spearman(table[at], values)
    if np.isnan(rho):
        return {}
    labels, exact = relabelled
    drawn = np.nan_to_num(_spearman(table[labels[:, at[0]], labels[:, at[1]]], values))
    extreme = np.sum(np.abs(drawn) >= abs(rho) - 1e-9)
    p = extreme / len(labels) if exact else (extreme + 1) / (len(labels) + 1)
    n = len(table)
    left = [~((at[0] == name) | (at[1] == name)) for name in range(n)]
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.arctanh([_spearman(table[at][kept], values[kept]) for kept in left])
        se = np.sqrt((n - 2) / (2 * n) * np.sum((z - z.mean()) ** 2))
        half = stats.t.ppf(1 - alpha / 2, n - 1) * se
        low, high = np.tanh([np.arctanh(rho) - half, np.arctanh(rho) + half])
    return {"correlation": rho, "low": low, "high": high, "p": p}


def _spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's correlation of x (…, cells) with y (cells,); NaN where either is constant."""
    x, y = stats.rankdata(x, axis=-1), stats.rankdata(y)
    x, y = x - x.mean(-1, keepdims=True), y - y.mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        return x @ y / np.sqrt((x**2).sum(-1) * (y**2).sum())


def _relabelled(
    n_targets: int, n_others: int, context: str, settings: Mapping
) -> tuple[np.ndarray, bool]:
    """Relabellings (draws, names), targets and others each among themselves; whether all."""
    sizes = (n_targets, n_others)
    if math.prod(map(math.factorial, sizes)) <= EXACT_UP_TO:
        orders = (itertools.permutations(range(size)) for size in sizes)
        pairs = list(itertools.product(*orders))
        return np.array([[*a, *(n_targets + i for i in b)] for a, b in pairs]), True
    seed = [settings["seed"], zlib.crc32(f"overlap/{context}".encode())]
    generator = np.random.default_rng(seed)
    drawn = [
        generator.permuted(np.tile(np.arange(size), (settings["resamples"], 1)), axis=1)
        for size in sizes
    ]
    return np.hstack([drawn[0], n_targets + drawn[1]]), False
