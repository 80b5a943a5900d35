"""Do a spillover matrix and its profiles hold what they promise? Simulated studies.

    python benchmarks/calibration_matrix.py --items results/quickstart/items

A study is one base, ten alignments (one for each of nine attributes, one for all) and their ten
controls, all of which answer the same sampled items. Training moves the templates of all of them
alike, up or down, and each by something of its own; the base's are spread as far. So no cell has
an effect: neither as it is, nor net of its control. The matrix and its profiles are the
library's own. Cells are tested by the library's functions on changes of items, all changes of a
cell at once; of the first study compare and contrast must give the same p-values.
With --blocks 20 --profiles 0 the matrix of larger studies; with --planted profiles of effects.

Planted effects break right answers, with a probability that the alignment and the attribute each
add to. What is true of them is computed, not simulated.
"""

import sys
from pathlib import Path

# In place of this folder, whose statistics.py would hide the standard library's.
sys.path[0] = str(Path(__file__).parents[1] / "workflow" / "scripts")
sys.path.append(str(Path(__file__).parent))

import argparse
import gc
import itertools

import numpy as np
import pandas as pd
from calibration import (
    ACCURACY,
    ALPHA,
    BLOCK_SD,
    FORMAT_SD,
    LEAN_MEAN,
    LEAN_SD,
    MARGIN,
    STICKY,
    TEMPLATE_SD,
    UNPARSED,
    intercept,
)
from scipy import stats
from scipy.special import expit, ndtr
from spillover.data.samples import spread_blocks
from spillover.statistics.bias import bias_values, enough_named
from spillover.statistics.changes import compare, stream
from spillover.statistics.clustered import sign_flip_p
from spillover.statistics.contrasts import contrast
from spillover.statistics.matrix import OF_CONTRASTS, matrix
from spillover.statistics.profiles import profiles

# With fewer draws than the default's the tests of a study are as strict, and coarser: the
# smallest p, 1/1450, is just below 5 % over the 72 cells of a family.
RESAMPLES = 1449
CELL = ["attribute", "context_condition"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=Path, required=True, help="folder of items/*.parquet")
    parser.add_argument("--studies", type=int, default=500)
    parser.add_argument("--blocks", type=int, default=10, help="of an attribute that are sampled")
    parser.add_argument("--change-sd", type=float, default=0.5, help="of a template's logit")
    parser.add_argument("--profiles", type=int, default=150, help="of the studies are profiled")
    parser.add_argument("--planted", action="store_true", help="plant effects: profiles only")
    options = parser.parse_args()
    tables = [pd.read_parquet(path) for path in sorted(options.items.glob("*.parquet"))]
    items = pd.concat([spread_blocks(table, options.blocks) for table in tables])
    items = items.astype(dict.fromkeys([*CELL, "template"], object))  # quicker than Arrow's
    items = items.sort_values([*CELL, "example_id"]).reset_index(drop=True)
    targets = {name.lower(): [name] for name in items["attribute"].unique()}
    targets["all"] = list(items["attribute"].unique())
    truth = planted(targets, items) if options.planted else None

    gc.freeze()  # statsmodels collects garbage whenever it corrects p-values

    cells, measures = [], []
    for study in range(options.profiles if options.planted else options.studies):
        rng = np.random.default_rng([study, options.blocks, options.planted])
        answers = answer(rng, items, options.change_sd, truth)
        settings = {
            "alpha": ALPHA,
            "equivalence_margin": MARGIN,
            "resamples": RESAMPLES,
            "correction": "holm",
            "seed": study,
        }
        shares = [shares_of(items, run) for run in answers]
        if not options.planted:
            table = tested(items, shares, targets, settings)
            if study == 0:
                check(table, items, answers, targets, settings)
            cells.append(alarms(table, targets, settings).assign(study=study))
        if study >= options.profiles:
            continue
        base, *correct = (of["correct"].to_numpy() for of in shares)
        pairs = list(zip(correct[::2], correct[1::2], strict=True))
        kinds = {
            "net": [of - minus for of, minus in pairs],
            "as they are": [of - base for of, _ in pairs],
        }
        for kind, found in kinds.items():
            changes = {
                name: pd.Series(change, index=items["item_id"].to_numpy())
                for name, change in zip(targets, found, strict=True)
            }
            table = profiles(items, changes, targets, settings)
            measures.append(table.assign(study=study, kind=kind))
    if cells:
        print(summary(pd.concat(cells)).to_string(index=False, float_format="%.2f"))
    if measures:
        table = coverage(pd.concat(measures), items, truth, targets)
        print(table.to_string(float_format="%.1f"))


