"""Which layers overflow 16 bits on x86 without VNNI: by arithmetic, on any machine.

There u8 × s8 is multiplied by `vpmaddubsw`: two neighbouring products are added in a saturating int16. Kernels take
neighbours along the inner axis: rows 2i and 2i+1 of a MatMul's weights, and for a convolution the inner axis is
[kernel positions, input channels]. s8 activations are moved to u8 first (a + 128); u8 weights are widened to 16 bits
before they are multiplied, which is exact, and so are depthwise convolutions. So for each layer:

- bound: the largest |a₀·w₀ + a₁·w₁| that any a in 0…255 could give. Within 32767: the layer is safe on any data.
- seen, share, error: the same on real rows: the largest, how many are beyond, and what that does to the layer's answer.

Source: Intel SDM, `VPMADDUBSW`; onnxruntime's MLAS, `QgemmU8S8KernelAvx2`, and its depthwise kernels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from edgemodel_api.errors import InputError
from edgemodel_api.hardware import HardwareClass
from edgemodel_compressor.evaluate.runner import Arrays
from edgemodel_compressor.steps.graph import attribute

LIMIT = 2**15 - 1
#: Where `vpmaddubsw` is used: AVX2, and AVX-512 without VNNI. (SSE4 kernels widen first.)
SATURATING = frozenset({str(HardwareClass.AMD64_AVX2)})
#: Sums of two that are looked at for one layer and one request, at most; rows are spread over the layer's.
MOST_SUMS = 2**24
#: At a time, in memory.
CHUNK = 2**21
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Saturation:
    """One layer that multiplies u8 (or s8) activations by s8 weights.

    Attributes:
        node: its name in the model before it was quantized.
        bound: largest |sum of two products| that any activations could give.
        seen: the largest on the rows that were looked at; of layers whose activations cannot be seen (LSTM), the bound.
        share: of all sums of two on these rows, those beyond 16 bits.
        error: ‖saturated − exact‖₂ / ‖exact‖₂ of the layer's answers on these rows; NaN where they cannot be seen.
        weights: whether the second factor is a weight; False: it is an activation, too.
    """

    node: str
    bound: int
    seen: int
    share: float
    error: float
    weights: bool = True

    @property
    def saturates(self) -> bool:
        """Whether it was seen to."""
        return self.seen > LIMIT


@dataclass
class _Product:
    """A layer: where its integers are.

    Attributes:
        node: name before quantizing.
        op: Conv, MatMul (A [..., K] × B [..., K, N]) or LSTM.
        left: tensor of activations.
        zero: of them: a tensor, or a number.
        signed: whether they are s8.
        right: weights [K, N] (of each group), or the name of a tensor.
        conv: the node, for its attributes; its weights' shape and groups.
    """

    node: str
    op: str
    left: str
    zero: str | int
    signed: bool
    right: tuple[Ints, ...] | str
    conv: Any = None
    kernel: tuple[int, ...] = ()


@dataclass
class _Sums:
    """What was seen of a layer."""

    bound: int
    seen: int = 0
    beyond: int = 0
    count: int = 0
    excess: float = 0.0
    exact: float = 0.0
    blind: bool = field(default=False)


def find_saturation(model_path: Path, feeds: Sequence[Arrays]) -> tuple[Saturation, ...]:
    """Every layer of a quantized model that could saturate (its bound is beyond 16 bits), in the graph's order.

    Args:
        model_path: as `steps.quantize` writes it: QDQ, MatMulInteger, QAttention, DynamicQuantizeLSTM.
        feeds: requests; each is run once, with float arithmetic between the integers.

    Raises:
        InputError: the model fails on the feeds.
    """
    model = onnx.load(str(model_path))
    products = list(_products(model))
    sums = [_Sums(_bound(p), blind=p.op == "LSTM") for p in products]
    risky = [(p, s) for p, s in zip(products, sums, strict=True) if s.bound > LIMIT]
    visible = [(p, s) for p, s in risky if not s.blind]
    if visible:
        session, names = _watched(model, [p for p, _ in visible])
        for feed in feeds:
            try:
                values = dict(zip(names, session.run(names, feed), strict=True))
            except Exception as error:
                text = str(error).strip().splitlines()[-1][:300]
                raise InputError(f"the quantized model fails on the data: {text}") from None
            for product, found in visible:
                _look(product, values, found)
    return tuple(_summary(p, s) for p, s in risky)


def pair_sums(left: Ints, right: Ints) -> Ints:
    """Sums of two neighbouring products, before they are clipped.

    Args:
        left: activations as u8 values, [rows, K].
        right: weights, [K, N].

    Returns:
        [rows, ceil(K / 2), N]; a last product without a neighbour is alone.
    """
    a, b = _even(left, 1), _even(right, 0)
    products = a[:, :, None] * b[None, :, :]
    summed: Ints = products[:, 0::2] + products[:, 1::2]
    return summed


def bound(right: Ints) -> int:
    """Largest |sum of two products| of weights [K, N] with any u8 activations."""
    even = _even(right, 0)
    first, second = even[0::2], even[1::2]
    above = 255 * (np.maximum(first, 0) + np.maximum(second, 0))
    below = 255 * (np.minimum(first, 0) + np.minimum(second, 0))
    return int(max(above.max(initial=0), -below.min(initial=0)))


def _even(array: Ints, axis: int) -> Ints:
    if array.shape[axis] % 2 == 0:
        return array
    width = [(0, 0)] * array.ndim
    width[axis] = (0, 1)
    return np.pad(array, width)


def _summary(product: _Product, sums: _Sums) -> Saturation:
    weights = not isinstance(product.right, str)
    if sums.blind:
        return Saturation(product.node, sums.bound, sums.bound, math.nan, math.nan, weights)
    share = sums.beyond / sums.count if sums.count else 0.0
    error = math.sqrt(sums.excess / sums.exact) if sums.exact > 0 else float(sums.excess > 0)
    return Saturation(product.node, sums.bound, sums.seen, share, error, weights)


def _bound(product: _Product) -> int:
    # Two activations: the second may be anything.
    return 2 * 255 * 128 if isinstance(product.right, str) else max(map(bound, product.right), default=0)


def _products(model: Any) -> Iterator[_Product]:
    """Layers with signed second factors."""
    graph = model.graph
    tensors = {t.name: t for t in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}

    def constant(name: str) -> npt.NDArray[Any] | None:
        return numpy_helper.to_array(tensors[name]) if name in tensors else None

    for node in graph.node:
        if node.op_type in ("Conv", "MatMul", "Gemm") and len(node.input) > 1:
            x, w = (made.get(i) for i in node.input[:2])
            if x is None or w is None or x.op_type != "DequantizeLinear" or w.op_type != "DequantizeLinear":
                continue
            zero, other = (constant(n.input[2]) if len(n.input) > 2 else None for n in (x, w))
            if zero is None or other is None or other.dtype != np.int8 or x.input[0] in tensors:
                continue
            right: tuple[Ints, ...] | str = w.input[0]
            stored = constant(w.input[0])
            kernel: tuple[int, ...] = ()
            if stored is not None:
                found = _matrices(node, stored.astype(np.int64))
                if found is None:
                    continue
                right, kernel = found
            yield _Product(
                node.name, "Conv" if node.op_type == "Conv" else "MatMul", x.input[0], int(zero.reshape(-1)[0]),
                zero.dtype == np.int8, right, node, kernel,
            )  # fmt: skip
        elif node.op_type == "MatMulInteger":
            stored = constant(node.input[1])
            if stored is not None and stored.dtype == np.int8:
                zero_name = node.input[2] if len(node.input) > 2 else ""
                yield _Product(
                    node.name.removesuffix("_quant"), "MatMul", node.input[0], zero_name or 0, False, _stacked(stored)
                )
        elif node.op_type == "QAttention":
            stored = constant(node.input[1])
            if stored is not None and stored.dtype == np.int8:
                yield _Product(
                    node.name.removesuffix("_quant"), "MatMul", node.input[0], node.input[6], False, _stacked(stored)
                )
        elif node.op_type == "DynamicQuantizeLSTM":
            found_weights = [constant(n) for n in node.input[1:3]]
            signed = [a.astype(np.int64) for a in found_weights if a is not None and a.dtype == np.int8]
            if signed:
                matrices = tuple(m for a in signed for m in a.reshape(-1, *a.shape[-2:]))
                yield _Product(node.name.removesuffix("_quant"), "LSTM", "", 0, False, matrices)


def _stacked(stored: npt.NDArray[Any]) -> tuple[Ints, ...]:
    return tuple(stored.astype(np.int64).reshape(-1, *stored.shape[-2:]))


def _matrices(node: Any, stored: Ints) -> tuple[tuple[Ints, ...], tuple[int, ...]] | None:
    """Weights as [K, N] of each group, in the kernel's order; and the kernel's shape."""
    if node.op_type == "MatMul":
        return (tuple(stored.reshape(-1, *stored.shape[-2:])), ()) if stored.ndim >= 2 else None
    if node.op_type == "Gemm":
        if attribute(node, "transA", 0):
            return None
        return (stored.T if attribute(node, "transB", 0) else stored,), ()
    groups = int(attribute(node, "group", 1))
    outputs, inputs, *kernel = stored.shape
    if groups > 1 and inputs == 1 and outputs == groups:
        return None  # depthwise: widened first
    # [outputs, inputs, kernel…] → [kernel…, inputs] × outputs
    moved = np.moveaxis(stored, 1, -1).reshape(groups, outputs // groups, -1)
    return tuple(np.swapaxes(moved, 1, 2)), tuple(kernel)


def _watched(model: Any, products: Sequence[_Product]) -> tuple[Any, list[str]]:
    """The model with its integers as outputs, computed in float between them."""
    types: dict[str, int] = {}
    for p in products:
        types[p.left] = TensorProto.INT8 if p.signed else TensorProto.UINT8
        if isinstance(p.zero, str):
            types[p.zero] = TensorProto.UINT8
        if isinstance(p.right, str):
            types[p.right] = TensorProto.INT8
    constants = {t.name for t in model.graph.initializer}
    names = [n for n in types if n not in constants]
    for p in products:
        if isinstance(p.zero, str) and p.zero in constants:
            tensor = next(t for t in model.graph.initializer if t.name == p.zero)
            p.zero = int(numpy_helper.to_array(tensor).reshape(-1)[0])
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(helper.make_tensor_value_info(n, types[n], None) for n in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        text = str(error).strip().splitlines()[-1][:300]
        raise InputError(f"the quantized model cannot be looked into: {text}") from None
    return session, names


def _look(product: _Product, values: Mapping[str, npt.NDArray[Any]], sums: _Sums) -> None:
    zero = int(values[product.zero].reshape(-1)[0]) if isinstance(product.zero, str) else product.zero
    left = values[product.left].astype(np.int64)
    if product.signed:
        left, zero = left + 128, zero + 128
    for rows, right in _factors(product, left, values, zero):
        _add(rows, right, zero, sums)


def _factors(
    product: _Product, left: Ints, values: Mapping[str, npt.NDArray[Any]], zero: int
) -> Iterator[tuple[Ints, Ints]]:
    """Rows [R, K] of activations beside weights [K, N]."""
    if product.op == "Conv":
        assert isinstance(product.right, tuple)
        yield from _windows(product, left, zero)
        return
    if isinstance(product.right, str):
        second = values[product.right].astype(np.int64)
        lead = np.broadcast_shapes(left.shape[:-2], second.shape[:-2])
        a = np.broadcast_to(left, (*lead, *left.shape[-2:])).reshape(-1, *left.shape[-2:])
        b = np.broadcast_to(second, (*lead, *second.shape[-2:])).reshape(-1, *second.shape[-2:])
        yield from zip(a, b, strict=True)
        return
    if len(product.right) == 1:
        yield left.reshape(-1, left.shape[-1]), product.right[0]
        return
    # Weights with more than two axes: each matrix meets its own rows.
    matrices = np.stack(product.right)
    a = np.broadcast_to(left, (*left.shape[:-2], *left.shape[-2:])).reshape(-1, *left.shape[-2:])
    for index, rows in enumerate(a):
        yield rows, matrices[index % len(matrices)]


def _windows(product: _Product, left: Ints, zero: int) -> Iterator[tuple[Ints, Ints]]:
    """Patches under the kernel, [rows, kernel positions · channels], group by group."""
    assert isinstance(product.right, tuple)
    kernel, node, axes = product.kernel, product.conv, len(product.kernel)
    strides = attribute(node, "strides", [1] * axes)
    dilations = attribute(node, "dilations", [1] * axes)
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    padded = np.pad(left, [(0, 0), (0, 0), *_pads(node, left.shape[2:], reach, strides)], constant_values=zero)
    view = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, 2 + axes)))
    steps = tuple(slice(None, None, s) for s in strides)
    inner = tuple(slice(None, None, d) for d in dilations)
    view = view[(slice(None), slice(None), *steps, *inner)]
    # [n, C, positions…, kernel…] → chosen positions as rows
    places = (view.shape[0], *view.shape[2 : 2 + axes])
    groups = len(product.right)
    channels = left.shape[1] // groups
    wanted = max(1, MOST_SUMS // max(1, product.right[0].size // 2 * groups))
    flat = _spread(math.prod(places), wanted)
    n, *where = np.unravel_index(flat, places)
    patches = np.moveaxis(view, 1, -1)[(n, *where)]  # [rows, kernel…, C]
    for index, right in enumerate(product.right):
        part = patches[..., index * channels : (index + 1) * channels]
        yield np.ascontiguousarray(part).reshape(len(flat), -1), right


def _pads(node: Any, sizes: Sequence[int], reach: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    mode = attribute(node, "auto_pad", b"NOTSET")
    mode = mode.decode() if isinstance(mode, bytes) else str(mode)
    axes = len(reach)
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        found = []
        for size, r, s in zip(sizes, reach, strides, strict=True):
            total = max(0, (math.ceil(size / s) - 1) * s + r - size)
            less, more = total // 2, total - total // 2
            found.append((less, more) if mode == "SAME_UPPER" else (more, less))
        return found
    pads = [0] * (2 * axes) if mode == "VALID" else attribute(node, "pads", [0] * (2 * axes))
    return [(int(pads[i]), int(pads[i + axes])) for i in range(axes)]


def _spread(count: int, wanted: int) -> Ints:
    """At most `wanted` numbers below `count`, evenly."""
    return np.arange(count) if count <= wanted else (np.arange(wanted) * count // wanted).astype(np.int64)


def _add(rows: Ints, right: Ints, zero: int, sums: _Sums) -> None:
    """Count what these rows do. Only pairs that the rows' own maxima could drive beyond 16 bits are multiplied out."""
    chosen = rows[_spread(len(rows), max(1, MOST_SUMS // max(1, right.size // 2)))]
    if not chosen.size or not right.size:
        return
    a, b = _even(chosen, 1), _even(right, 0)
    most = a.max(axis=0)
    tops = most[0::2, None] * np.maximum(b[0::2], 0) + most[1::2, None] * np.maximum(b[1::2], 0)
    lows = most[0::2, None] * np.minimum(b[0::2], 0) + most[1::2, None] * np.minimum(b[1::2], 0)
    reach = np.maximum(tops, -lows).max(axis=1)
    exact = chosen.astype(np.float64) @ right.astype(np.float64) - zero * right.sum(axis=0)
    sums.exact += float((exact**2).sum())
    sums.count += len(chosen) * len(reach) * right.shape[1]
    risky = np.flatnonzero(reach > LIMIT)
    if not len(risky):
        # Not beyond: the maximum of the rest is told by its bound, which needs no multiplication.
        sums.seen = max(sums.seen, min(int(reach.max(initial=0)), LIMIT))
        return
    pairs = np.stack([2 * risky, 2 * risky + 1], axis=1).reshape(-1)
    a, b = a[:, pairs], b[pairs]
    step = max(1, CHUNK // max(1, len(risky) * right.shape[1]))
    for begin in range(0, len(a), step):
        values = pair_sums(a[begin : begin + step], b)
        clipped = np.clip(values, -LIMIT - 1, LIMIT)
        sums.seen = max(sums.seen, int(np.abs(values).max(initial=0)))
        sums.beyond += int(np.count_nonzero(values != clipped))
        sums.excess += float(((clipped - values).sum(axis=1).astype(np.float64) ** 2).sum())
