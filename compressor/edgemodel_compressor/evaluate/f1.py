"""F1 with bootstrap intervals. Pure.

Binary (two classes in the labels, or fewer): the F1 of the positive class, which is 1, or else the last class in
sorted order. Multiclass: macro, the unweighted mean of the F1 of every class that occurs among labels or
predictions. F1 of a class = 2 TP / (2 TP + FP + FN), 0 where that is 0/0 (as scikit-learn, `zero_division=0`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .intervals import Floats, Interval

Array = npt.NDArray[np.generic]

RESAMPLES = 1000


def f1_interval(labels: Array, predictions: Array, *, seed: int) -> Interval:
    """F1 of the predictions: shapes [n], [n]."""
    value, draws = _bootstrap(labels, [predictions], seed)
    return _percentiles(value[0], draws[0])


def f1_drop(labels: Array, source: Array, candidate: Array, *, seed: int) -> Interval:
    """(F1 of source − F1 of candidate): paired, both see the same resampled samples."""
    value, draws = _bootstrap(labels, [source, candidate], seed)
    return _percentiles(value[0] - value[1], draws[0] - draws[1])


def _percentiles(value: float, draws: Floats) -> Interval:
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(value, min(value, float(low)), max(value, float(high)))


def _bootstrap(labels: Array, predictions: list[Array], seed: int) -> tuple[list[float], list[Floats]]:
    """Values on the data, and on `RESAMPLES` resamples of it, of each prediction."""
    n = len(labels)
    classes, codes = np.unique(np.concatenate([labels, *predictions]), return_inverse=True)
    parts = codes.reshape(len(predictions) + 1, n)
    # Equal (label, prediction…) tuples are one cell; resampling n samples is one multinomial draw over the cells.
    cells, counts = np.unique(parts, axis=1, return_counts=True)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(n, counts / n, size=RESAMPLES)
    score = _positive(classes, np.unique(labels))
    values, resampled = [], []
    for predicted in cells[1:]:
        both = np.concatenate([counts[None, :], draws])
        scores = _f1(both, cells[0], predicted, len(classes), score)
        values.append(float(scores[0]))
        resampled.append(scores[1:])
    return values, resampled


def _positive(classes: Array, in_labels: Array) -> int | None:
    """Index of the positive class; None: macro."""
    if len(classes) > 2 or len(in_labels) > 2:
        return None
    ones = np.flatnonzero(classes.astype(str) == "1")
    return int(ones[0]) if len(ones) else len(classes) - 1


def _f1(counts: npt.NDArray[np.int64], truth: Array, predicted: Array, classes: int, positive: int | None) -> Floats:
    """One F1 for each row of `counts` [resamples, cells]."""
    one_truth = np.eye(classes)[truth]
    one_predicted = np.eye(classes)[predicted]
    true_positive = counts @ (one_truth * one_predicted)
    both = counts @ (one_truth + one_predicted)
    score: Floats = 2 * true_positive / np.maximum(both, 1)
    if positive is not None:
        return score[:, positive]
    # A class that a resample lost altogether does not count there.
    seen = both > 0
    macro: Floats = (score * seen).sum(axis=1) / np.maximum(seen.sum(axis=1), 1)
    return macro
