"""What is known of every tensor before a file is written: shape, type, and value where it is a constant.

TFLite's tensors have shapes. ONNX's inference leaves many open (a Reshape to a computed shape, for one), so the model
is run: for one sample, and, where its first axis is free, for three. Dimensions that differ grow with the batch, and
what depends on weights and shapes alone is a constant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgemodel_api.errors import InputError
from edgemodel_compressor.evaluate.runner import Arrays
from edgemodel_compressor.steps.graph import array_of, copy_of, is_standard

from .graph import Array, Free, Shape

#: Rows of the second run; a dimension that is three times as large there grows with the batch.
ROWS = 3
_RANDOM = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
)


@dataclass(frozen=True)
class Known:
    """Of one tensor.

    Attributes:
        shape: for one sample.
        dtype: as the ONNX model has it.
        value: of a constant.
        varying: values for one sample and for `ROWS`, where they depend on the size of the batch alone.
    """

    shape: Shape
    dtype: np.dtype[Any]
    value: Array | None = None
    varying: tuple[Array, Array] | None = None


@dataclass(frozen=True)
class Knowledge:
    """Of all tensors.

    Attributes:
        tensors: by name.
        free: whether the batch is.
        notes: what was decided, in words.
    """

    tensors: Mapping[str, Known]
    free: bool
    notes: tuple[str, ...] = ()


def input_shapes(model: Any, feeds: Arrays | None) -> tuple[dict[str, tuple[int | None, ...]], tuple[str, ...]]:
    """Shape of each input, None for a free batch; and what cannot be decided.

    Args:
        model: its inputs have shapes.
        feeds: rows, from which other free dimensions are taken.
    """
    found: dict[str, tuple[int | None, ...]] = {}
    problems = []
    for value in inputs_of(model):
        dims: list[int | None] = []
        given = feeds.get(value.name) if feeds else None
        for axis, d in enumerate(value.type.tensor_type.shape.dim):
            if d.HasField("dim_value") and d.dim_value > 0:
                dims.append(int(d.dim_value))
            elif axis == 0:
                dims.append(None)
            elif given is not None and given.ndim > axis:
                dims.append(int(given.shape[axis]))
            else:
                dims.append(1)
                label = f" ({d.dim_param})" if d.dim_param else ""
                problems.append(
                    f"input {value.name!r}: dimension {axis}{label} is free, and TFLite needs its size: export the model"
                    " with a fixed one, or give calibration data"
                )
        found[value.name] = tuple(dims)
    return found, tuple(problems)


def inputs_of(model: Any) -> list[Any]:
    """Graph inputs that are no initializers."""
    constants = {t.name for t in model.graph.initializer}
    return [i for i in model.graph.input if i.name not in constants]


def know(model: Any, feeds: Arrays | None = None, *, free: bool = True) -> Knowledge:
    """Run and look.

    Args:
        model: prepared, without subgraphs.
        feeds: rows to run; None: random ones.
        free: False: the batch is fixed to 1.

    Raises:
        InputError: the model cannot be run.
    """
    shapes, _ = input_shapes(model, feeds)
    session = _session(model)
    one = _run(session, _feeds(model, shapes, feeds, 1))
    many: Arrays | None = None
    notes: tuple[str, ...] = ()
    if any(None in s for s in shapes.values()):
        if free:
            many, notes = _many(session, model, shapes, feeds, one)
        else:
            notes = ("the batch is fixed to 1",)
    return Knowledge(_known(model, one, many), many is not None, notes)


def _many(
    session: Any, model: Any, shapes: Mapping[str, Sequence[int | None]], feeds: Arrays | None, one: Arrays
) -> tuple[Arrays | None, tuple[str, ...]]:
    try:
        many = _run(session, _feeds(model, shapes, feeds, ROWS))
    except InputError:
        return None, (f"the batch is fixed to 1: the model declares a free batch and cannot run {ROWS} samples",)
    for name, a in one.items():
        b = many[name]
        if a.ndim != b.ndim or any(q not in (p, ROWS * p) for p, q in zip(a.shape, b.shape, strict=True)):
            return None, (f"the batch is fixed to 1: {name!r} does not grow with it ({a.shape}, {b.shape})",)
    return many, ()


def _known(model: Any, one: Arrays, many: Arrays | None) -> dict[str, Known]:
    found: dict[str, Known] = {}
    for tensor in model.graph.initializer:
        value = array_of(tensor)
        found[tensor.name] = Known(value.shape, value.dtype, value)
    for value in inputs_of(model):
        found[value.name] = _one_known(value.name, one, many, static=False)
    for node in model.graph.node:
        inputs = [n for n in node.input if n]
        static = node.op_type in ("Shape", "Size") or (
            node.op_type not in _RANDOM
            and all(n in found and (found[n].value is not None or found[n].varying is not None) for n in inputs)
        )
        for name in node.output:
            if name and name in one:
                found[name] = _one_known(name, one, many, static=static and is_standard(node))
    return found


def _one_known(name: str, one: Arrays, many: Arrays | None, *, static: bool) -> Known:
    a = one[name]
    if many is None:
        return Known(tuple(int(d) for d in a.shape), a.dtype, a if static else None)
    b = many[name]
    shape = tuple(Free(p) if p != q else int(p) for p, q in zip(a.shape, b.shape, strict=True))
    if not static:
        return Known(shape, a.dtype)
    if a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
        return Known(shape, a.dtype, a)
    return Known(shape, a.dtype, None, (a, b))


def _session(model: Any) -> Any:
    """Every tensor an output."""
    import onnxruntime

    from edgemodel_compressor.formats.onnx_model import open_session

    # For as long as it takes to write it down: a copy would hold all weights once more.
    outputs = [copy_of(o) for o in model.graph.output]
    del model.graph.output[:]
    for name in dict.fromkeys(n for node in model.graph.node for n in node.output if n):
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    try:
        content = model.SerializeToString()
    except Exception as error:  # upb: EncodeError or ValueError, by version
        raise InputError(f"the model is too large for one file, and TFLite holds 2 GiB at most ({error})") from None
    finally:
        del model.graph.output[:]
        model.graph.output.extend(outputs)
    return open_session(content, level=onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)


def _run(session: Any, feeds: Arrays) -> Arrays:
    names = [o.name for o in session.get_outputs()]
    try:
        values = session.run(names, feeds)
    except Exception as error:  # onnxruntime raises many types of its own
        text = str(error).strip().splitlines()[-1][:300]
        raise InputError(f"the model fails on sample data, so its shapes are unknown: {text}") from None
    for name, value in zip(names, values, strict=True):
        if not isinstance(value, np.ndarray):
            raise InputError(f"{name!r} is a {type(value).__name__}, not a tensor, which TFLite does not have")
    return {**feeds, **dict(zip(names, values, strict=True))}


def _feeds(model: Any, shapes: Mapping[str, Sequence[int | None]], feeds: Arrays | None, rows: int) -> Arrays:
    made = random_feeds(model, shapes, rows)
    for name, value in (feeds or {}).items():
        if name not in made:
            continue
        wanted = made[name].shape
        if value.ndim == len(wanted) and value.shape[1:] == wanted[1:] and len(value):
            made[name] = np.ascontiguousarray(np.resize(value, wanted).astype(made[name].dtype, copy=False))
    return made


def random_feeds(model: Any, shapes: Mapping[str, Sequence[int | None]], rows: int, seed: int = 0) -> Arrays:
    """Normal floats, integers 0 and 1 (indices of anything), booleans.

    Args:
        model: whose inputs.
        shapes: None: `rows`.
        rows: of the batch.
        seed: of the numbers.

    Raises:
        InputError: an input is of text or of a type that numpy lacks.
    """
    rng = np.random.default_rng(seed)
    made: Arrays = {}
    for value in inputs_of(model):
        kind = value.type.tensor_type.elem_type
        shape = tuple(rows if d is None else d for d in shapes[value.name])
        try:
            dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind))
        except (KeyError, TypeError):
            dtype = np.dtype(object)
        if kind == TensorProto.STRING or dtype.kind not in "fiub":
            raise InputError(f"input {value.name!r} is no tensor of numbers, which TFLite needs")
        if dtype.kind == "f":
            made[value.name] = rng.standard_normal(shape).astype(dtype)
        else:
            made[value.name] = rng.integers(0, 2, shape).astype(dtype)
    return made
