"""N:M pruning: of each M weights that follow each other along the input, at most N stay.

The axis is NVIDIA's (Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks", arXiv:2104.08378; its library ASP):
the one that is summed over. That is C/group of Conv [M, C/group, k…] (each place of the kernel is a row of its own),
C of ConvTranspose [C, M/group, k…] (within a group), K of MatMul [K, N] and of Gemm, transposed or not, and the last
axis of LSTM, GRU and RNN. Groups of M are counted from index 0 of that axis; a rest of r < M weights keeps min(N, r).
An embedding sums over nothing and stays, and so does an axis no longer than N (depthwise Conv).

In a group those with the smallest |w| go; of equal ones, those with the smaller index. A group lies within one output
channel, so the methods of `prune` rank alike, and so do its granularities.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .ranking import Mask
from .weights import Weight

_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})


def parse(pattern: str) -> tuple[int, int]:
    """N and M.

    >>> parse("2:4")
    (2, 4)
    """
    n, m = pattern.split(":")
    return int(n), int(m)


def input_axis(weight: Weight) -> int | None:
    """The axis of the initializer that is summed over; None: there is none, or it is not known."""
    rank, outputs = len(weight.shape), weight.channel_axes
    if weight.op == "Gather" or not outputs:
        return None
    if rank == 2:
        return 1 - outputs[0] if len(outputs) == 1 else None
    if weight.op == "Conv" and outputs == (0,):
        return 1
    if weight.op == "ConvTranspose" and outputs == (1,):
        return 0
    if weight.op in _RECURRENT and outputs == (0, 1):
        return 2
    if weight.op in ("MatMul", "FusedMatMul") and outputs in ((rank - 1,), (rank - 2,)):
        return 2 * rank - 3 - outputs[0]
    return None


def gone(values: npt.NDArray[np.generic], axis: int, n: int, m: int, *, blocks: int = 1) -> Mask:
    """Which weights go: a mask of the shape of `values`.

    Args:
        values: a weight.
        axis: along which groups of `m` are counted.
        n: how many of them stay.
        m: size of a group.
        blocks: parts of the axis of equal length in which counting begins anew: groups of a ConvTranspose.
    """
    moved = np.moveaxis(np.abs(values.astype(np.float64)), axis, -1)
    lead, length = moved.shape[:-1], moved.shape[-1]
    rows = moved.reshape(-1, blocks, length // blocks)
    rest = -rows.shape[-1] % m
    # Places beyond the end are smaller than any weight, so they go first.
    padded = np.pad(rows, ((0, 0), (0, 0), (0, rest)), constant_values=-1.0)
    groups = padded.reshape(-1, m)
    order = np.argsort(groups, axis=1, kind="stable")
    mask: Mask = np.zeros(groups.shape, dtype=bool)
    np.put_along_axis(mask, order[:, : m - n], True, axis=1)
    mask = mask.reshape(padded.shape)[..., : rows.shape[-1]].reshape(*lead, length)
    return np.moveaxis(mask, -1, axis)
