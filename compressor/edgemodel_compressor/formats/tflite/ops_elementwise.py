"""Element-wise operators: arithmetic, comparison, activation."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .emit import BOOL, FLOAT, Emitter
from .graph import Tensor
from .site import Refused, Site, kind_of, lowers

Compute = Callable[..., Tensor]

_UNARY = {
    "Abs": "ABS", "Neg": "NEG", "Exp": "EXP", "Log": "LOG", "Sqrt": "SQRT", "Floor": "FLOOR", "Ceil": "CEIL",
    "Round": "ROUND", "Sin": "SIN", "Cos": "COS", "Relu": "RELU", "Sigmoid": "LOGISTIC", "Tanh": "TANH",
    "HardSwish": "HARD_SWISH", "Not": "LOGICAL_NOT", "Sign": "SIGN",
}  # fmt: skip
_BINARY = {"Add": "ADD", "Sub": "SUB", "Mul": "MUL"}
_COMPARE = {
    "Equal": "EQUAL", "Less": "LESS", "LessOrEqual": "LESS_EQUAL", "Greater": "GREATER",
    "GreaterOrEqual": "GREATER_EQUAL", "And": "LOGICAL_AND", "Or": "LOGICAL_OR",
}  # fmt: skip
_FOLDED = {"Sum": "ADD", "Max": "MAXIMUM", "Min": "MINIMUM", "Mean": "ADD"}
#: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: |error| ≤ 1.5e-7.
_ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
_ERF_P = 0.3275911
_LARGEST = float(np.finfo(np.float32).max)


@lowers(*_UNARY)
def _unary(site: Site) -> None:
    code = _UNARY[site.op]
    if site.dtype().kind != "f" and code not in ("ABS", "NEG", "LOGICAL_NOT", "SIGN", "RELU"):
        raise Refused(f"TFLite has it for floats, not for {site.dtype()}")
    if code in ("RELU", "SIGN", "ABS") and site.dtype().kind != "f":
        zero = site.emit.scalar(0, Tensor("", (1,), site.dtype(), None))
        table: dict[str, Compute] = {
            "RELU": lambda x: site.emit.at_least(x, zero),
            "ABS": lambda x: site.emit.at_least(x, site.emit.sub(zero, x)),
        }
        if code not in table:
            raise Refused(f"TFLite has it for floats, not for {site.dtype()}")
        site.elementwise(table[code])
        return
    site.elementwise(lambda x: site.emit.unary(code, x))


@lowers("Identity", "Dropout", note="Dropout: inference")
def _identity(site: Site) -> None:
    if site.op == "Dropout" and site.has(2) and bool(np.any(site.need_const(2, "training_mode"))):
        raise Refused("training_mode is on")
    perm = site.perm()
    site.give(site.get(0, perm), perm)
    if site.wants(1):
        site.give(site.emit.fill(site.out(1).shape, 1, BOOL), i=1)


@lowers(*_BINARY)
def _binary(site: Site) -> None:
    code = _BINARY[site.op]
    site.elementwise(lambda a, b: site.emit.binary(code, a, b))


@lowers("Div")
def _div(site: Site) -> None:
    kind = site.dtype()
    if kind.kind == "f":
        divisor = site.const(1)
        if divisor is not None and divisor.size == 1 and _is_power_of_two(float(divisor.reshape(-1)[0])):
            # Exact, and faster.
            inverse = 1 / float(divisor.reshape(-1)[0])
            operands, perm = site.aligned([0], len(site.out().shape)) if site.rank(0) else ([site.get(0)], ())
            result = site.emit.mul(operands[0], inverse)
            if len(result.shape) == len(site.out().shape):
                site.give(result, perm)
                return
        site.elementwise(site.emit.div)
        return
    if kind.name != "int32":
        raise Refused(f"TFLite divides float32 and int32, not {kind}")
    site.elementwise(site.emit.div)


def _is_power_of_two(value: float) -> bool:
    return math.isfinite(value) and value != 0 and abs(math.frexp(value)[0]) == 0.5


@lowers(*_COMPARE, "Xor")
def _compare(site: Site) -> None:
    code = _COMPARE.get(site.op, "NOT_EQUAL")
    # Small integers would be taken for quantized numbers.
    kind = np.dtype(np.int32) if site.dtype().name in ("int8", "uint8", "int16", "uint16") else site.dtype()
    e = site.emit
    site.elementwise(lambda a, b: e.binary(code, e.cast(a, kind), e.cast(b, kind), BOOL))


@lowers(*_FOLDED)
def _variadic(site: Site) -> None:
    code = _FOLDED[site.op]
    if site.op == "Mean" and site.dtype().kind != "f":
        raise Refused(f"TFLite has it for floats, not for {site.dtype()}")

    def compute(*operands: Tensor) -> Tensor:
        total = functools.reduce(lambda a, b: site.emit.binary(code, a, b), operands)
        return site.emit.mul(total, 1 / len(operands)) if site.op == "Mean" and len(operands) > 1 else total

    site.elementwise(compute)


@lowers("Reciprocal", "Pow", "Mod", note="Mod: int32, int64 and float32")
def _arithmetic(site: Site) -> None:
    e = site.emit
    if site.op == "Reciprocal":
        site.elementwise(lambda x: e.div(e.scalar(1, x), x))
    elif site.op == "Pow":
        _pow(site)
    elif site.dtype().kind == "f" and not site.attr("fmod", 0):
        site.elementwise(lambda a, b: e.binary("FLOOR_MOD", a, b))
    elif site.dtype().kind == "f":
        # fmod has the sign of the dividend: a − trunc(a / b) · b loses bits where a / b is large, |a| mod |b| does not.
        def fmod(a: Tensor, b: Tensor) -> Tensor:
            rest = e.binary("FLOOR_MOD", e.unary("ABS", a), e.unary("ABS", b))
            return e.select(e.binary("LESS", a, e.scalar(0, a), BOOL), e.unary("NEG", rest), rest)

        site.elementwise(fmod)
    elif site.attr("fmod", 0):
        raise Refused("fmod of integers")
    elif site.dtype().name not in ("int32", "int64"):
        raise Refused(f"TFLite has it for int32 and int64, not for {site.dtype()}")
    else:
        site.elementwise(lambda a, b: e.binary("FLOOR_MOD", a, b))


def _pow(site: Site) -> None:
    e = site.emit
    exponent = site.const(1)
    if site.dtype().kind != "f":
        raise Refused(f"TFLite has it for floats, not for {site.dtype()}")
    if exponent is not None and exponent.size == 1:
        power = float(exponent.reshape(-1)[0])
        simple: dict[float, Compute] = {
            1.0: lambda x: x,
            2.0: lambda x: e.mul(x, x),
            3.0: lambda x: e.mul(e.mul(x, x), x),
            0.5: lambda x: e.unary("SQRT", x),
            -0.5: lambda x: e.unary("RSQRT", x),
            -1.0: lambda x: e.div(e.scalar(1, x), x),
        }
        if power in simple and site.rank(0) == len(site.out().shape):
            operands, perm = site.aligned([0], site.rank(0))
            site.give(simple[power](operands[0]), perm)
            return
    site.elementwise(lambda a, b: e.binary("POW", a, e.cast(b, a.dtype)))


@lowers("Where")
def _where(site: Site) -> None:
    site.elementwise(site.emit.select)


@lowers("Cast", note="between bool, int8, uint8, int16, int32, int64 and float32; float16 and float64 become float32")
def _cast(site: Site) -> None:
    to = kind_of(site.out().dtype)
    if to.name not in ("float32", "bool", "int8", "int16", "int32", "int64", "uint8"):
        raise Refused(f"TFLite does not cast to {to}")

    def cast(x: Tensor) -> Tensor:
        if to == BOOL and x.dtype != BOOL:
            return site.emit.binary("NOT_EQUAL", x, site.emit.scalar(0, x), BOOL)
        return site.emit.cast(x, to)

    site.elementwise(cast)


@lowers("CastLike", note="between bool, int8, uint8, int16, int32, int64 and float32")
def _cast_like(site: Site) -> None:
    to = kind_of(site.out().dtype)
    operands, perm = site.aligned([0], site.rank(0))
    x = operands[0]
    site.give(
        site.emit.binary("NOT_EQUAL", x, site.emit.scalar(0, x), BOOL) if to == BOOL else site.emit.cast(x, to), perm
    )


@lowers("Clip")
def _clip(site: Site) -> None:
    limits = [site.attr("min"), site.attr("max")]
    for i in (1, 2):
        if site.has(i):
            limits[i - 1] = site.need_const(i, ("min", "max")[i - 1]).reshape(-1)[0]
    low, high = (None if v is None or abs(float(v)) >= _LARGEST else v for v in limits)
    operands, perm = site.aligned([0], site.rank(0))
    site.give(clipped(site.emit, operands[0], low, high), perm)


def clipped(e: Emitter, x: Tensor, low: Any, high: Any) -> Tensor:
    """min(max(x, low), high), either of which may be missing."""
    if x.dtype == FLOAT and low is not None and float(low) == 0 and high is not None and float(high) == 6:
        return e.unary("RELU6", x)
    if x.dtype == FLOAT and low is not None and float(low) == 0 and high is None:
        return e.unary("RELU", x)
    if low is not None:
        x = e.at_least(x, e.scalar(low, x))
    if high is not None:
        x = e.at_most(x, e.scalar(high, x))
    return x


@lowers("LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "ThresholdedRelu", "HardSigmoid", "Softplus", "Softsign", "Mish")
def _activation(site: Site) -> None:
    if site.dtype().kind != "f":
        raise Refused(f"TFLite has it for floats, not for {site.dtype()}")
    site.elementwise(_ACTIVATIONS[site.op](site))


def _elu(e: Emitter, x: Tensor, alpha: float, gamma: float = 1.0) -> Tensor:
    """Gamma · (x where x > 0, alpha · (eˣ − 1) elsewhere); ELU has alpha 1."""
    if alpha == 1:
        result = e.unary("ELU", x)
    else:
        below = e.unary("ELU", e.at_most(x, 0.0))
        result = e.add(e.unary("RELU", x), e.mul(below, alpha))
    return result if gamma == 1 else e.mul(result, gamma)


def _prelu(site: Site) -> Compute:
    e = site.emit

    def compute(x: Tensor, slope: Tensor) -> Tensor:
        if slope.data is not None and slope.data.size == 1:
            return e.unary("LEAKY_RELU", x, alpha=float(slope.data.reshape(-1)[0]))
        if slope.data is not None and len(x.shape) in (2, 3, 4) and slope.data.size == slope.data.shape[-1]:
            # TFLite's slope has one dimension less than x, and is shared where it is 1.
            shape = (1,) * (len(x.shape) - 2) + (slope.data.size,)
            return e.op("PRELU", [x, e.constant(slope.data.reshape(shape), label="slope")], x.shape)
        return e.add(e.unary("RELU", x), e.mul(e.at_most(x, 0.0), slope))

    return compute


def _celu(site: Site) -> Compute:
    e, alpha = site.emit, float(site.attr("alpha", 1.0))
    return lambda x: e.mul(e.unary("ELU", e.mul(x, 1 / alpha)), alpha) if alpha != 1 else e.unary("ELU", x)


def _thresholded(site: Site) -> Compute:
    e, alpha = site.emit, float(site.attr("alpha", 1.0))

    def compute(x: Tensor) -> Tensor:
        return e.select(e.binary("GREATER", x, e.scalar(alpha, x), BOOL), x, e.scalar(0, x))

    return compute


def _hard_sigmoid(site: Site) -> Compute:
    e = site.emit
    alpha, beta = float(site.attr("alpha", 0.2)), float(site.attr("beta", 0.5))
    return lambda x: e.at_most(e.unary("RELU", e.add(e.mul(x, alpha), beta)), 1.0)


def softplus(e: Emitter, x: Tensor) -> Tensor:
    """log(1 + eˣ) without overflow: max(x, 0) + log(1 + e^−|x|)."""
    tail = e.unary("EXP", e.unary("NEG", e.unary("ABS", x)))
    return e.add(e.unary("RELU", x), e.unary("LOG", e.add(tail, 1.0)))


_ACTIVATIONS: dict[str, Callable[[Site], Compute]] = {
    "LeakyRelu": lambda s: lambda x: s.emit.unary("LEAKY_RELU", x, alpha=float(s.attr("alpha", 0.01))),
    "PRelu": _prelu,
    "Elu": lambda s: lambda x: _elu(s.emit, x, float(s.attr("alpha", 1.0))),
    "Selu": lambda s: (
        lambda x: _elu(
            s.emit,
            x,
            float(s.attr("alpha", 1.67326319217681884765625)),
            float(s.attr("gamma", 1.05070102214813232421875)),
        )
    ),
    "Celu": _celu,
    "ThresholdedRelu": _thresholded,
    "HardSigmoid": _hard_sigmoid,
    "Softplus": lambda s: lambda x: softplus(s.emit, x),
    "Softsign": lambda s: lambda x: s.emit.div(x, s.emit.add(s.emit.unary("ABS", x), 1.0)),
    "Mish": lambda s: lambda x: s.emit.mul(x, s.emit.unary("TANH", softplus(s.emit, x))),
}


@lowers("Gelu")
def _gelu(site: Site) -> None:
    approximate = site.attr("approximate", "none") == "tanh"
    site.elementwise(lambda x: site.emit.unary("GELU", x, approximate=approximate))


@lowers("Erf", note="by a rational approximation (Abramowitz and Stegun 7.1.26), error below 5e-7")
def _erf(site: Site) -> None:
    if site.dtype().kind != "f":
        raise Refused(f"TFLite has it for floats, not for {site.dtype()}")
    site.emit.exact = True
    site.elementwise(lambda x: erf(site.emit, x))


def erf(e: Emitter, x: Tensor) -> Tensor:
    """sign(x) · (1 − (a₁t + … + a₅t⁵) · e^−x²), t = 1 / (1 + p|x|)."""
    size = e.unary("ABS", x)
    t = e.div(e.scalar(1, x), e.add(e.mul(size, _ERF_P), 1.0))
    poly = e.mul(t, _ERF[-1])
    for a in reversed(_ERF[:-1]):
        poly = e.mul(e.add(poly, a), t)
    positive = e.sub(e.scalar(1, x), e.mul(poly, e.unary("EXP", e.unary("NEG", e.mul(x, x)))))
    return e.select(e.binary("LESS", x, e.scalar(0, x), BOOL), e.unary("NEG", positive), positive)


@lowers("IsNaN", "IsInf", "Tan", "Cosh", "Atan", note="IsInf: both signs")
def _rare(site: Site) -> None:
    e = site.emit
    exp = functools.partial(e.unary, "EXP")
    if site.op == "IsInf" and not (site.attr("detect_positive", 1) and site.attr("detect_negative", 1)):
        raise Refused("one sign only")
    table: dict[str, Compute] = {
        "IsNaN": lambda x: e.binary("NOT_EQUAL", x, x, BOOL),
        "IsInf": lambda x: e.binary("GREATER", e.unary("ABS", x), e.scalar(_LARGEST, x), BOOL),
        "Tan": lambda x: e.div(e.unary("SIN", x), e.unary("COS", x)),
        "Cosh": lambda x: e.mul(e.add(exp(x), exp(e.unary("NEG", x))), 0.5),
        "Atan": lambda x: e.op("ATAN2", [x, e.add(e.mul(x, 0.0), 1.0)], x.shape),
    }
    site.elementwise(table[site.op])
