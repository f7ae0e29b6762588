"""The samples of a verification, and how answers to them are judged.

Emulation is some fifty times slower than the CPU that it runs on, so there are few. Half are those on which the source
is least sure (a small change of the numbers changes these answers first), half are spread over the data (what changes
all answers shows there). The first half counts as the evaluator's first look does, the others being taken for unchanged;
the second half speaks for itself, and only where its interval leaves no doubt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgemodel_api.errors import InputError
from edgemodel_compressor.evaluate.metrics import Array
from edgemodel_compressor.evaluate.quality import Evaluator, Mask, Quality
from edgemodel_compressor.evaluate.runner import Arrays

WANTED = 32


@dataclass(frozen=True)
class Judged:
    """What some answers are worth.

    Attributes:
        quality: the evaluator's metric.
        drop: relative to the source's on the same samples; a fraction.
        over: whether that settles that the budget is broken.
    """

    quality: float
    drop: float
    over: bool


@dataclass(frozen=True)
class Samples:
    """Requests, and the judge of their answers.

    Attributes:
        feeds: one request each, in an order of which any beginning is a fair choice.
        judge: answers to the first so many requests → their worth; raises InputError for answers that are none.
        rows: samples in one request.
        limit: the quality drop that the judge allows; a fraction.
    """

    feeds: tuple[Arrays, ...]
    judge: Callable[[Sequence[Arrays]], Judged]
    rows: int = 1
    limit: float = 0.0


def samples(evaluator: Evaluator, *, limit: float, wanted: int = WANTED, seed: int = 0) -> Samples:
    """Choose them.

    Args:
        evaluator: has judged the source.
        limit: the quality drop that the budget allows; a fraction.
        wanted: about how many samples; all where there are fewer.
        seed: of those that are spread.
    """
    unit, total = evaluator.unit, evaluator.samples
    units = total // unit
    unsure = _units(evaluator.screen(max(1, wanted // 2)), unit) if total > wanted else np.arange(units)
    unsure = unsure[: max(1, wanted // 2 // unit)] if total > wanted else unsure
    rest = np.setdiff1d(np.arange(units), unsure)
    count = min(len(rest), max(1, wanted // unit) - len(unsure))
    spread = np.random.default_rng(seed).permutation(rest)[: max(0, count)]
    order = _alternating(unsure, spread)
    by_unit = dict(zip(np.sort(order).tolist(), evaluator.requests(_mask(order, unit, total)), strict=True))
    feeds = tuple(by_unit[i] for i in order.tolist())

    def judge(answers: Sequence[Arrays]) -> Judged:
        done = order[: len(answers)]
        by_index = dict(zip(done.tolist(), answers, strict=True))
        looks = []
        for part, alone in ((np.intersect1d(done, unsure), False), (np.intersect1d(done, spread), True)):
            if len(part):
                mask = _mask(part, unit, total)
                rows = _rows(evaluator, mask, [by_index[i] for i in part.tolist()], unit)
                quality = evaluator.apart(rows, mask) if alone else evaluator.quality(rows, mask)
                looks.append((quality, quality.drop_low > limit if alone else evaluator.over(quality, limit)))
        if not looks:
            raise InputError("there are no answers to judge")
        worst, _ = max(looks, key=lambda look: (look[1], look[0].drop))
        return _judged(worst, over=any(over for _, over in looks))

    return Samples(feeds, judge, unit, limit)


def _judged(quality: Quality, *, over: bool) -> Judged:
    return Judged(float(quality.value), float(quality.drop), over)


def _rows(evaluator: Evaluator, mask: Mask, answers: Sequence[Arrays], unit: int) -> Array:
    """The evaluator asks in batches of its own: each gets the answers to as many rows."""
    position = 0

    def run(feeds: Arrays) -> Arrays:
        nonlocal position
        count = len(next(iter(feeds.values()))) // unit
        part = answers[position : position + count]
        position += count
        return part[0] if count == 1 else {name: np.concatenate([a[name] for a in part]) for name in part[0]}

    return evaluator.judge_rows(run, mask)


def _units(mask: Mask, unit: int) -> Array:
    return np.unique(np.flatnonzero(mask) // unit)


def _mask(units: Array, unit: int, total: int) -> Mask:
    return np.isin(np.arange(total) // unit, units)


def _alternating(first: Array, second: Array) -> Array:
    """One of each in turn, then what is left."""
    places = np.concatenate([np.arange(len(first)) * 2, np.arange(len(second)) * 2 + 1])
    return np.concatenate([first, second])[np.argsort(places, kind="stable")].astype(np.int64)
