"""Resize and Upsample, exactly.

Every mode but the cropping one is linear in the image and works on one axis after the other. So onnxruntime resizes
the unit matrix along each axis, which gives the weights: a selection becomes a lookup (or repetition), the two grids
that Core ML documents become `resize_bilinear`, and anything else a product with that matrix.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edgemodel_api.errors import InputError
from edgemodel_compressor.formats.onnx_model import open_session

from .lower import Array, Node, Unsupported, Value, lowers

#: Elements of one axis' matrix.
_MAX_MATRIX = 2**22


@lowers("Resize", "Upsample", note="all modes but tf_crop_and_resize, with constant sizes")
def _resize(node: Node) -> Value:
    for attribute in node.proto.attribute:
        # onnxruntime gets them all, or there is nothing to do.
        node.attr(attribute.name)
    node.only(node.attr("coordinate_transformation_mode") != "tf_crop_and_resize", "tf_crop_and_resize")
    shape = node.shape(0)
    scales, sizes = _wanted(node, len(shape))
    out = [int(np.floor(d * s)) for d, s in zip(shape, scales, strict=True)] if sizes is None else sizes
    matrices = {}
    for axis in range(len(shape)):
        if out[axis] == shape[axis] and (scales[axis] == 1 or sizes is not None):
            continue
        node.only(shape[axis] * out[axis] <= _MAX_MATRIX, f"an axis from {shape[axis]} to {out[axis]}")
        matrices[axis] = _matrix(node, shape[axis], out[axis], scales[axis], by_size=sizes is not None)
    if not matrices:
        return node.mb.identity(x=node[0])
    x = node[0]
    rank = len(shape)
    if 3 <= rank <= 4 and set(matrices) <= {rank - 2, rank - 1}:
        for mode in ("UNALIGN_CORNERS", "STRICT_ALIGN_CORNERS", "DEFAULT"):
            if all(_is_bilinear(m, mode) for m in matrices.values()):
                return node.mb.resize_bilinear(
                    x=x, target_size_height=out[-2], target_size_width=out[-1], sampling_mode=mode
                )
    for axis, matrix in sorted(matrices.items()):
        x = _along(node, x, axis, matrix)
    return x


def _wanted(node: Node, rank: int) -> tuple[list[float], list[int] | None]:
    """Scales of all axes, and sizes where these were given."""
    axes = node.ints("axes") or list(range(rank))
    policy = node.attr("keep_aspect_ratio_policy", "stretch")
    if node.op == "Upsample" or node.opset < 11:
        given = node.attr("scales") if node.attr("scales") is not None else node.const(1, "scales").reshape(-1)
        return [float(s) for s in given], None
    scales = [1.0] * rank
    shape = node.shape(0)
    if node.has(3):
        wanted = [int(s) for s in node.const(3, "sizes")]
        ratios = [w / shape[a] for w, a in zip(wanted, axes, strict=True)]
        if policy != "stretch":
            ratio = min(ratios) if policy == "not_larger" else max(ratios)
            ratios = [ratio] * len(axes)
            wanted = [int(np.floor(ratio * shape[a] + 0.5)) for a in axes]
        sizes = list(shape)
        for axis, ratio, size in zip(axes, ratios, wanted, strict=True):
            scales[axis], sizes[axis] = ratio, size
        return scales, sizes
    for axis, scale in zip(axes, node.const(2, "scales").reshape(-1), strict=True):
        scales[axis] = float(scale)
    return scales, None


def _matrix(node: Node, size: int, out: int, scale: float, *, by_size: bool) -> Array:
    """[size, out]: what each output takes of each input."""
    skip = ("axes", "scales", "keep_aspect_ratio_policy")
    names = [a.name for a in node.proto.attribute if a.name not in skip]
    attributes: dict[str, Any] = {name: node.attr(name) for name in names}
    factors = numpy_helper.from_array(np.array([1, 1, 1, scale], np.float32), "scales")
    constants = [factors]
    inputs = ["x", "scales"]
    if node.op == "Resize" and node.opset >= 11:
        inputs = ["x", "", "scales"]
        if by_size:
            constants = [numpy_helper.from_array(np.array([1, 1, size, out], np.int64), "sizes")]
            inputs = ["x", "", "", "sizes"]
            if node.opset < 13:
                constants.append(numpy_helper.from_array(np.zeros(0, np.float32), "none"))
                inputs = ["x", "none", "none", "sizes"]
        elif node.opset < 13:
            constants.append(numpy_helper.from_array(np.zeros(0, np.float32), "none"))
            inputs = ["x", "none", "scales"]
    graph = helper.make_graph(
        [helper.make_node(node.op, inputs, ["y"], **attributes)],
        "axis",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        constants,
    )
    opset = helper.make_opsetid("", node.opset)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    try:
        session = open_session(model.SerializeToString())
        matrix = session.run(None, {"x": np.eye(size, dtype=np.float32)[None, None]})[0][0, 0]
    except InputError as error:
        raise Unsupported(str(error)) from None
    except Exception as error:  # onnxruntime raises many types of its own
        raise Unsupported(f"onnxruntime cannot resize with these attributes ({error})") from None
    if matrix.shape != (size, out):
        raise Unsupported(f"an axis of {size} becomes {matrix.shape[1]}, not {out}")
    return np.asarray(matrix)


def _is_bilinear(matrix: Array, mode: str) -> bool:
    """Whether Core ML's grid of that name gives this matrix (page `resize_bilinear`)."""
    size, out = matrix.shape
    i = np.arange(out)
    if mode == "UNALIGN_CORNERS":
        points = (i + 0.5) * (size / out) - 0.5
    elif out == 1:
        return False
    else:
        points = i * ((size - 1) / (out - 1) if mode == "STRICT_ALIGN_CORNERS" else (size - size / out) / (out - 1))
    points = np.clip(points, 0, size - 1)
    expected = np.maximum(1 - np.abs(points[None, :] - np.arange(size)[:, None]), 0)
    return bool(np.abs(expected - matrix).max() < 1e-5)


def _along(node: Node, x: Value, axis: int, matrix: Array) -> Value:
    if ((matrix == 0) | (matrix == 1)).all() and (matrix.sum(axis=0) == 1).all():
        return node.mb.gather(x=x, indices=matrix.argmax(axis=0).astype(np.int32), axis=axis)
    rank = len(x.shape)
    perm = [i for i in range(rank) if i != axis] + [axis]
    last = axis == rank - 1
    y = x if last else node.mb.transpose(x=x, perm=perm)
    y = node.mb.matmul(x=y, y=node.conversion.exact_constant(matrix))
    return y if last else node.mb.transpose(x=y, perm=[perm.index(i) for i in range(rank)])
