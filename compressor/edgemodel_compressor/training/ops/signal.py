"""Audio front ends: windows, filter banks, Fourier transforms. Complex numbers are pairs on the last axis, as in ONNX."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from edgemodel_api.quantities import counted

from .base import Call, NotConvertibleError, Static, Value, axis_of, bounded, known, known_ints, op


@op(
    "HannWindow", "HammingWindow", "BlackmanWindow", keep=(0,), since=17,
    note="of a size that does not depend on the inputs",
)  # fmt: skip
def _window(call: Call, size: Value) -> Value:
    bounded(known_ints(size, "size"))
    return _by_reference(call, known(size, "size"))


@op("MelWeightMatrix", keep=range(5), since=17, note="of numbers that do not depend on the inputs")
def _mel(call: Call, *numbers: Value) -> Value:
    found = [known(v, "filter bank") for v in numbers]
    bounded((int(found[0].item()), int(found[1].item())))
    return _by_reference(call, *found)


def _by_reference(call: Call, *inputs: Static) -> Static:
    """A constant by ONNX's own reference implementation."""
    names = [f"i{n}" for n in range(len(inputs))]
    node = helper.make_node(call.op, names, ["o"], **call.attributes)
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
         for n, v in zip(names, inputs, strict=True)],
        [helper.make_tensor_value_info("o", TensorProto.UNDEFINED, None)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", call.opset)])
    return np.asarray(ReferenceEvaluator(model).run(None, dict(zip(names, inputs, strict=True)))[0])


def _complex(x: Value) -> Value:
    return x[..., 0] if x.shape[-1] == 1 else x[..., 0] + 1j * x[..., 1]


def _pairs(x: Value) -> Value:
    return jnp.stack([x.real, x.imag], -1).astype(jnp.float32)


@op("DFT", keep=(1, 2), traced=True, since=17, note="not the inverse of a one-sided transform")
def _dft(call: Call, x: Value, length: Value = None, axis: Value = None) -> Value:
    inverse, onesided = bool(call.get("inverse", 0)), bool(call.get("onesided", 0))
    if inverse and onesided:
        raise NotConvertibleError("the inverse of a one-sided transform has no conversion")
    if call.opset < 20:
        over = axis_of(int(call.get("axis", 1)), x.ndim)
    else:
        over = axis_of(-2 if axis is None else known_ints(axis, "axis")[0], x.ndim)
    size = x.shape[over] if length is None else bounded(known_ints(length, "length"))[0]
    y = (jnp.fft.ifft if inverse else jnp.fft.fft)(_complex(x).astype(jnp.complex64), size, over)
    if onesided:
        y = jnp.take(y, np.arange(size // 2 + 1), over)
    return _pairs(y)


@op("STFT", keep=(1, 3), traced=True, since=17)
def _stft(call: Call, x: Value, step: Value, window: Value = None, length: Value = None) -> Value:
    hop = known_ints(step, "frame_step")[0]
    size = known_ints(length, "frame_length")[0] if length is not None else window.shape[0]
    if hop <= 0 or size > x.shape[1]:
        raise ValueError(f"frames of {size} with steps of {hop} over {counted(x.shape[1], 'sample')}")
    at = np.arange((x.shape[1] - size) // hop + 1)[:, None] * hop + np.arange(size)[None]
    frames = _complex(x)[:, at]
    if window is not None:
        frames = frames * window
    y = jnp.fft.fft(frames.astype(jnp.complex64), axis=-1)
    return _pairs(y[..., : size // 2 + 1] if call.get("onesided", 1) else y)
