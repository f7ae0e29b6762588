"""Data-aware rounding of stored weights: the error of one column is taken back by the columns that follow. Pure.

A layer answers W·x. Plain rounding makes each weight's own error small; what counts is the error of the answers,
E|(W − Ŵ)·x|² = tr(D·H·Dᵀ) with D = W − Ŵ and the inputs' Gram matrix H = E[x·xᵀ]. With H = R·Rᵀ, R upper triangular,
it is |D·R|², whose column j hangs on the columns 0…j of D alone. So the columns are rounded one after the other, each
to the number nearest to what makes up for the errors before it:

    t_j = w_j + Σ_{k<j} D_k·R_kj / R_jj,    q_j = clip(round(t_j / s_j))

That is GPTQ (Frantar et al. 2022, arXiv:2210.17323) in the form of Babai's nearest plane (Chen et al. 2025,
arXiv:2507.18553), columns with the largest inputs first; with zeros that stay zero it is SparseGPT's rule for a mask
that is given (Frantar and Alistarh 2023, arXiv:2301.00774). Scales are the ones that were chosen before. A row whose
answers are not better by it keeps its plain numbers. (Correcting biases by the mean error that is left, as Nagel et al.
2019, arXiv:1906.04721, gained nothing on top of it: H holds the means, too.)

Sums of floats hang on their order, and BLAS's order on the number of threads. Here all products of matrices are of
numbers rounded to so few bits that every sum is exact (`exact_product`; the first slice of Ozaki et al. 2012,
doi:10.1007/s11075-011-9478-1): the same inputs give the same bytes, however many threads there are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from .encodings import Encoding
from .weight_only import Stored, encode, limits_of
from .weights import Weight, channels, from_channels

Floats = npt.NDArray[np.float64]
#: Kept in less room; computed with as float64.
Kept = npt.NDArray[np.float32] | Floats
Mask = npt.NDArray[np.bool_]

#: Of the mean of H's diagonal, added to it: inputs that were never seen must not take any error for free.
DAMPING = 0.01
#: Columns that are rounded between two products of matrices.
_PANEL = 64
#: A float64 holds whole numbers up to 2^53.
_MANTISSA = 53
#: 2^1023 is the largest power of two.
_MOST_SHIFT = 1023
#: Numbers that an `Encoder` remembers.
_REMEMBERED = 2**26


@dataclass(frozen=True)
class Gram:
    """Second moments of what a weight is multiplied with, over calibration data.

    Attributes:
        matrix: [groups, n, n], E[x·xᵀ]; groups of a Conv, 1 otherwise. n: input channels of a group × kernel.
        axes: of the output channels in the weight, ascending; the other axes in order are x's.
        positions: how many x it was taken from.
    """

    matrix: Kept
    axes: tuple[int, ...]
    positions: int

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a weight of this shape can be multiplied with these inputs."""
        if any(a >= len(shape) for a in self.axes):
            return False
        groups, n, _ = self.matrix.shape
        rows = math.prod(shape[a] for a in self.axes)
        return rows > 0 and math.prod(shape) == rows * n and rows % groups == 0

    @cached_property
    def order(self) -> npt.NDArray[np.int64]:
        """Of the columns: largest inputs first."""
        return np.argsort(-np.einsum("gii->i", self.matrix), kind="stable")

    @cached_property
    def upper(self) -> Kept:
        """R of the columns in that order; kept, as a weight is rounded many times."""
        return factor(self.matrix[:, self.order[:, None], self.order]).astype(np.float32)


