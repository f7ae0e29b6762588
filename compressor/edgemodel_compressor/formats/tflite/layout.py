"""Which order of axes each tensor is held in.

A value is held in one or more layouts. A layout is a permutation: axis j of the TFLite tensor is axis `perm[j]` of the
ONNX tensor; (0, 1, …) is plain. Convolutions make and take channels-last tensors (TFLite's kernels know no other), and
everything that does not care about the order works in the one its largest operand is held in. So a chain of
convolutions, activations, additions and poolings has no transposition inside; one is written where a plain tensor is
asked for, at most once for each value. An ONNX Transpose only changes the permutation.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .graph import Shape, Tensor

Perm = tuple[int, ...]


def plain(rank: int) -> Perm:
    """ONNX's own order."""
    return tuple(range(rank))


def channels_last(rank: int) -> Perm:
    """(N, C, …) as (N, …, C)."""
    return (0, *range(2, rank), 1) if rank > 2 else plain(rank)


def permuted(shape: Shape, perm: Perm) -> Shape:
    """Shape of the tensor that holds a value of `shape` in layout `perm`."""
    return tuple(shape[a] for a in perm)


def between(held: Perm, wanted: Perm) -> Perm:
    """The transposition of the tensor that leads from one layout to another."""
    return tuple(held.index(a) for a in wanted)


def only_units_move(shape: Shape, perm: Perm) -> bool:
    """Whether transposing a tensor of `shape` leaves its numbers in order, so that a reshape is enough."""
    moved = [a for a in perm if int(shape[a]) != 1 or type(shape[a]) is not int]
    return moved == sorted(moved)


@dataclass
class Value:
    """A value of the ONNX graph, as it is held.

    Attributes:
        shape: in ONNX's order.
        held: TFLite tensors by layout, the one it was made in first.
    """

    shape: Shape
    held: dict[Perm, Tensor] = field(default_factory=dict)

    @property
    def perm(self) -> Perm:
        """The layout that it was made in."""
        return next(iter(self.held), plain(len(self.shape)))