def answer(rng, items, change_sd, broken=None):
    """Answers of the base, and of ten alignments, each followed by its control; -1: unparsed."""
    n_runs = 21
    templates, blocks = (
        pd.factorize(items["attribute"] + items[key].astype(str) + items["context_condition"])[0]
        for key in ("template", "block")
    )
    k, m, n = templates.max() + 1, blocks.max() + 1, len(items)
    # All runs' templates are as far spread, the base's by itself, the others' partly together.
    own = rng.normal(size=(n_runs, k)) * change_sd / np.sqrt(2)
    together = FORMAT_SD * rng.normal(size=(2, k))
    own[0] += together[0]
    own[1:] += together[1]
    spread = np.sqrt(TEMPLATE_SD**2 + BLOCK_SD**2 + FORMAT_SD**2 + change_sd**2 / 2)
    level = items["context_condition"].map(lambda name: intercept(ACCURACY[name], spread))
    shared = level.to_numpy() + TEMPLATE_SD * rng.normal(size=k)[templates]
    shared += BLOCK_SD * rng.normal(size=m)[blocks]
    luck = rng.normal(size=n)
    noise = np.sqrt(1 - STICKY**2) * rng.normal(size=(n_runs, n)) + STICKY * luck
    noise[0] = luck
    right = ndtr(noise) < expit(shared + own[:, templates])
    if broken is not None:
        right[1::2] &= rng.random((n_runs // 2, n)) >= broken
    # A wrong answer, where the context does not tell, names somebody; where it does, it is as
    # often unknown as the other person.
    ambiguous = (items["context_condition"] == "ambig").to_numpy()
    lean = LEAN_MEAN + LEAN_SD * rng.normal(size=k)
    leans = lean + change_sd / np.sqrt(2) * rng.normal(size=(n_runs, k))
    first = items["target"].astype("Float64").fillna(0).to_numpy(dtype=int)
    unknown, gold = items["unknown"].to_numpy(dtype=int), items["gold"].to_numpy(dtype=int)
    # An item without target has two persons all the same.
    first = np.where(first == unknown, (unknown + 1) % 3, first)
    second = 3 - unknown - first
    which = ndtr(
        STICKY * rng.normal(size=n) + np.sqrt(1 - STICKY**2) * rng.normal(size=(n_runs, n))
    )
    named = np.where(which < expit(leans)[:, templates], first, second)
    other = np.where(which < 0.5, unknown, 3 - unknown - gold)
    wrong = np.where(ambiguous, named, other)
    lost = ~right & (rng.random(right.shape) < UNPARSED)
    return np.where(lost, -1, np.where(right, gold, wrong))


def predictions(items, answers):
    """Answers of a run as the workflow keeps them."""
    predicted = pd.array(answers, dtype="Int64")
    predicted[answers < 0] = pd.NA
    return items[["item_id"]].assign(order="012", predicted=predicted)


def planted(targets, items):
    """Probability that an alignment breaks a right answer to an item (alignments, items).

    For each context an attribute adds to it, and so does each alignment in each of them.
    """
    rng = np.random.default_rng(1)
    cell = items.groupby(["attribute", "context_condition"]).ngroup().to_numpy()
    of_cell = 0.2 * rng.random(cell.max() + 1)
    of_alignment = 0.2 * rng.random((len(targets), cell.max() + 1))
    return (of_cell + of_alignment)[:, cell]


def shares_of(items, answers):
    """What outcomes.shares gives for one option order, as far as it is needed."""
    has_target = items["target"].notna().to_numpy()
    is_target = answers == items["target"].fillna(-2).to_numpy(dtype=int)
    is_other = (answers >= 0) & (answers != items["unknown"].to_numpy()) & ~is_target
    return pd.DataFrame(
        {
            "correct": (answers == items["gold"].to_numpy()).astype(float),
            "target": np.where(has_target, is_target, np.nan),
            "nontarget": np.where(has_target, is_other, np.nan),
        }
    )


def tested(items, shares, targets, settings):
    """What compare and contrast test of every cell: of changes, as they are and net of controls.

    One row an alignment, ``minus``, attribute and context. All changes of a cell are tested in
    one call under the same signs, as they are when each is tested by itself.
    """
    names = [f"{name}{end}" for name in targets for end in ("", "-shuffled")]
    keys = [(name, "") for name in names] + [(name, f"{name}-shuffled") for name in targets]
    tables, start = [], 0
    for (attribute, context), cell in items.groupby(["attribute", "context_condition"]):
        answers = [of.iloc[start : start + len(cell)] for of in shares]
        start += len(cell)
        templates, scored = cell["template"].to_numpy(), cell["target"].notna().to_numpy()
        with_target = answers if scored.all() else [of[scored] for of in answers]
        values = {
            "cluster_p": (templates, [of["correct"].to_numpy() for of in answers]),
            "bias_p": (templates[scored], [bias_values(of, context) for of in with_target]),
        }
        enough = [enough_named(of, templates[scored], context) for of in with_target]
        found = {"alignment": [of for of, _ in keys], "minus": [minus for _, minus in keys]}
        for name, (clusters, (base, *of_runs)) in values.items():
            raw = [of - base for of in of_runs]
            net = [of - minus for of, minus in zip(of_runs[::2], of_runs[1::2], strict=True)]
            change = np.transpose([*raw, *net])
            found[name] = sign_flip_p(
                change, clusters, settings["resamples"], stream(settings, cell)
            )
            if name == "cluster_p":
                found["delta_accuracy"] = change.mean(axis=0)
            else:
                told = [enough[0] and of for of in enough[1:]]
                told += [all(two) for two in zip(enough[1::2], enough[2::2], strict=True)]
                found[name] = np.where(np.isnan(found[name]) | told, found[name], 1.0)
        tables.append(pd.DataFrame(found).assign(attribute=attribute, context=context))
    return pd.concat(tables, ignore_index=True)


def check(table, items, answers, targets, settings):
    """That compare and contrast say the same of the first alignment and its control."""
    base, of, minus = (predictions(items, run) for run in answers[:3])
    name, target = next(iter(targets.items()))
    expected = pd.concat(
        [
            compare(items, base, {0: of}, settings).assign(minus=""),
            contrast(items, {0: of}, {0: minus}, settings, base, target)
            .query("attribute not in ['all', 'untargeted']")
            .assign(minus=f"{name}-shuffled"),
        ]
    )
    keys = ["minus", "attribute", "context"]
    both = expected.merge(table[table["alignment"] == name], on=keys)
    assert len(both) == len(expected) == 36
    for p in ("cluster_p", "bias_p"):
        np.testing.assert_allclose(both[f"{p}_x"], both[f"{p}_y"])


def alarms(table, targets, settings):
    """The families of a study's matrix, and whether a cell in each was called an effect."""
    rest = ["n_items", "n_templates", "delta_low", "delta_high", "delta_bias"]
    rest += ["delta_bias_low", "delta_bias_high"]
    table = table.assign(model="made", equivalence_p=1.0, **dict.fromkeys(rest, np.nan))
    raw, net = table[table["minus"] == ""], table[table["minus"] != ""]
    names = {name: old for old, name in OF_CONTRASTS.items()}
    net = net.rename(columns=names).assign(contrast=net["alignment"])
    controls = {name: f"{name}-shuffled" for name in targets}
    of_all = {end: of for name, of in targets.items() for end in (name, f"{name}-shuffled")}
    cells = matrix(raw, net, of_all, controls, settings)
    cells = cells[~cells["targeted"]]
    kind = np.select(
        [cells["minus"] != "", cells["alignment"].str.endswith("-shuffled")],
        ["net", "controls"],
        "as they are",
    )
    called = pd.DataFrame(
        {
            "accuracy": cells["verdict"].isin(["improved", "degraded"]),
            "bias": cells["bias_p_adjusted"] < ALPHA,
            "undefined bias": cells["bias_p"].isna(),
            "smallest p": cells["cluster_p"],
            "smallest bias p": cells["bias_p"],
        }
    )
    of_family = called.groupby([kind, cells["context"].to_numpy()])
    how = dict.fromkeys(["accuracy", "bias"], "max") | {"undefined bias": "mean"}
    how |= dict.fromkeys(["smallest p", "smallest bias p"], "min")
    return of_family.agg(how).rename_axis(["family", "context"]).reset_index()


def summary(table):
    """Share of studies, in per cent, with a false alarm in a family; 95 % binomial intervals."""
    rows = []
    for (family, context), of in table.groupby(["family", "context"]):
        row = {"family": family, "context": context, "studies": len(of)}
        for value in ("accuracy", "bias"):
            found = stats.binomtest(int(of[value].sum()), len(of)).proportion_ci(method="exact")
            row[value] = 100 * of[value].mean()
            row[f"{value}: low"], row[f"{value}: high"] = 100 * found.low, 100 * found.high
        row["bias undefined"] = 100 * of["undefined bias"].mean()
        rows.append(row | of[["smallest p", "smallest bias p"]].min().to_dict())
    return pd.DataFrame(rows)


def coverage(table, items, broken, targets):
    """Of each measure and context, in per cent: coverage, and how often there is a false alarm."""
    effect = np.zeros((len(targets), len(items)))
    if broken is not None:
        effect = -broken * items["context_condition"].map(ACCURACY).to_numpy()
    true = truths(items, effect, targets)
    keys = ["measure", "of", "to", "context"]
    table = table.merge(true, on=keys, how="left")
    table = table[table["truth"].notna()]  # one for all attributes is like none
    table["covered"] = (table["low"] <= table["truth"]) & (table["truth"] <= table["high"])
    table["alarm"] = table["p"] < ALPHA
    alike = table["measure"] == "similarity"
    table.loc[alike, "alarm"] = (table["low"] > 0) | (table["high"] < 0)
    table["alarm, Holm"] = (table["p_adjusted"] < ALPHA) & (table["truth"] == 0)
    table["sure who is worst"] = table["worst_share"] >= 1 - ALPHA
    rows = {}
    for key, of in table.groupby(["kind", "measure", "context"]):
        known = of["low"].notna()
        by_study = of.groupby("study")
        rows[key] = {
            "rows": len(of),
            "no interval": 100 * (~known).mean(),
            "no value": 100 * of["value"].isna().mean(),
            "covered": 100 * of.loc[known, "covered"].mean(),
            "alarm": 100 * of.loc[known, "alarm"].mean(),
            "study with one": 100 * by_study["alarm"].max().mean(),
            "with one, Holm": 100 * by_study["alarm, Holm"].max().mean(),
            "sure who is worst": 100 * by_study["sure who is worst"].max().mean(),
            "truth": of["truth"].mean(),
            "value": of["value"].mean(),
        }
    return pd.DataFrame(rows).T


def truths(items, effect, targets):
    """What each measure would be if the effects were known."""
    names = list(targets)
    cells = items.assign(**dict(zip(names, effect, strict=True)))
    cells = cells.groupby(["attribute", "context_condition"])[names].mean()
    for name, of in targets.items():
        cells.loc[of, name] = np.nan
    rows = []
    for context, of in cells.groupby("context_condition"):
        of = of.droplevel("context_condition")
        rows += [("spills", name, np.nan, context, of[name].mean()) for name in names]
        rows += [("suffers", np.nan, to, context, of.loc[to].mean()) for to in of.index]
        rows += [
            (
                "asymmetry",
                one,
                other,
                context,
                of[one][targets[other][0]] - of[other][targets[one][0]],
            )
            for one, other in itertools.combinations(names[:-1], 2)
        ]
    for one, other in itertools.combinations(names, 2):
        both = cells[[one, other]].dropna()
        alike = (
            np.corrcoef(both.T)[0, 1] if both.std().gt(0).all() else 0.0 if len(both) else np.nan
        )
        rows.append(("similarity", one, other, "both", alike))
    return pd.DataFrame(rows, columns=["measure", "of", "to", "context", "truth"])


if __name__ == "__main__":
    main()