@dataclass
class Encoder:
    """Stores weights of one model: compensated where their inputs are known, else plainly. Zeros stay zero: they were pruned.

    It remembers: the candidates of a bisection have most weights in common.

    Attributes:
        grams: by the weights' names.
        compensated: names of weights whose numbers are others for it.
    """

    grams: Mapping[str, Gram]
    compensated: set[str] = field(default_factory=set)
    _known: dict[tuple[str, Encoding], tuple[Stored, bool]] = field(default_factory=dict)

    def anew(self) -> Encoder:
        """One that counts for itself, and remembers the same."""
        return replace(self, compensated=set())

    def __call__(self, weight: Weight, values: npt.NDArray[Any], encoding: Encoding) -> Stored | None:
        """The stored form; None where the type cannot hold the weight."""
        key = (weight.name, encoding)
        if key not in self._known:
            plain = encode(values, weight.channel_axes, encoding)
            gram = self.grams.get(weight.name)
            if plain is None or plain.scales is None or gram is None or not gram.fits(values.shape):
                return plain
            zeros = values == 0
            found = compensate(
                values,
                plain,
                gram,
                limits=limits_of(encoding),
                zeros=zeros if zeros.any() else None,
                dead=encoding.dead,
            )
            self._known[key] = found, not np.array_equal(found.numbers, plain.numbers)
            while len(self._known) > 1 and sum(s.numbers.size for s, _ in self._known.values()) > _REMEMBERED:
                del self._known[next(iter(self._known))]
        stored, differs = self._known[key]
        if differs:
            self.compensated.add(weight.name)
        return stored


def compensate(
    values: npt.NDArray[np.floating],
    stored: Stored,
    gram: Gram,
    *,
    limits: tuple[int, int],
    zeros: Mask | None = None,
    dead: float = 0.5,
) -> Stored:
    """The same scales with numbers whose answers are nearer to those of `values`.

    Args:
        values: the weight, finite; before pruning, if it was pruned.
        stored: whole numbers and scales, as `encode` made them.
        gram: of its inputs.
        limits: smallest and largest number.
        zeros: where the weight was pruned, its shape: zeros there stay.
        dead: targets of less than so many steps become zero: at least 0.5.
    """
    if stored.scales is None or not np.trace(gram.matrix.sum(axis=0)) > 0:
        return stored
    groups, n, _ = gram.matrix.shape

    def rows(array: npt.NDArray[np.generic]) -> Floats:
        return channels(array, gram.axes).reshape(groups, -1, n).astype(np.float64)

    scales = stored.scales
    if stored.spread is not None:
        scales = np.take(scales, stored.spread[1], axis=stored.spread[0])
    step = rows(np.broadcast_to(scales, values.shape))
    wanted, plain = rows(values), rows(stored.numbers)
    kept = None if zeros is None else ~channels(zeros, gram.axes).reshape(groups, -1, n)
    order = gram.order
    found = np.empty_like(plain)
    found[:, :, order] = _rounded(
        wanted[:, :, order],
        step[:, :, order],
        gram.upper,
        limits=limits,
        kept=None if kept is None else kept[:, :, order],
        dead=dead,
    )
    better = answer_error(wanted - found * step, gram) < answer_error(wanted - plain * step, gram)
    # −8 steps may be more than the type holds, where 7 are not (`weight_only`).
    with np.errstate(over="ignore"):
        better &= np.isfinite((found * step).astype(values.dtype)).all(axis=2)
    numbers = np.where(better[:, :, None], found, plain).astype(stored.numbers.dtype)
    restored = from_channels(numbers.reshape(-1, n), values.shape, gram.axes)
    return replace(stored, numbers=np.ascontiguousarray(restored))


def answer_error(difference: Floats, gram: Gram) -> Floats:
    """[groups, rows]: E|d·x|² of each row d of `difference` [groups, rows, n]."""
    return np.asarray((exact_product(difference, gram.matrix) * difference).sum(axis=2))


