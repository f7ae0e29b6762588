"""What TFLite's kernels take: types and ranks, as tflite-runtime 2.14 and LiteRT both have them.

A kernel that meets another type says so in the best case; in the worst it takes a plain int8 tensor for a quantized one
and ends the process. So every operator that is written is looked up here.
"""

from __future__ import annotations

from types import MappingProxyType

from .graph import Op, Tensor

_INTS = frozenset({"int32", "int64"})
_FLOAT = frozenset({"float32"})
_NUMBERS = _FLOAT | _INTS
_MOVED = _NUMBERS | {"bool", "int8", "uint8"}
_ANY = _MOVED | {"int16", "uint16", "uint32", "float16"}
#: Types of the data; what is not here takes float32.
KINDS: MappingProxyType[str, frozenset[str]] = MappingProxyType({
    "ADD": _NUMBERS, "SUB": _NUMBERS, "MUL": _NUMBERS, "DIV": _FLOAT | {"int32"}, "MAXIMUM": _NUMBERS,
    "MINIMUM": _NUMBERS, "NEG": _NUMBERS, "POW": _FLOAT | {"int32"}, "FLOOR_MOD": _NUMBERS,
    "EQUAL": _NUMBERS | {"bool"}, "NOT_EQUAL": _NUMBERS | {"bool"}, "LESS": _NUMBERS, "LESS_EQUAL": _NUMBERS,
    "GREATER": _NUMBERS, "GREATER_EQUAL": _NUMBERS, "LOGICAL_AND": frozenset({"bool"}),
    "LOGICAL_OR": frozenset({"bool"}), "LOGICAL_NOT": frozenset({"bool"}), "SELECT_V2": _MOVED, "CAST": _ANY,
    "SUM": _NUMBERS, "REDUCE_MAX": _NUMBERS, "REDUCE_MIN": _NUMBERS, "REDUCE_PROD": _NUMBERS,
    "CONCATENATION": _MOVED, "SPLIT": _FLOAT, "SPLIT_V": _FLOAT, "STRIDED_SLICE": _MOVED,
    "PAD": _NUMBERS | {"int8", "uint8"}, "PADV2": _NUMBERS | {"int8", "uint8"}, "GATHER": _MOVED,
    "GATHER_ND": _NUMBERS | {"int8", "uint8"}, "TILE": _MOVED, "TRANSPOSE": _MOVED, "BROADCAST_TO": _MOVED,
    "PACK": _NUMBERS, "UNPACK": _FLOAT | {"int32"}, "TOPK_V2": _NUMBERS, "ARG_MAX": _FLOAT | {"int32"},
    "ARG_MIN": _FLOAT | {"int32"}, "CUMSUM": _NUMBERS, "ONE_HOT": _MOVED, "FILL": _MOVED, "SHAPE": _ANY,
    "RESHAPE": _ANY, "REVERSE_SEQUENCE": _NUMBERS, "SCATTER_ND": _MOVED, "DEPTH_TO_SPACE": _FLOAT, "SPACE_TO_DEPTH": _FLOAT,
    "QUANTIZE": _FLOAT, "DEQUANTIZE": frozenset({"int8", "float16"}),
})  # fmt: skip
_RANKS = MappingProxyType({
    "TRANSPOSE": 5, "STRIDED_SLICE": 5, "PAD": 5, "PADV2": 5, "BATCH_MATMUL": 5, "BROADCAST_TO": 8, "SOFTMAX": 8,
    "SELECT_V2": 4, "ADD": 4, "SUB": 4, "MUL": 4, "DIV": 4, "MAXIMUM": 4, "MINIMUM": 4, "POW": 4, "FLOOR_MOD": 4,
    "EQUAL": 4, "NOT_EQUAL": 4, "LESS": 4, "LESS_EQUAL": 4, "GREATER": 4, "GREATER_EQUAL": 4, "LOGICAL_AND": 4,
    "LOGICAL_OR": 4, "ATAN2": 8, "PRELU": 4,
})  # fmt: skip
MAX_RANK = 8
#: Which operand has the data's type, where it is not the first.
_DATA = {"SPLIT": 1, "FILL": 1, "ONE_HOT": 2, "TRANSPOSE_CONV": 2, "SELECT_V2": 1, "SCATTER_ND": 1}


def refusal(op: Op) -> str | None:
    """Why no kernel computes this operator; None: one does."""
    place = _DATA.get(op.code, 0)
    data = op.inputs[place] if len(op.inputs) > place else None
    if data is None:
        return None
    if data.quantization is None:
        kinds = KINDS.get(op.code, _FLOAT)
        if data.dtype.name not in kinds:
            return f"TFLite's {op.code} takes {', '.join(sorted(kinds))}, not {data.dtype}"
    tensors = [t for t in (*op.inputs, *op.outputs) if t is not None]
    rank = max(len(t.shape) for t in tensors)
    limit = _RANKS.get(op.code, MAX_RANK)
    if rank > MAX_RANK or (rank > limit and not _alike(tensors)):
        return f"{rank} dimensions; TFLite's {op.code} has {min(limit, MAX_RANK)} at most"
    empty = next((t for t in tensors if 0 in map(int, t.shape)), None)
    if empty is not None:
        return f"an empty tensor ({empty.name}, {[int(d) for d in empty.shape]})"
    return None


def _alike(tensors: list[Tensor]) -> bool:
    """Whether nothing is broadcast: then kernels see flat arrays."""
    shapes = {tuple(map(int, t.shape)) for t in tensors if t.data is None or t.data.size > 1}
    return len(shapes) == 1
