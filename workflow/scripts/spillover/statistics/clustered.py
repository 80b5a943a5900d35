"""Inference on the mean of values that vary by cluster: errors, intervals, tests.

The items of a benchmark that are instances of one template succeed and fail together. All that is
assumed here is that clusters are independent of each other.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

EXACT_UP_TO = 16  # templates; 2**15 sign patterns cost no more than the usual 10,000 draws
CHUNK = 4096  # sign patterns held at once: 4096 x 100 templates x 8 bytes = 3 MB


@dataclass(frozen=True)
class ClusteredMean:
    """A mean, its standard error and the number of clusters; NaN where undefined.

    ``alike``, where the error is 0, is how many did not vary: values, if all are the same, or else
    clusters.
    """

    value: float
    se: float
    clusters: int
    alike: int = 0

    def interval(self, alpha: float = 0.05) -> tuple[float, float]:
        """Confidence interval at level 1 - alpha with Student's t, clusters - 1 degrees."""
        if np.isnan(self.se):
            return np.nan, np.nan
        half = stats.t.ppf(1 - alpha / 2, self.clusters - 1) * self.se if self.se else 0.0
        return self.value - half, self.value + half


def clustered_mean(values: np.ndarray, clusters: np.ndarray) -> ClusteredMean:
    """Mean of one value an item, with the cluster jackknife's standard error (CRV3).

    Equal to statsmodels' ``OLS(values, 1).fit(cov_type="cluster-crv3")``; in closed form because
    the sign-flip test needs it ten thousand times over. Preferred to CRV1, whose intervals
    are too short when clusters are few and unequal (MacKinnon, Nielsen and Webb 2023).

    Parameters
    ----------
    values : one an item.
    clusters : the item's cluster, any hashable labels or integers.

    Returns
    -------
    ClusteredMean; with one cluster the error is NaN, unless all values are 0 and nothing varies.
    """
    codes, labels = pd.factorize(np.asarray(clusters))
    n, k = len(values), len(labels)
    mean = float(np.mean(values)) if n else np.nan
    if not np.any(values):
        return ClusteredMean(mean, 0.0 if n else np.nan, k, n)
    if k < 2:
        return ClusteredMean(mean, np.nan, k)
    size = np.bincount(codes)
    residual = np.bincount(codes, weights=values) - size * mean
    leave_one_out = residual / (n - size)
    alike = n if np.ptp(values) == 0 else k
    return ClusteredMean(mean, float(np.sqrt((k - 1) / k * np.sum(leave_one_out**2))), k, alike)


def draw_clusters(k: int, draws: int, stream: np.random.SeedSequence) -> np.ndarray:
    """Weights of k clusters as they are, and when they are drawn anew many times.

    k - 1 are drawn of k and weighted up by k / (k - 1), without which a mean of few varies too
    little from draw to draw (Rao and Wu 1988). A single cluster cannot vary.

    Returns
    -------
    (1 + draws, k); the first row is all 1.
    """
    weights = np.ones((1 + draws, k))
    if k > 1:
        drawn = np.random.default_rng(stream).multinomial(k - 1, np.full(k, 1 / k), size=draws)
        weights[1:] = drawn * k / (k - 1)
    return weights


def sign_flip_p(
    values: np.ndarray,
    clusters: np.ndarray,
    resamples: int,
    stream: np.random.SeedSequence,
) -> np.ndarray | float:
    """Two-sided p-value of the hypothesis that the mean is 0, by flipping the signs of clusters.

    Under the hypothesis a cluster's total is as likely positive as negative; the statistic is the
    mean over its CRV3 standard error (Student's t), which keeps the test close to its level when
    totals are skewed or clusters unequal. Up to ``EXACT_UP_TO`` clusters, all sign patterns are
    enumerated; otherwise ``resamples`` random ones are drawn and p = (b + 1) / (resamples + 1)
    (Phipson and Smyth 2010).

    Parameters
    ----------
    values : (items,), or (items, quantities) to test several under the same signs.
    clusters : (items,), the item's cluster.
    resamples : number of random sign patterns.
    stream : source of the random signs.

    Returns
    -------
    p in (0, 1], one a quantity; 1 if no total differs from 0 or there is but one cluster, and NaN
    if a value is NaN or there is none.
    """
    codes, labels = pd.factorize(np.asarray(clusters))
    k, shape = len(labels), np.shape(values)[1:]
    columns = np.reshape(values, (len(codes), *(shape or (1,))))
    total = np.column_stack([np.bincount(codes, weights=c, minlength=k) for c in columns.T])
    total[np.abs(total) < 1e-9 * np.abs(columns).max(axis=0, initial=0)] = 0.0
    if k < 2:
        p = np.where(np.isnan(total).any(axis=0), np.nan, 1.0 if k else np.nan)
        return p.reshape(shape)[()]
    # Weighted by w, the squared residuals S - n m of the clusters sum to the squared standard
    # error (times a constant). Expanded, a flip changes only two forms linear in the signs.
    size = np.bincount(codes).astype(float)
    weight = (1 / (1 - size / size.sum()) ** 2)[:, None]
    squares, sizes = np.sum(weight * total**2, axis=0), np.sum(weight[:, 0] * size**2)
    mean_form, cross_form = total / size.sum(), weight * size[:, None] * total
    reach = np.abs(mean_form).sum(axis=0)

    def mean_and_error(signs):
        mean = signs @ mean_form
        mean[np.abs(mean) < 1e-12 * reach] = 0.0
        error = squares - 2 * mean * (signs @ cross_form) + mean**2 * sizes
        error[error < 1e-12 * squares] = 0.0  # both: what is left of an exact 0
        return mean**2, error

    exact = k <= EXACT_UP_TO
    mean, error = mean_and_error(np.ones((1, k)))
    at_least, drawn = 0, 0
    for signs in _all_signs(k) if exact else _random_signs(k, resamples, stream):
        means, errors = mean_and_error(signs)
        # t* >= t without a division, for an error of 0 is a legitimate, infinite t
        at_least += np.sum(means * error >= mean * errors * (1 - 1e-9), axis=0)
        drawn += len(signs)
    p = at_least / drawn if exact else (at_least + 1) / (drawn + 1)
    return np.where(np.isnan(total).any(axis=0), np.nan, p).reshape(shape)[()]


def equivalence_p(change: ClusteredMean, margin: float) -> float:
    """p-value of two one-sided t-tests (Schuirmann 1987) that the change is within +- margin.

    Where nothing varies there is no error to test with, and that is not certainty: p is then how
    likely it is that none of so many differs if a share of ``margin`` of all did, (1 - margin)^n.
    """
    if np.isnan(change.se):
        return np.nan
    room = margin - abs(change.value)
    if change.se == 0:
        return float((1 - margin) ** change.alike) if room > 0 else 1.0
    return float(stats.t.sf(room / change.se, change.clusters - 1))


def _all_signs(n: int) -> Iterator[np.ndarray]:
    """Every pattern of n signs up to a common factor, which a two-sided test does not see."""
    patterns = np.arange(2 ** (n - 1))
    for start in range(0, len(patterns), CHUNK):
        bits = patterns[start : start + CHUNK, None] >> np.arange(n) & 1
        yield 1.0 - 2.0 * bits


def _random_signs(n: int, resamples: int, stream: np.random.SeedSequence) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(stream)
    for start in range(0, resamples, CHUNK):
        rows = min(CHUNK, resamples - start)
        yield 1.0 - 2.0 * generator.integers(0, 2, size=(rows, n), dtype=np.int8)