def _rounded(
    wanted: Floats, step: Floats, upper: Kept, *, limits: tuple[int, int], kept: Mask | None, dead: float
) -> Floats:
    """Numbers, column by column; within a panel by rank-one updates, between panels by products."""
    n = wanted.shape[2]
    numbers, difference = np.zeros_like(wanted), np.zeros_like(wanted)
    for begin in range(0, n, _PANEL):
        end = min(n, begin + _PANEL)
        carried = exact_product(difference[:, :, :begin], upper[:, :begin, begin:end])
        for j in range(begin, end):
            target = wanted[:, :, j] + carried[:, :, j - begin] / upper[:, j, j, None]
            steps = target / step[:, :, j]
            number = np.clip(np.rint(steps), *limits)
            number[np.abs(steps) < dead] = 0
            if kept is not None:
                number *= kept[:, :, j]
            numbers[:, :, j] = number
            difference[:, :, j] = wanted[:, :, j] - number * step[:, :, j]
            ahead = upper[:, None, j, j + 1 : end]
            carried[:, :, j + 1 - begin :] += difference[:, :, j, None] * ahead
    return numbers


def factor(matrix: Kept) -> Floats:
    """R [groups, n, n], upper triangular: R·Rᵀ = the damped matrix. Cholesky from the last column to the first."""
    n = matrix.shape[1]
    rest = matrix[:, ::-1, ::-1].astype(np.float64)
    diagonal = np.einsum("gii->gi", rest)
    # A group without any input has nothing to make up for: the unit matrix carries nothing on.
    level = diagonal.mean(axis=1, keepdims=True)
    diagonal += np.where(level > 0, DAMPING * level, 1.0)
    lower = np.zeros_like(rest)
    for begin in range(0, n, _PANEL):
        end = min(n, begin + _PANEL)
        panel = rest[:, begin:, begin:end]
        for j in range(end - begin):
            panel[:, j:, j] /= np.sqrt(panel[:, j, j, None])
            panel[:, j + 1 :, j + 1 :] -= panel[:, j + 1 :, j, None] * panel[:, None, j + 1 : end - begin, j]
        lower[:, begin:, begin:end] = np.where(np.tri(n - begin, end - begin, dtype=bool), panel, 0)
        below = lower[:, end:, begin:end]
        rest[:, end:, end:] -= exact_product(below, np.swapaxes(below, 1, 2))
    return np.ascontiguousarray(lower[:, ::-1, ::-1])


def exact_product(a: Kept, b: Kept) -> Floats:
    """Matrix product [groups, m, k] · [groups, k, n], the same bits in every order of summation.

    Each row of `a` and column of `b` is rounded to about (53 − log₂ k) / 2 bits (20 for k = 4096), next to a power of
    two: whole numbers then, whose sums stay below 2^53.
    """
    bits = (_MANTISSA - max(1, a.shape[2]).bit_length()) // 2
    left, left_exponent = _whole(a, bits, axis=2)
    right, right_exponent = _whole(b, bits, axis=1)
    return np.asarray(np.ldexp(np.matmul(left, right), left_exponent + right_exponent))


def exact_square(x: npt.NDArray[np.floating]) -> Floats:
    """xᵀ·x [groups, n, n] of [groups, positions, n], as `exact_product` gives it, in less than half the time."""
    whole, exponent = _whole(x, (_MANTISSA - max(1, x.shape[1]).bit_length()) // 2, axis=1)
    return np.asarray(np.ldexp(np.matmul(np.swapaxes(whole, 1, 2), whole), np.swapaxes(exponent, 1, 2) + exponent))


def _whole(array: npt.NDArray[np.floating], bits: int, axis: int) -> tuple[Floats, npt.NDArray[np.int32]]:
    """Whole numbers of at most `bits` bits, and the exponent of two to give back to them, alike along `axis`."""
    largest = np.maximum(
        array.max(axis=axis, keepdims=True, initial=0), -array.min(axis=axis, keepdims=True, initial=0)
    )
    _, exponent = np.frexp(largest.astype(np.float64))
    # A product by a power of two is as exact as ldexp, and several times as fast.
    shift = np.minimum(bits - exponent, _MOST_SHIFT)
    numbers = array * np.ldexp(1.0, shift)
    return np.rint(numbers, out=numbers), -shift.astype(np.int32)
