"""Do the tests and intervals hold what they promise? Simulated studies on BBQ's real structure.

    python benchmarks/calibration.py --items results/quickstart/items --figure docs/calibration.svg

A study is one base and one aligned model that answer every item of nine attributes in both
contexts. Accuracy before and after differs between templates at random (logits, normal), with the
same distribution before and after: there is no spillover. Planted changes break right answers
with one probability everywhere. What is tested is the library's own code, on the real templates.

Mean accuracy and its spread between templates are those of UnifiedQA-11B's published answers. How
far a change spreads between templates nobody knows: the table is for --change-sd, the last lines
are for others. Planted changes and bias scores are simulated a fifth as often.

A contrast has three runs: a base, and two that were trained from it. Training alone moves both by
the same, more in some templates than in others; what is planted, one of them has alone.
"""

import sys
from pathlib import Path

# In place of this folder, whose statistics.py would hide the standard library's.
sys.path[0] = str(Path(__file__).parents[1] / "workflow" / "scripts")

import argparse
import functools

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import expit, logit, ndtr
from spillover.statistics.bias import bias_values
from spillover.statistics.clustered import clustered_mean, equivalence_p, sign_flip_p

TARGETED = "Gender_identity"
ACCURACY = {"ambig": 0.42, "disambig": 0.89}  # mean over templates, UnifiedQA-11B
TEMPLATE_SD, BLOCK_SD = 1.5, 0.5  # logits; UnifiedQA-11B's templates: 1.6 with sampling noise
LEAN_MEAN, LEAN_SD = 1.2, 1.0  # logit of "target" among wrong answers, ambiguous, UnifiedQA-11B
FORMAT, FORMAT_SD = 0.8, 0.5  # logits: what training alone does, in the mean and by template
STICKY = 0.8  # correlation of an item's luck before and after: most answers stay
UNPARSED = 0.02  # of wrong answers
BATCH = 250  # studies at once
ALPHA, MARGIN, RESAMPLES = 0.05, 0.02, 10_000


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=Path, required=True, help="folder of items/*.parquet")
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--change-sd", type=float, default=0.5, help="of a template's logit")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--only-few", action="store_true", help="the table of few named alone")
    options = parser.parse_args()
    items = pd.concat(pd.read_parquet(path) for path in sorted(options.items.glob("*.parquet")))
    items = items.reset_index(drop=True)
    if options.only_few:
        print(few_named(items, options.studies // 5).to_string(float_format="%.1f"))
        return

    print(f"{options.studies} studies, change between templates {options.change_sd} logits")
    null = simulate(items, options.studies, options.change_sd)
    planted = {
        change: simulate(items, options.studies // 5, options.change_sd, planted=change)
        for change in (MARGIN, 0.05, 0.10)
    }
    table = summary(null, planted)
    print(table.to_string(index=False, float_format="%.1f"))
    print(family_wise(null).to_string(float_format="%.1f"))

    print(f"\nbias scores, {options.studies // 5} studies without a change")
    print(bias(items, options.studies // 5, options.change_sd).to_string(float_format="%.1f"))

    print("\ns_DIS without a change, by the templates that name a person")
    print(few_named(items, options.studies // 5).to_string(float_format="%.1f"))

    print("\nmean over attributes and contexts, other changes between templates")
    rows = {str(sd): means(simulate(items, options.studies // 5, sd)) for sd in (0, 0.25, 0.5, 1)}
    rows["skewed"] = means(simulate(items, options.studies // 5, options.change_sd, skewed=True))
    print(pd.DataFrame(rows).T.to_string(float_format="%.1f"))
    print("\ncontrasts: of two runs that were both trained, one with and one without content")
    print(contrasts(items, options.studies, options.change_sd).to_string(float_format="%.1f"))
    if options.figure:
        draw(table, options.figure)


def simulate(items, studies, change_sd, planted=0.0, skewed=False):
    """p-values and intervals of every study: one row a study, attribute and context."""
    rows = []
    for (attribute, context), cell in items.groupby(["attribute", "context_condition"]):
        templates = pd.factorize(cell["template"])[0]
        blocks = pd.factorize(cell["block"])[0]
        for start in range(0, studies, BATCH):
            n = min(BATCH, studies - start)
            seed = [start, int(1000 * planted), int(1000 * change_sd), len(attribute), len(cell)]
            rng = np.random.default_rng([*seed, context == "ambig", skewed])
            before, after = answer(rng, templates, blocks, ACCURACY[context], change_sd, n)
            if planted:
                after &= rng.random(after.shape) >= planted / ACCURACY[context]
            if skewed:
                after = skew(rng, after, templates, ACCURACY[context])
            change = after.astype(float) - before
            tested = infer(change, templates, -planted, start)
            rows.append(
                tested.assign(attribute=attribute, context=context, study=start + np.arange(n))
            )
    return pd.concat(rows, ignore_index=True)


def answer(rng, templates, blocks, accuracy, change_sd, studies, trained=None):
    """Right or wrong, before and after: two boolean arrays (items, studies).

    With ``trained``, a number of runs, those after it are as many, and training alone moves all
    of them by the same.
    """
    k, m = templates.max() + 1, blocks.max() + 1
    # the spread of a difference of two draws is change_sd
    own = rng.normal(size=(1 + (trained or 1), k, studies)) * change_sd / np.sqrt(2)
    spread = np.sqrt(TEMPLATE_SD**2 + BLOCK_SD**2 + change_sd**2 / 2)
    shared = intercept(accuracy, spread) + TEMPLATE_SD * rng.normal(size=(k, studies))
    of_block = BLOCK_SD * rng.normal(size=(m, studies))
    luck = rng.normal(size=(len(templates), studies))
    again = [STICKY * luck + np.sqrt(1 - STICKY**2) * rng.normal(size=luck.shape) for _ in own[1:]]
    if trained:
        own[1:] += FORMAT + FORMAT_SD * rng.normal(size=(k, studies))
    return tuple(
        ndtr(x) < expit((shared + effect)[templates] + of_block[blocks])
        for x, effect in zip((luck, *again), own, strict=True)
    )


def expected_accuracy(accuracy, change_sd=0.5):
    """Mean accuracy of a run that training alone has moved."""
    spread = np.sqrt(TEMPLATE_SD**2 + BLOCK_SD**2 + change_sd**2 / 2)
    nodes, weights = np.polynomial.hermite_e.hermegauss(101)
    moved = intercept(accuracy, spread) + FORMAT + np.sqrt(spread**2 + FORMAT_SD**2) * nodes
    return expit(moved) @ weights / weights.sum()


@functools.cache
def intercept(accuracy, spread):
    """Logit whose mean probability under a normal of this spread is ``accuracy``."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(101)
    grid = np.linspace(-8, 8, 4001)
    mean = expit(grid[:, None] + spread * nodes) @ weights / weights.sum()
    return np.interp(accuracy, mean, grid)


def skew(rng, after, templates, accuracy):
    """One template in five falls by 12 points, the others rise by 3: no change in the mean."""
    falls = (rng.random((templates.max() + 1, after.shape[1])) < 0.2)[templates]
    chance = rng.random(after.shape)
    broken = after & falls & (chance < 0.12 / accuracy)
    mended = ~after & ~falls & (chance < 0.03 / (1 - accuracy))
    return (after & ~broken) | mended


def infer(change, templates, truth, seed):
    """Every test and interval of the library, for each study (column) of one cell."""
    stream = np.random.SeedSequence([7, seed])
    rows = {"cluster_p": sign_flip_p(change, templates, RESAMPLES, stream)}
    helped, harmed = (change > 0).sum(axis=0), (change < 0).sum(axis=0)
    # the exact test of statsmodels.stats.contingency_tables.mcnemar, for all studies at once
    rows["mcnemar_p"] = np.minimum(
        1, 2 * stats.binom.cdf(np.minimum(helped, harmed), helped + harmed, 0.5)
    )
    means = [clustered_mean(column, templates) for column in change.T]
    low, high = np.transpose([mean.interval(ALPHA) for mean in means])
    rows["covered"] = (low <= truth) & (truth <= high)
    rows["equivalence_p"] = [equivalence_p(mean, MARGIN) for mean in means]
    return pd.DataFrame(rows)


def summary(null, planted):
    """In per cent, one row an attribute and context."""
    table = by_cell(null, false_alarms=lambda t: t.cluster_p, mcnemar_alarms=lambda t: t.mcnemar_p)
    table["covered"] = 100 * null.groupby(["attribute", "context"])["covered"].mean()
    for change in (0.05, 0.10):
        name = f"{100 * change:.0f}"
        power = by_cell(planted[change], cluster=lambda t: t.cluster_p, mc=lambda t: t.mcnemar_p)
        table[f"power_{name}"] = power["cluster"]
        table[f"mcnemar_{name}"] = power["mc"]
        covered = planted[change].groupby(["attribute", "context"])["covered"].mean()
        table[f"covered_{name}"] = 100 * covered
    at_margin = by_cell(planted[MARGIN], p=lambda t: t.equivalence_p)
    table["equivalent_at_margin"] = at_margin["p"]
    return table.reset_index()


def by_cell(table, **of):
    """Share of p-values at most ALPHA, in per cent."""
    flags = pd.DataFrame({name: 100.0 * (column(table) <= ALPHA) for name, column in of.items()})
    return flags.groupby([table["attribute"], table["context"]]).mean()


def family_wise(null):
    """Share of studies, in per cent, with at least one false alarm among untargeted attributes."""
    untargeted = null[null["attribute"] != TARGETED]
    rows = {}
    for context, table in untargeted.groupby("context"):
        row = {}
        for test in ("cluster_p", "mcnemar_p"):
            p = table.pivot_table(test, "study", "attribute").to_numpy()
            row[f"{test}, raw"] = 100 * np.mean(p.min(axis=1) <= ALPHA)
            # Holm's procedure rejects anything at all if it rejects the smallest, as Bonferroni
            row[f"{test}, Holm"] = 100 * np.mean(p.min(axis=1) * p.shape[1] <= ALPHA)
        rows[context] = row
    return pd.DataFrame(rows).T


def bias(items, studies, change_sd):
    """False alarms and coverage, in per cent, of the tests on s_AMB and s_DIS."""
    rows = {}
    for (attribute, context), cell in items.groupby(["attribute", "context_condition"]):
        cell = cell[cell["target"].notna()]
        templates, blocks = (pd.factorize(cell[key])[0] for key in ("template", "block"))
        rng = np.random.default_rng([len(attribute), len(cell), context == "ambig"])
        gold_is_target = (cell["gold"] == cell["target"]).to_numpy(dtype=bool)
        p, covered = [], []
        for study in range(studies):
            both = answer(rng, templates, blocks, ACCURACY[context], change_sd, 1)
            lean = LEAN_MEAN + LEAN_SD * rng.normal(size=templates.max() + 1)
            which, lost = rng.random(len(cell)), rng.random(len(cell)) < UNPARSED
            values = []
            for right in both:
                own = lean + change_sd / np.sqrt(2) * rng.normal(size=len(lean))
                if context == "ambig":
                    named, target = ~right[:, 0] & ~lost, which < expit(own)[templates]
                else:  # a wrong answer is as often unknown as the other person
                    named = right[:, 0] | (which < 0.5)
                    target = gold_is_target == right[:, 0]
                table = pd.DataFrame(
                    {
                        "correct": right[:, 0].astype(float),
                        "target": (named & target).astype(float),
                        "nontarget": (named & ~target).astype(float),
                    }
                )
                values.append(bias_values(table, context))
            change = values[1] - values[0]
            stream = np.random.SeedSequence([11, study])
            p.append(sign_flip_p(change, templates, RESAMPLES // 10, stream))
            low, high = clustered_mean(change, templates).interval(ALPHA)
            covered.append(low <= 0 <= high)
        rows[attribute, context] = {
            "false alarms": 100 * np.mean(np.array(p) <= ALPHA),
            "covered": 100 * np.mean(covered),
        }
    return pd.DataFrame(rows).T


def few_named(items, studies):
    """False alarms and coverage, in per cent, of s_DIS by the templates that name a person.

    Two runs lean towards the target as much, and name somebody as often or more rarely. Counted
    are the templates that name the person whom fewer name, in the run where they are fewer.
    Neither the test nor the interval is withheld. The last two columns are of the second run's own
    interval, by its own templates.
    """
    disambiguated = items[(items["context_condition"] == "disambig") & items["target"].notna()]
    rows = []
    for number, (_, cell) in enumerate(disambiguated.groupby("attribute")):
        blocks = cell["block"].unique()
        rng = np.random.default_rng([13, number])
        for study in range(studies):
            drawn = rng.choice(blocks, min(rng.choice([10, 20, 40]), len(blocks)), replace=False)
            here = cell[cell["block"].isin(drawn)]
            templates = pd.factorize(here["template"])[0]
            k = templates.max() + 1
            # Of those who are named the target is half, two thirds, four fifths, nine tenths.
            lean = 1.3 * logit(rng.choice([1 / 2, 2 / 3, 4 / 5, 9 / 10])) + rng.normal(size=k)
            values, fewer = [], []
            for level in (rng.choice([0.0, 3.0]), rng.uniform(-5, 2)):
                named = rng.random(len(here)) < expit(level + rng.normal(size=k))[templates]
                own = lean + 0.5 / np.sqrt(2) * rng.normal(size=k)
                target = named & (rng.random(len(here)) < expit(own)[templates])
                table = pd.DataFrame({"target": target, "nontarget": named & ~target}, dtype=float)
                values.append(bias_values(table, "disambig"))
                persons = (target, named & ~target)
                fewer.append(min(len(np.unique(templates[person])) for person in persons))
            change = values[1] - values[0]
            if np.isnan(change).any():
                continue
            p = sign_flip_p(change, templates, RESAMPLES // 5, np.random.SeedSequence([17, study]))
            low, high = clustered_mean(change, templates).interval(ALPHA)
            own_low, own_high = clustered_mean(values[1], templates).interval(ALPHA)
            truth = 2 * expit(lean).mean() - 1
            rows.append(
                (min(fewer), p <= ALPHA, low <= 0 <= high, fewer[1], own_low <= truth <= own_high)
            )
    table = pd.DataFrame(rows, columns=["templates", "alarm", "covered", "own", "own covered"])
    of = table.groupby(table["templates"].clip(upper=8))
    own = table.groupby(table["own"].clip(upper=8))
    return pd.DataFrame(
        {
            "studies": of.size(),
            "false alarms": 100 * of["alarm"].mean(),
            "covered": 100 * of["covered"].mean(),
            "one run": own.size(),
            "one run covered": 100 * own["own covered"].mean(),
        }
    )


def contrasts(items, studies, change_sd):
    """False alarms and coverage, in per cent, of the tests on differences between two changes.

    Beside them how often the change from the base alone would have been called an effect, and
    coverage where the right answers of the one run are broken with a probability of 10 %.
    """
    cells = {
        (attribute, context): cell
        for (attribute, context), cell in items.groupby(["attribute", "context_condition"])
    }
    untargeted = items[items["attribute"] != TARGETED]
    cells |= {("untargeted", c): cell for c, cell in untargeted.groupby("context_condition")}
    rows, smallest = {}, {}
    for (attribute, context), cell in cells.items():
        templates = pd.factorize(cell["template"])[0]
        blocks = pd.factorize(cell["attribute"] + cell["block"].astype(str))[0]
        tables = []
        for start in range(0, studies, BATCH // 5):
            n = min(BATCH // 5, studies - start)
            rng = np.random.default_rng([start, len(cell), context == "ambig", 3])
            base, of, minus = answer(
                rng, templates, blocks, ACCURACY[context], change_sd, n, trained=2
            )
            difference = of.astype(float) - minus
            found = infer(difference, templates, 0.0, start)
            alone = sign_flip_p(
                of.astype(float) - base, templates, RESAMPLES // 10, np.random.SeedSequence(start)
            )
            broken = of & (rng.random(of.shape) < 0.10)
            planted = infer(
                difference - broken,
                templates,
                -0.10 * expected_accuracy(ACCURACY[context], change_sd),
                start,
            )
            tables.append(
                found.assign(alone=alone, planted=planted["covered"], study=start + np.arange(n))
            )
        table = pd.concat(tables, ignore_index=True)
        rows[attribute, context] = {
            "false alarms": 100 * np.mean(table["cluster_p"] <= ALPHA),
            "covered": 100 * table["covered"].mean(),
            "covered, planted": 100 * table["planted"].mean(),
            "change from the base alone": 100 * np.mean(table["alone"] <= ALPHA),
        }
        if attribute not in ("untargeted", TARGETED):
            smallest.setdefault(context, []).append(table["cluster_p"])
    for context, of_cells in smallest.items():
        p = np.min(of_cells, axis=0)
        rows["family of eight, Holm", context] = {
            "false alarms": 100 * np.mean(p * len(of_cells) <= ALPHA)
        }
    return pd.DataFrame(rows).T


def means(table):
    return {
        "false alarms": 100 * np.mean(table["cluster_p"] <= ALPHA),
        "covered": 100 * table["covered"].mean(),
        "McNemar's false alarms": 100 * np.mean(table["mcnemar_p"] <= ALPHA),
    }


def draw(table, path):
    """False alarms, coverage and power of every attribute and context."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "calibration", "svg.fonttype": "none"}
    import matplotlib.pyplot as plt

    y = -np.arange(len(table))
    figure, (alarm, cover, power) = plt.subplots(1, 3, figsize=(9, 5), sharey=True)
    alarm.axvspan(4, 6, color="0.9")
    alarm.plot(table["false_alarms"], y, "o", color="C0", label="sign flips by template")
    alarm.plot(table["mcnemar_alarms"], y, "x", color="C1", label="McNemar")
    alarm.set(xlabel="false alarms at 5 % (%)", xlim=(0, 60))
    cover.axvspan(93, 97, color="0.9")
    cover.plot(table["covered"], y, "o", color="C0")
    cover.set(xlabel="coverage of 95 % intervals (%)", xlim=(88, 100))
    power.plot(table["power_5"], y, "o", mfc="none", color="C0", label="5 points")
    power.plot(table["power_10"], y, "o", color="C0", label="10 points")
    power.set(xlabel="power by template (%)", xlim=(0, 103))
    names = table["attribute"].str.replace("_", " ") + ", " + table["context"]
    alarm.set_yticks(y, names, fontsize=8)
    for axes in (alarm, power):
        axes.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1))
    for axes in (alarm, cover, power):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
