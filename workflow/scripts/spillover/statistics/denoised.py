"""Correlations of quantities that are measured with noise, without what the noise does to them.

Noise spreads the values of both, which pulls a correlation to 0, and where it is shared pushes it
to 1. Drawing items anew adds the same noise once more, so what it adds to variances and covariance
is known, and is taken off: once from the values as they are, twice from those drawn.
"""

import numpy as np


def correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Pearson correlation over columns, as it is (first row) and when items are drawn anew.

    Parameters
    ----------
    x, y : (1 + draws, n).
    weights : (1 + draws, n), how often a column counts; None for once.

    Returns
    -------
    (1 + draws,), within [-1, 1]; NaN where values vary no more than by noise.
    """
    noise = _moments(x, y, np.ones_like(x))
    noise = np.nanmean(noise[:, 1:], axis=1, keepdims=True) - noise[:, :1]
    moments = _moments(x, y, np.ones_like(x) if weights is None else weights)
    moments = moments - noise * np.where(np.arange(moments.shape[1]), 2, 1)
    covariance, *variances = moments
    scale = np.sqrt(np.prod(np.where(np.array(variances) > 1e-12, variances, np.nan), axis=0))
    return np.clip(covariance / scale, -1, 1)


def interval(correlations: np.ndarray, alpha: float) -> tuple[float, float]:
    """Percentiles of the draws; one without a correlation counts for either end."""
    low, high = (
        np.quantile(np.nan_to_num(correlations[1:], nan=end), q)
        for end, q in ((-1.0, alpha / 2), (1.0, 1 - alpha / 2))
    )
    return float(low), float(high)


def _moments(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Covariance and variances of each row, (3, rows), times the sum of the weights."""
    total = weights.sum(axis=1, keepdims=True)
    x, y = (v - np.sum(weights * v, axis=1, keepdims=True) / total for v in (x, y))
    return np.stack([np.sum(weights * of, axis=1) for of in (x * y, x**2, y**2)])
