"""Resize: by TFLite's own kernels where their formula is ONNX's, else exactly by indices or a matrix for each axis.

Every mode of ONNX's Resize works on one axis at a time and is linear in the values. So onnxruntime is asked for each
axis: resizing the identity matrix gives the weights of each result. Where every result is one of the inputs, GATHER
does it; where TFLite's formula has the same weights, its kernel does it; else a product with that matrix.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper

from edgemodel_api.errors import InputError

from .graph import Array, Free, Tensor
from .layout import channels_last, permuted
from .site import NeedsFixedBatchError, Refused, Site, lowers

#: Weights of an axis: beyond this a product is no sensible way to resize.
MAX_MATRIX = 4 * 2**20


@lowers(
    "Resize", "Upsample", note="all modes but tf_crop_and_resize; other axes than TFLite's kernels by matrix products"
)
def _resize(site: Site) -> None:
    e, shape, out = site.emit, site.shape(), site.out().shape
    if site.attr("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise Refused("coordinate_transformation_mode tf_crop_and_resize")
    if site.dtype().kind != "f":
        raise Refused(f"TFLite has it for floats, not for {site.dtype()}")
    changed = [a for a in range(len(shape)) if int(shape[a]) != int(out[a])]
    weights = {}
    for axis in changed:
        if isinstance(shape[axis], Free):
            raise NeedsFixedBatchError("it resizes the batch")
        if int(shape[axis]) * int(out[axis]) > MAX_MATRIX:
            raise Refused(f"from {shape[axis]} to {out[axis]} along one axis")
        weights[axis] = _weights(site, axis)
    if len(shape) == 4 and changed and set(changed) <= {2, 3}:
        perm = channels_last(4)
        x = site.get(0, perm)
        y = _by_kernel(site, x, {a: weights[a] for a in changed})
        if y is not None:
            site.give(y, perm)
            return
    perm = site.perm()
    x = site.get(0, perm)
    for axis in changed:
        x = _along(site, x, perm.index(axis), weights[axis])
    site.give(e.reshape(x, permuted(out, perm)), perm)


def _along(site: Site, x: Tensor, axis: int, weights: Array) -> Tensor:
    e = site.emit
    picked = weights.argmax(axis=1)
    if np.array_equal(weights, np.eye(weights.shape[1], dtype=weights.dtype)[picked]):
        return e.gather(x, e.indices(picked), axis)
    rank = len(x.shape)
    order = (*(a for a in range(rank) if a != axis), axis)
    moved = e.dense(e.transpose(x, order), e.constant(weights, label="resize"))
    return e.transpose(moved, [order.index(a) for a in range(rank)])


def _by_kernel(site: Site, x: Tensor, weights: dict[int, Array]) -> Tensor | None:
    """RESIZE_NEAREST_NEIGHBOR or RESIZE_BILINEAR, where one of their formulas gives just these weights."""
    e, out = site.emit, site.out().shape
    size = e.indices([int(d) for d in out[2:]])
    shape = (x.shape[0], *out[2:], x.shape[3])
    for align, half in ((False, True), (True, False), (False, False)):
        options: dict[str, Any] = {"alignCorners": align, "halfPixelCenters": half}
        if all(np.allclose(w, _bilinear(w.shape, align=align, half=half), atol=1e-6) for w in weights.values()):
            return e.op("RESIZE_BILINEAR", [x, size], shape, **options)
        if all(np.array_equal(w, _nearest(w.shape, align=align, half=half)) for w in weights.values()):
            return e.op("RESIZE_NEAREST_NEIGHBOR", [x, size], shape, **options)
    return None


def _scale(n: int, m: int, *, align: bool) -> float:
    return (n - 1) / (m - 1) if align and m > 1 else n / m


def _bilinear(shape: tuple[int, ...], *, align: bool, half: bool) -> Array:
    """TFLite's weights (kernels/internal/reference/resize_bilinear.h)."""
    m, n = shape
    scale = _scale(n, m, align=align)
    at = (np.arange(m) + 0.5) * scale - 0.5 if half else np.arange(m) * scale
    low = np.maximum(np.floor(at), 0).astype(int)
    high = np.minimum(np.ceil(at), n - 1).astype(int)
    share = at - low
    made = np.zeros((m, n))
    for i in range(m):
        made[i, min(low[i], n - 1)] += 1 - share[i]
        made[i, max(high[i], 0)] += share[i]
    return made


def _nearest(shape: tuple[int, ...], *, align: bool, half: bool) -> Array:
    """TFLite's weights (kernels/internal/reference/resize_nearest_neighbor.h)."""
    m, n = shape
    scale = np.float32(_scale(n, m, align=align))
    at = (np.arange(m, dtype=np.float32) + np.float32(0.5 if half else 0)) * scale
    index = np.floor(at + np.float32(0.5)) if align else np.floor(at)
    made: Array = np.eye(n)[np.clip(index, 0, n - 1).astype(int)]
    return made


def _weights(site: Site, axis: int) -> Array:
    """[out, in]: what onnxruntime makes of the identity matrix along one axis."""
    n, m = int(site.shape()[axis]), int(site.out().shape[axis])
    node = onnx.NodeProto()
    node.op_type = site.op
    node.name = site.node.name
    rank = site.rank()
    taken: dict[str, Any] = {}
    for a in site.node.attribute:
        if a.name not in ("axes", "keep_aspect_ratio_policy", "scales"):
            node.attribute.append(a)
    given = site.const(2 if site.op == "Resize" and site.opset > 10 else 1)
    scales = given if given is not None and given.size else None
    if site.op == "Upsample" and site.attr("scales") is not None:
        scales = np.asarray(site.attr("scales"))
    axes = site.ints("axes")
    # One axis of two: [in, in] to [in, out].
    if scales is not None:
        place = axis if axes is None else [a % rank for a in axes].index(axis)
        values = np.asarray([1, scales[place]], dtype=np.float32)
        extra = _inputs(site, node, "scales")
        taken[extra] = values
    else:
        extra = _inputs(site, node, "sizes")
        taken[extra] = np.asarray([n, m], dtype=np.int64)
    if site.op == "Upsample" and site.opset < 9:
        node.attribute.append(helper.make_attribute("scales", [float(v) for v in taken.pop("scales")]))
        del node.input[1:]
    node.output.append("y")
    graph = helper.make_graph(
        [node], "resize", [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [n, n])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(v, k) for k, v in taken.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", site.opset)], ir_version=8)
    from edgemodel_compressor.formats.onnx_model import open_session

    try:
        y = open_session(model.SerializeToString()).run(None, {"x": np.eye(n, dtype=np.float32)})[0]
    except (InputError, Exception) as error:
        raise Refused(f"its weights along axis {axis}: {str(error)[:200]}") from error
    if y.shape != (n, m):
        raise Refused(f"it makes {y.shape[1]} of {n} where {m} are declared")
    return np.asarray(y.T)


def _inputs(site: Site, node: Any, kind: str) -> str:
    if site.op == "Resize" and site.opset > 10:
        node.input.extend(["x", "", kind] if kind == "scales" else ["x", "", "", kind])
    else:
        node.input.extend(["x", kind])
    return kind
