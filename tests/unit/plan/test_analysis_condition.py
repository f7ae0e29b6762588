"""successCondition: a part of CEL, which means what CEL means; and what a result comes to."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import celpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemodel_api.edgemodel_status import AnalysisOutcome
from edgemodel_operator.domain.analysis import Probe
from edgemodel_operator.domain.analysis_condition import ConditionError, UndefinedError, parse
from edgemodel_operator.domain.analysis_judge import judged

NOW = datetime(2026, 1, 2, tzinfo=UTC)
GOOD, BAD, SILENT = AnalysisOutcome.SUCCESS, AnalysisOutcome.FAILURE, AnalysisOutcome.INCONCLUSIVE

#: Made here, as it raises the recursion limit, which hypothesis wants to stay as it is.
CEL = celpy.Environment()

NUMBERS = st.sampled_from(["0.0", "1.0", "2.5", "0.01", "1e-3", "value", "values[0]", "values[1]"])


def sums(inner):
    return st.one_of(
        inner,
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        inner.map(lambda t: f"-{t}"),
    )


COMPARISONS = st.tuples(sums(sums(NUMBERS)), st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), sums(NUMBERS)).map(
    " ".join
)
OVER = st.tuples(st.sampled_from(["all", "exists"]), sums(st.just("v")), st.sampled_from(["<", ">="]), NUMBERS).map(
    lambda t: f"values.{t[0]}(v, {t[1]} {t[2]} {t[3]})"
)
CONDITIONS = st.recursive(
    st.one_of(COMPARISONS, OVER, st.sampled_from(["true", "false"])),
    lambda c: st.one_of(
        st.tuples(c, st.sampled_from(["&&", "||"]), c).map(" ".join),
        c.map(lambda t: f"({t})"),
        c.map(lambda t: f"!({t})"),
    ),
    max_leaves=4,
)


def by_cel(text, values):
    """What CEL's own library says; None: an error, or not a number."""
    names = {"values": celpy.json_to_cel([float(v) for v in values]), "value": celpy.celtypes.DoubleType(values[0])}
    try:
        return bool(CEL.program(CEL.compile(text)).evaluate(names))
    except celpy.CELEvalError:
        return None


def ours(text, values):
    try:
        return parse(text).holds(tuple(values))
    except UndefinedError:
        return None


@settings(max_examples=120, deadline=None)
@given(CONDITIONS, st.lists(st.sampled_from([0.0, 0.005, 0.5, 1.0, 3.0]), min_size=1, max_size=3))
def test_means_what_cel_means(text, values):
    """Divisions by zero apart: IEEE's infinity is what Prometheus says too, and celpy's is an error or a NaN."""
    mine, cel = ours(text, values), by_cel(text, values)
    if mine is not None and "/" not in text:
        assert mine is cel, (text, values)
    elif mine is None and "/" not in text:
        assert cel is None, (text, values)


HOLDS = {
    "below": ("value < 0.01", (0.002,), True),
    "not below": ("value < 0.01", (0.01,), False),
    "whole numbers are doubles": ("value * 100 < 5", (0.02,), True),
    "both": ("0.1 <= value && value <= 0.5", (0.3,), True),
    "either": ("value == 0 || value > 10", (0.0,), True),
    "not": ("!(value > 1)", (2.0,), False),
    "all": ("values.all(v, v < 1)", (0.5, 2.0), False),
    "any": ("values.exists(v, v < 1)", (0.5, 2.0), True),
    "how many": ("size(values) >= 2", (0.5, 2.0), True),
    "one of them": ("values[1] - values[0] > 1", (0.5, 2.0), True),
    "multiplication first": ("1 + 2 * 3 == 7", (0.0,), True),
    "from the left": ("8 - 4 - 2 == 2 && 8 / 4 / 2 == 1", (0.0,), True),
    "infinity is large": ("value < 1", (math.inf,), False),
    "by nothing": ("value / 0 > 5", (1.0,), True),
}


@pytest.mark.parametrize(("text", "values", "holds"), HOLDS.values(), ids=HOLDS)
def test_holds(text, values, holds):
    assert parse(text).holds(values) is holds


WRONG = {
    "a number": ("value", 1, "a condition says true or false, such as value < 0.01"),
    "half": ("value <", 8, "something is missing at the end"),
    "one equals sign": ("value = 3", 7, "write == to compare"),
    "chained": ("1 < value < 2", 11, "join two by &&"),
    "unknown name": ("result[0] > 1", 1, "'result' is not known here; there are value, values and size(values)"),
    "python's and": ("value < 1 and value > 0", 11, "write &&"),
    "python": ("__import__('os').system('x')", 12, "is not understood"),
    "attribute": ("value.__class__ == 1", 6, "'.' is not expected here"),
    "another macro": ("values.map(v, v)", 8, "only all(v, …) and exists(v, …)"),
    "shadowing": ("values.all(value, value < 1)", 12, "write a new name"),
    "percent": ("value < 5%", 10, "write 5% as 0.05"),
    "list compared": ("values < 1", 1, "this is a list of numbers"),
    "true compared": ("true < 1", 1, "this is true or false"),
    "deep": ("(" * 500 + "value < 1" + ")" * 500, 33, "more than 32"),
    "many signs": ("-" * 900 + "1 < value", 33, "more than 32"),
    "empty": ("  ", 3, "something is missing"),
    "closing": ("value < 1)", 10, "')' is not expected here"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "column", "words"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_has_a_place(text, column, words):
    with pytest.raises(ConditionError) as caught:
        parse(text)
    assert words in str(caught.value)
    assert caught.value.column == column


@given(st.text(alphabet="value s<>=!&|()[].,+-*/01e_aix\n'\"%{}", max_size=60))
def test_any_text_is_a_condition_or_told_why_not(text):
    try:
        condition = parse(text)
    except ConditionError as error:
        wrong = error
    else:
        assert ours(text, (0.5,)) in (True, False, None), condition
        return
    assert 1 <= wrong.column <= len(text) + 1


JUDGED = {
    "success": ("value < 1", (0.5,), GOOD, ""),
    "failure": ("value < 1", (1.5,), BAD, ""),
    "no series": ("value < 1", (), SILENT, "no result"),
    "NaN": ("value < 1", (math.nan,), SILENT, "NaN"),
    "one NaN of two": ("values.all(v, v < 1)", (0.5, math.nan), SILENT, "NaN"),
    "which one?": ("value < 1", (0.5, 0.6), SILENT, "2 series, and value means one"),
    "all of them": ("values.all(v, v < 1)", (0.5, 0.6), GOOD, ""),
    "no such index": ("values[2] < 1", (0.5, 0.6), SILENT, "there is no values[2]"),
    "not a number": ("value / value < 1", (0.0,), SILENT, "0 / 0 is not a number"),
}


@pytest.mark.parametrize(("text", "values", "outcome", "words"), JUDGED.values(), ids=JUDGED)
def test_judged(text, values, outcome, words):
    probe = Probe("errors", "q", text, timedelta(seconds=5), "r", NOW)
    found = judged(probe, NOW, values)
    assert found.outcome is outcome
    assert words in found.message
    assert (found.message == "") == (outcome is not SILENT)
