"""Operator versions: the least one that knows the types and options used, so that old runtimes can load the file.

As TensorFlow's own table has it (tensorflow/lite/tools/versioning/op_version.cc), for what this writer emits. A
runtime refuses a version that is newer than its kernel; tflite-runtime 2.14 knows every version below.
"""

from __future__ import annotations

import numpy as np

from .graph import Op

#: Version for int8 numbers, where it differs from the float one.
_INT8 = {
    "CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "AVERAGE_POOL_2D": 2, "MAX_POOL_2D": 2, "ADD": 2,
    "SUB": 2, "MUL": 2, "MAXIMUM": 2, "MINIMUM": 2, "SOFTMAX": 2, "LOG_SOFTMAX": 2, "LOGISTIC": 2, "TANH": 2,
    "MEAN": 2, "SUM": 2, "REDUCE_MAX": 2, "REDUCE_MIN": 2, "RELU": 2, "RELU6": 2, "PAD": 2, "PADV2": 2,
    "MIRROR_PAD": 2, "CONCATENATION": 2, "SLICE": 2, "STRIDED_SLICE": 2, "SPLIT": 2, "SPLIT_V": 2, "TRANSPOSE": 2,
    "GATHER": 2, "BATCH_MATMUL": 2, "RESIZE_BILINEAR": 2, "RESIZE_NEAREST_NEIGHBOR": 2, "DEPTH_TO_SPACE": 2,
    "SPACE_TO_DEPTH": 2, "TILE": 3, "PACK": 2, "UNPACK": 2, "GELU": 2, "ABS": 2, "BROADCAST_TO": 3, "REVERSE_V2": 3,
    "TOPK_V2": 2, "ARG_MAX": 2, "ARG_MIN": 2, "LESS": 2, "LESS_EQUAL": 2, "GREATER": 2, "GREATER_EQUAL": 2,
    "EQUAL": 2, "NOT_EQUAL": 2, "SQUARED_DIFFERENCE": 2, "EXP": 2, "LOG": 2, "REDUCE_PROD": 2, "FLOOR_MOD": 2,
    "FLOOR_DIV": 3, "FILL": 3, "DEQUANTIZE": 2, "RSQRT": 2,
}  # fmt: skip
_INT64 = {"ADD": 4, "SUB": 4, "MUL": 5, "RANGE": 2}
_BOOL = {"GATHER": 3, "TRANSPOSE": 3, "STRIDED_SLICE": 3, "UNPACK": 3, "REVERSE_V2": 2, "FILL": 2, "GATHER_ND": 5}


def version_of(op: Op) -> int:
    """The least version."""
    # SPLIT has its axis first, TRANSPOSE_CONV and FILL their output's shape.
    place = {"SPLIT": 1, "FILL": 1, "TRANSPOSE_CONV": 2}.get(op.code, 0)
    first = op.inputs[place] if len(op.inputs) > place else None
    kind = first.dtype.name if first is not None else ""
    rank = len(first.shape) if first is not None else 0
    table = {"int8": _INT8, "int64": _INT64, "bool": _BOOL}.get(kind, {})
    return max(table.get(op.code, 1), _by_options(op, kind, rank))


def _by_options(op: Op, kind: str, rank: int) -> int:
    code, options = op.code, op.options
    if code == "CONV_2D":
        return _conv(op)
    if code == "DEPTHWISE_CONV_2D":
        return 2 if max(options.get("dilationWFactor", 1), options.get("dilationHFactor", 1)) > 1 else 1
    if code == "FULLY_CONNECTED":
        # Bias missing: 6; dimensions kept: 5.
        return 6 if len(op.inputs) < 3 or op.inputs[2] is None else 5 if options.get("keepNumDims") else 1
    if code == "TRANSPOSE_CONV":
        return 3 if len(op.inputs) > 3 else 2 if kind == "int8" else 1
    if code == "TRANSPOSE":
        return 6 if rank > 5 else 4 if rank > 4 else 1
    if code in ("PAD", "PADV2", "STRIDED_SLICE"):
        return 4 if rank > 4 else 1
    if code == "SLICE":
        return 5 if rank > 4 else 1
    if code == "SPLIT" and kind == "int32":
        return 3
    if code in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"):
        return 3 if options.get("halfPixelCenters") or (options.get("alignCorners") and "NEAREST" in code) else 1
    if code in ("MAXIMUM", "MINIMUM", "SUB", "DIV"):
        shapes = {tuple(map(int, t.shape)) for t in op.inputs if t is not None}
        wide = len(shapes) > 1 and max(map(len, shapes)) > 4
        return (2 if code == "DIV" else 3) if wide else 1
    if code == "MUL" and kind == "int8":
        return _mul(op)
    if code == "DEQUANTIZE":
        quantization = op.inputs[0].quantization if op.inputs[0] is not None else None
        return 3 if kind == "float16" else 5 if quantization is not None and quantization.per_channel else 1
    if code == "GATHER" and options.get("batchDims"):
        return 5
    if code == "CAST":
        kinds = {t.dtype.name for t in (*op.inputs, *op.outputs) if t is not None}
        return 4 if "uint16" in kinds else 3 if "int8" in kinds else 2 if "uint32" in kinds else 1
    if code in ("ABS", "SIGN") and kind == "int32":
        return 5 if code == "ABS" else 2
    if code == "FLOOR_DIV" and kind == "float32":
        return 2
    return 2 if code == "BROADCAST_TO" else 1


def _conv(op: Op) -> int:
    x, weight = op.inputs[:2]
    grouped = x is not None and weight is not None and int(x.shape[-1]) != int(weight.shape[-1])
    return 6 if grouped else 1


def _mul(op: Op) -> int:
    """Products whose scale is not smaller than the output's need version 3."""
    scales = [np.asarray(t.quantization.scale) for t in (*op.inputs, op.outputs[0]) if t is not None and t.quantization]
    return 3 if len(scales) == 3 and float(scales[0][0]) * float(scales[1][0]) >= float(scales[2][0]) else 2
