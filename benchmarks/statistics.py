"""How long the tables take, how that grows, and how it compares with SciPy's resampling.

    python benchmarks/statistics.py --items results/quickstart/items

Three models, five seeds, three option orders, 10,000 resamples, every item of nine attributes.
"""

import sys
from pathlib import Path

# In place of this folder, whose statistics.py would hide the standard library's.
sys.path[0] = str(Path(__file__).parents[1] / "workflow" / "scripts")

import argparse
import resource
import time

import numpy as np
import pandas as pd
from scipy import stats
from spillover.statistics import outcomes
from spillover.statistics.aggregate import aggregate
from spillover.statistics.changes import compare, correct, pair
from spillover.statistics.clustered import clustered_mean, sign_flip_p
from spillover.statistics.contrasts import contrast
from spillover.statistics.metrics import metrics
from spillover.statistics.movement import certainty
from spillover.statistics.position import position
from spillover.statistics.transitions import transitions

SETTINGS = {
    "alpha": 0.05,
    "equivalence_margin": 0.02,
    "resamples": 10_000,
    "correction": "holm",
    "seed": 0,
}
ORDERS = ("012", "120", "201")
MODELS, SEEDS = 3, 5
TARGET = "Gender_identity"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=Path, required=True, help="folder of items/*.parquet")
    options = parser.parse_args()
    items = pd.concat(pd.read_parquet(path) for path in sorted(options.items.glob("*.parquet")))
    items = items.reset_index(drop=True)

    for part in (4, 2, 1):  # every fourth block, every second, all
        some = items[items["block"] % part == 0].reset_index(drop=True)
        seconds, busy = study(some)
        print(
            f"{len(some):6d} items: {seconds:5.1f} s, of which {busy:5.1f} s computing, "
            f"{1e6 * busy / len(some):4.0f} us an item"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"in full: {seconds:.1f} s of 60 s, peak memory {peak:.1f} of 4 GB (predictions included)"
    )
    against_scipy(items)


def study(items):
    """Seconds for every table of a study, by the wall and of the processor."""
    rng = np.random.default_rng(0)
    models = [[answers(items, rng) for _ in range(1 + SEEDS)] for _ in range(MODELS)]
    start, busy = time.perf_counter(), time.process_time()
    tables = []
    for name, (base, *aligned) in enumerate(models):
        for run in (base, *aligned):
            metrics(items, run)
            position(items, run)
        compared = (items, base, dict(enumerate(aligned)))
        table = compare(*compared, SETTINGS).assign(model=name, alignment="a")
        tables.append(table.assign(targeted=table["attribute"] == TARGET))
        aggregate(*compared, SETTINGS, [TARGET])
        transitions(*compared)
        certainty(*compared)
        control = dict(enumerate(reversed(aligned)))
        contrast(items, compared[2], control, SETTINGS, base, [TARGET])
    correct(pd.concat(tables, ignore_index=True), SETTINGS)
    return time.perf_counter() - start, time.process_time() - busy


def answers(items, rng):
    """Right with a probability of the template's own, one row an item and order."""
    codes = pd.factorize(items["template"])[0]
    right = rng.random((len(ORDERS), len(items))) < rng.beta(2, 1, codes.max() + 1)[codes]
    predicted = np.where(right, items["gold"], rng.integers(0, 3, right.shape))
    tables = [
        pd.DataFrame({"item_id": items["item_id"], "order": order, "predicted": row})
        for order, row in zip(ORDERS, predicted, strict=True)
    ]
    return pd.concat(tables, ignore_index=True).astype({"predicted": "Int64"})


def against_scipy(items):
    """The same test and interval by scipy.stats, on every attribute and context of one model."""
    rng = np.random.default_rng(1)
    paired = pair(items, answers(items, rng), {0: answers(items, rng)})
    spent = dict.fromkeys(("sign_flip_p", "permutation_test", "clustered_mean", "bootstrap"), 0.0)
    differences = {"p": 0.0, "half width": 0.0}

    def timed(name, function, *arguments, **options):
        start = time.process_time()
        result = function(*arguments, **options)
        spent[name] += time.process_time() - start
        return result

    for keys, cell in outcomes.cells(paired.items):
        if keys["label_type"] != "all":
            continue
        change = paired.change[cell.index]
        templates = pd.factorize(cell["template"])[0]
        sizes = np.bincount(templates)
        totals = np.bincount(templates, weights=change)

        p = timed("sign_flip_p", sign_flip_p, change, templates, 10_000, np.random.SeedSequence(0))
        mean = timed("clustered_mean", clustered_mean, change, templates)

        def t(flipped, sizes=sizes):
            n = sizes.sum()
            left_out = (flipped - sizes * flipped.sum() / n) / (n - sizes)
            return flipped.sum() / n / np.sqrt(np.sum(left_out**2))

        test = timed(
            "permutation_test",
            stats.permutation_test,
            (totals,),
            t,
            permutation_type="samples",
            n_resamples=10_000,
            rng=0,
        )
        ratio = timed(
            "bootstrap",
            stats.bootstrap,
            (totals, sizes),
            lambda totals, sizes: totals.sum() / sizes.sum(),
            paired=True,
            n_resamples=10_000,
            method="basic",
            rng=0,
        )
        low, high = ratio.confidence_interval
        half = mean.interval()[1] - mean.value
        differences["p"] = max(differences["p"], abs(p - test.pvalue))
        differences["half width"] = max(differences["half width"], abs(half / (high - low) * 2 - 1))

    for ours, theirs in (("sign_flip_p", "permutation_test"), ("clustered_mean", "bootstrap")):
        print(
            f"{ours}: {spent[ours]:.3f} s, scipy.stats.{theirs}: {spent[theirs]:.2f} s, "
            f"{spent[theirs] / spent[ours]:.0f} times as long"
        )
    print(
        f"largest difference: p {differences['p']:.3f}, half widths "
        f"{100 * differences['half width']:.0f} %"
    )


if __name__ == "__main__":
    main()
