"""Numbers of a query's result → a measurement. Only a clear yes is a success, only a clear no a failure."""

from __future__ import annotations

import math
from datetime import datetime

from edgemodel_api.edgemodel_status import AnalysisOutcome

from .analysis import Measurement, Probe
from .analysis_condition import ConditionError, UndefinedError, parse
from .text import listed, shortened


def judged(probe: Probe, at: datetime, values: tuple[float, ...]) -> Measurement:
    """By the probe's condition.

    * No series: nobody knows, as the series may have another name, or nothing was scraped yet.
    * NaN: nobody knows; most often 0/0, as there was no traffic.
    * Several series, and a condition on `value`: nobody knows which one is meant.
    """
    value = listed([f"{v:.6g}" for v in values], 3)
    try:
        condition = parse(probe.condition)
    except ConditionError as error:
        return unanswered(probe, at, f"the condition is wrong: {error}")
    if not values:
        return unanswered(probe, at, "the query has no result: no such series, or nothing scraped yet")
    if any(math.isnan(v) for v in values):
        why = "the result is NaN: 0/0 most often, as there was no traffic"
        return unanswered(probe, at, why, value)
    if condition.uses_value and len(values) > 1:
        why = f"{len(values)} series, and value means one: aggregate, or write values.all(v, …)"
        return unanswered(probe, at, why, value)
    try:
        outcome = AnalysisOutcome.SUCCESS if condition.holds(values) else AnalysisOutcome.FAILURE
    except UndefinedError as error:
        return unanswered(probe, at, str(error), value)
    return Measurement(probe, at, outcome, value)


def unanswered(probe: Probe, at: datetime, why: str, value: str = "") -> Measurement:
    """Nobody knows, and why."""
    return Measurement(probe, at, AnalysisOutcome.INCONCLUSIVE, value, shortened(why, 400))
