"""Gram matrices of what weights are multiplied with, over calibration data: what `compensate` rounds by.

The tensors that the layers read become outputs, in groups and batch by batch (`calibrate.observed`). A Conv's input is
cut into the patches that the kernel sees, with its pads, strides, dilations and groups; an LSTM's, GRU's or RNN's
recurrent weights see the hidden states one step before. Of each batch evenly spread positions are taken, so that work and
memory are bounded; neighbouring patches say much the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from edgemodel_compressor.evaluate.runner import Arrays, Batches

from .calibrate import Progress, observed
from .compensate import Floats, Gram, exact_square
from .graph import attribute, copy_of, fresh, is_standard, names_in
from .prepare import infer_shapes
from .weights import Weight, weights

#: Wider matrices are left to plain rounding: the work grows with the cube.
MOST_COLUMNS = 2048
#: Numbers in all matrices of a model; weights that come after stay plain.
MOST_NUMBERS = 2**24
#: Positions for each column, and bounds of them.
_POSITIONS, _LEAST, _MOST = 8, 4096, 16384
#: Of two, that a matrix's elements may have.
_MOST_EXPONENT = 100
_RECURRENT = ("LSTM", "GRU", "RNN")
Array = npt.NDArray[Any]
#: Cuts a batch's tensor into [groups, positions, n], of so many positions at most, beginning with the one given.
Cut = Callable[[Array, int, int], Array]


@dataclass(frozen=True)
class _Reader:
    """How one node reads a weight.

    Attributes:
        tensor: what the weight is multiplied with.
        groups: of the weight's rows.
        cut: into positions.
    """

    tensor: str
    groups: int
    cut: Cut


@dataclass
class _Sum:
    """Of one weight, over batches."""

    matrix: Floats
    positions: int = 0
    finite: bool = True

    def add(self, x: Array) -> None:
        """[groups, positions, n]."""
        if not x.size:
            return
        self.finite = self.finite and bool(np.isfinite(x).all())
        if self.finite:
            self.matrix += exact_square(x)
            self.positions += x.shape[1]

    def gram(self, axes: tuple[int, ...]) -> Gram:
        matrix = self.matrix / self.positions
        # Only ratios of its elements count: those of huge inputs are brought within float32.
        _, exponent = np.frexp(matrix.max(initial=0.0))
        beyond = max(0, int(exponent) - _MOST_EXPONENT)
        return Gram(np.ldexp(matrix, -beyond).astype(np.float32), axes, self.positions)


@dataclass
class _Wanted:
    """A weight and its readers."""

    weight: Weight
    readers: list[_Reader] = field(default_factory=list)

    @property
    def columns(self) -> int:
        rows = math.prod(self.weight.shape[a] for a in self.weight.channel_axes)
        return self.weight.size // max(1, rows)


def grams(
    model: Any,
    data: Batches,
    *,
    rows: int,
    samples: int,
    seed: int,
    threads: int = 1,
    progress: Progress | None = None,
) -> dict[str, Gram]:
    """Of every weight that one can be taken of, by name.

    Weights of subgraphs, wider than `MOST_COLUMNS`, or read by a node of another operator than Conv, MatMul, Gemm, LSTM,
    GRU and RNN have none.

    Args:
        model: prepared ModelProto; not changed.
        data: rows named as its inputs.
        rows: of one run.
        samples: about so many rows.
        seed: where their spread begins.
        threads: so many weights at a time; the numbers are the same.
        progress: called with (batches done, batches in all).

    Raises:
        InputError: no data, or the model fails on it.
    """
    made = infer_shapes(copy_of(model))
    wanted = _wanted(made)
    sums: dict[str, _Sum] = {}
    for found in wanted:
        n, groups = found.columns, found.readers[0].groups
        sums[found.weight.name] = _Sum(np.zeros((groups, n, n)))
    tensors = tuple(dict.fromkeys(r.tensor for w in wanted for r in w.readers))
    if not tensors:
        return {}
    total = max(1, min(samples, data.samples))
    seen = observed(made, tensors, data, rows=rows, samples=samples, seed=seed, progress=progress)
    with ThreadPoolExecutor(threads, thread_name_prefix="inputs") as pool:
        for index, (count, values) in enumerate(seen):

            def add(found: _Wanted, index: int = index, count: int = count, values: Arrays = values) -> None:
                positions = min(_MOST, max(_LEAST, _POSITIONS * found.columns)) / len(found.readers)
                for reader in found.readers:
                    # A batch without rows: a detector that found nothing hands on no regions.
                    if reader.tensor in values and values[reader.tensor].size:
                        cut = reader.cut(values[reader.tensor], math.ceil(positions * count / total), index)
                        sums[found.weight.name].add(cut)

            # A weight's sum is one thread's: in another order it would be another one.
            list(pool.map(add, wanted))
    return {
        found.weight.name: s.gram(found.weight.channel_axes)
        for found in wanted
        if (s := sums[found.weight.name]).finite and s.positions
    }


def taken(model: Any) -> int:
    """About how many bytes `grams` and `compensate` take beside the model: its sums, then its matrices and one that is factored.

    Args:
        model: prepared ModelProto; not changed.
    """
    sizes = [w.readers[0].groups * w.columns**2 for w in _wanted(infer_shapes(copy_of(model)))]
    return 16 * sum(sizes) + 32 * max(sizes, default=0)


def _wanted(model: Any) -> list[_Wanted]:
    """Weights whose readers are all known. Hidden states that nothing reads get a name in the model."""
    types = {v.name: v.type.tensor_type for v in (*model.graph.value_info, *model.graph.output, *model.graph.input)}
    floats = {name for name, t in types.items() if t.elem_type == TensorProto.FLOAT}
    taken = names_in(model.graph)
    found: dict[str, _Wanted] = {
        w.name: _Wanted(w)
        for w in weights(model)
        if w.channel_axes and (w.graph is model.graph or w.graph == model.graph)
    }
    lost: set[str] = set()
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name not in found:
                continue
            reader = _reader(node, index, found[name].weight, taken, floats) if is_standard(node) else None
            if reader is None:
                lost.add(name)
            else:
                found[name].readers.append(reader)
    chosen, room = [], MOST_NUMBERS
    for name, wanted in found.items():
        # Each use that `weights` knows has to be among those found here: others lie in subgraphs or behind other nodes.
        known = name not in lost and 0 < len(wanted.weight.uses) <= len(wanted.readers)
        if not known or len({r.groups for r in wanted.readers}) > 1 or wanted.columns > MOST_COLUMNS:
            continue
        size = wanted.readers[0].groups * wanted.columns**2
        if size <= room:
            room -= size
            chosen.append(wanted)
    return chosen


def _reader(node: Any, index: int, weight: Weight, taken: set[str], floats: set[str]) -> _Reader | None:
    if node.op_type in _RECURRENT and index == 2:
        return _hidden(node, weight, taken)
    tensor = str(node.input[0])
    if index != 1 or tensor not in floats:
        return None
    rank = len(weight.shape)
    if node.op_type == "Conv" and weight.channel_axes == (0,) and rank > 2:
        window = _Window.of(node, weight.shape)
        return None if window is None else _Reader(tensor, window.groups, window.cut)
    if node.op_type == "MatMul" and rank == 2 and weight.channel_axes == (1,):
        return _Reader(tensor, 1, _last_axis)
    if node.op_type == "Gemm" and rank == 2 and weight.channel_axes == (0 if attribute(node, "transB", 0) else 1,):
        return _Reader(tensor, 1, _first_axis if attribute(node, "transA", 0) else _last_axis)
    if node.op_type in _RECURRENT and rank == 3 and weight.channel_axes == (0, 1):
        return _Reader(tensor, 1, _last_axis)
    return None


def _spread(count: int, most: int, start: int) -> npt.NDArray[np.int64]:
    """At most `most` of `count` positions, evenly spaced; where they begin hangs on `start`."""
    if count <= most:
        return np.arange(count, dtype=np.int64)
    step = count / most
    offset = (start * 0.618034) % 1 * step
    return np.minimum(count - 1, (np.arange(most) * step + offset).astype(np.int64))


def _last_axis(x: Array, most: int, start: int) -> Array:
    flat = x.reshape(-1, x.shape[-1])
    return flat[_spread(len(flat), most, start)][None]


def _first_axis(x: Array, most: int, start: int) -> Array:
    return _last_axis(x.T, most, start)


def _hidden(node: Any, weight: Weight, taken: set[str]) -> _Reader | None:
    """Hidden states h(t−1), from the output Y [steps, directions, batch, hidden]."""
    if (
        attribute(node, "layout", 0)
        or weight.channel_axes != (0, 1)
        or len(weight.shape) != 3
        or (len(node.input) > 4 and node.input[4])
    ):
        return None
    if not node.output[0]:
        node.output[0] = fresh(f"{node.name}/states", taken)
    way = attribute(node, "direction", b"forward")

    def cut(y: Array, most: int, start: int) -> Array:
        # The first step sees the initial state, which is mostly zero: it is left out.
        parts = [y[1:, d] if d or way == b"reverse" else y[:-1, d] for d in range(y.shape[1])]
        flat = np.stack([p.reshape(-1, p.shape[-1]) for p in parts])
        return np.asarray(flat[:, _spread(flat.shape[1], most, start)])

    return _Reader(str(node.output[0]), weight.shape[0], cut)


@dataclass(frozen=True)
class _Window:
    """What a Conv's kernel sees (onnx.ai/onnx/operators/onnx__Conv).

    Attributes:
        kernel: sizes.
        strides: of the output's positions.
        dilations: between a kernel's elements.
        pads: begins, then ends; None: made from `auto_pad`.
        auto_pad: SAME_UPPER or SAME_LOWER where `pads` is None.
        groups: of channels.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...] | None
    auto_pad: str
    groups: int

    @classmethod
    def of(cls, node: Any, shape: tuple[int, ...]) -> _Window | None:
        kernel = shape[2:]
        ones = (1,) * len(kernel)
        auto = attribute(node, "auto_pad", b"NOTSET").decode(errors="replace")
        pads: tuple[int, ...] | None = tuple(attribute(node, "pads", (0,) * 2 * len(kernel)))
        if auto == "VALID":
            pads = (0,) * 2 * len(kernel)
        elif auto in ("SAME_UPPER", "SAME_LOWER"):
            pads = None
        strides, dilations = tuple(attribute(node, "strides", ones)), tuple(attribute(node, "dilations", ones))
        groups = int(attribute(node, "group", 1))
        if groups < 1 or shape[0] % groups or min((*(pads or ()), *(n - 1 for n in (*strides, *dilations)))) < 0:
            return None
        return cls(kernel, strides, dilations, pads, auto, groups)

    def cut(self, x: Array, most: int, start: int) -> Array:
        """[groups, positions, channels of a group × kernel]."""
        extent = tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True))
        begins, ends = self._pads(x.shape[2:], extent)
        padded = np.pad(x, ((0, 0), (0, 0), *zip(begins, ends, strict=True)))
        spatial = tuple(range(2, x.ndim))
        views = np.lib.stride_tricks.sliding_window_view(padded, extent, axis=spatial)
        every = (slice(None), slice(None), *(slice(None, None, n) for n in (*self.strides, *self.dilations)))
        # [batch, positions…, channels, kernel…]: one picked position is one patch, in the order of the weight's axes.
        patches = np.moveaxis(views[every], 1, 1 + len(spatial))
        shape = patches.shape[: 1 + len(spatial)]
        picked = np.unravel_index(_spread(math.prod(shape), most, start), shape)
        flat = patches[picked].reshape(len(picked[0]), self.groups, -1)
        return np.asarray(np.swapaxes(flat, 0, 1))

    def _pads(self, sizes: Iterable[int], extent: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if self.pads is not None:
            half = len(self.kernel)
            return self.pads[:half], self.pads[half:]
        wholes = [
            max(0, (math.ceil(n / s) - 1) * s + e - n) for n, s, e in zip(sizes, self.strides, extent, strict=True)
        ]
        less = tuple(w // 2 for w in wholes)
        more = tuple(w - w // 2 for w in wholes)
        return (less, more) if self.auto_pad == "SAME_UPPER" else (more, less)
