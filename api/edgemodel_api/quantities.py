"""Strings that hold numbers, as Kubernetes writes them: percentages, durations, quantities, decimals."""

from __future__ import annotations

import math
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any

import durationpy
from pydantic import BeforeValidator, StringConstraints, WithJsonSchema

PERCENT_PATTERN = r"^(100(\.0+)?|[0-9]{1,2}(\.[0-9]+)?)%$"
#: As PERCENT_PATTERN, without zero.
POSITIVE_PERCENT_PATTERN = r"^(100(\.0+)?|(0?[1-9]|[1-9][0-9])(\.[0-9]+)?|0{1,2}\.0*[1-9][0-9]*)%$"
SLOWDOWN_PATTERN = r"^[0-9]{1,4}(\.[0-9]+)?%$"
DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"
QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(k|M|G|T|Ki|Mi|Gi|Ti)?$"
DECIMAL_PATTERN = r"^[0-9]+(\.[0-9]+)?$"

Percent = Annotated[str, StringConstraints(pattern=PERCENT_PATTERN, max_length=32)]
PositivePercent = Annotated[str, StringConstraints(pattern=POSITIVE_PERCENT_PATTERN, max_length=32)]
Slowdown = Annotated[str, StringConstraints(pattern=SLOWDOWN_PATTERN, max_length=32)]
Duration = Annotated[str, StringConstraints(pattern=DURATION_PATTERN, max_length=32)]
DecimalString = Annotated[str, StringConstraints(pattern=DECIMAL_PATTERN, max_length=32)]


def _int_to_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Quantity = Annotated[
    str,
    BeforeValidator(_int_to_text),
    StringConstraints(pattern=QUANTITY_PATTERN, max_length=32),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "minimum": 0, "pattern": QUANTITY_PATTERN, "maxLength": 32}),
]

_FACTORS = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40,
}  # fmt: skip


def parse_percent(text: str) -> float:
    """`"0.5%"` → 0.005.

    Raises:
        ValueError: the text is not a percentage.
    """
    if not text.endswith("%"):
        raise ValueError(f"{text!r} is not a percentage, such as '5%'")
    try:
        return float(Decimal(text[:-1]) / 100)
    except InvalidOperation:
        raise ValueError(f"{text!r} is not a percentage, such as '5%'") from None


def parse_duration(text: str) -> timedelta:
    """`"1m30s"` → 90 s, in Go's notation.

    Raises:
        ValueError: the text is not a duration.
    """
    try:
        return durationpy.from_str(text)
    except durationpy.DurationError:
        raise ValueError(f"{text!r} is not a duration, such as '90s' or '1h30m'") from None


def parse_quantity(text: str | int) -> int:
    """`"20Mi"` → 20971520, rounded up to a whole byte.

    Raises:
        ValueError: the text is not a quantity.
    """
    number = str(text)
    for suffix in ("Ki", "Mi", "Gi", "Ti", "k", "M", "G", "T", ""):
        if number.endswith(suffix):
            try:
                return math.ceil(Decimal(number[: len(number) - len(suffix)]) * _FACTORS[suffix])
            except InvalidOperation:
                break
    raise ValueError(f"{text!r} is not a quantity, such as '20Mi'")


def format_bytes(count: float) -> str:
    """1536 → `1.5 KiB`; for people, not for parsing."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


def format_seconds(seconds: float) -> str:
    """0.00241 → `2.41 ms`, 90 → `90 s`, 90.04 → `90.0 s`; for people, not for parsing."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.2f} ms"
    if seconds < 120:
        return f"{_short(seconds)} s"
    return f"{_short(seconds / 60)} min"


def _short(number: float) -> str:
    """One digit behind the point, but none of a whole number, as people give them."""
    return f"{number:.0f}" if number == round(number) else f"{number:.1f}"


def counted(count: int, one: str, many: str = "") -> str:
    """`1 node`, `2 nodes`; `many` where the plural is not `one` with an s.

    >>> counted(2, "class is", "classes are")
    '2 classes are'
    """
    return f"{count} {one if count == 1 else many or f'{one}s'}"
