"""TFLite → ONNX: what cannot be read is named before any work; names, layouts and types of inputs and outputs stay.

Weights stay as they are stored (int8 and float16 behind a DequantizeLinear or a Cast), so the ONNX file is about as large.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from onnx import helper

from edgemodel_api.errors import InputError
from edgemodel_api.reasons import NOT_SUPPORTED

from . import (  # noqa: F401  (their translations register themselves)
    read_blocks,
    read_conv,
    read_dense,
    read_elementwise,
    read_fill,
    read_index,
    read_recurrent,
    read_shape,
    read_slice,
)
from .graph import Free, Quantization
from .layout import plain
from .read_build import BATCH, OPSET, Builder, FixedBatchError, RefusedError, Value, onnx_type
from .read_file import SourceGraph, SourceOp, SourceTensor, read_file
from .read_site import READERS, ReadSite

#: TFLite operator → what of it is read; empty: all.
READ_OPS: Mapping[str, str] = MappingProxyType({code: note for code, (_, note) in sorted(READERS.items())})
log = logging.getLogger(__name__)
_SHOWN = 20
_CUSTOM = {
    "TFLite_Detection_PostProcess": (
        "it chooses boxes by a kernel of TFLite's own: export the model without it, and choose boxes in your program"
    ),
}
_KEPT = "it keeps a state from run to run: export the model for whole sequences"
_FLOW = "it is control flow: export the model with the branch that is meant"
_WORDS = {
    **dict.fromkeys(("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE", "SVDF"), _KEPT),
    **dict.fromkeys(("IF", "WHILE", "CALL", "STABLEHLO_WHILE", "STABLEHLO_CASE"), _FLOW),
}
_IR_VERSION = 8
#: Dimensions of one axis, and numbers of one tensor: what shapes may claim.
MAX_INPUT_NUMBERS = 2**33


@dataclass(frozen=True)
class Read:
    """What was made of a TFLite file.

    Attributes:
        model: the ModelProto.
        inputs: names in the file's order, with the number of the tensor.
        outputs: likewise.
        free_batch: whether the first axis is free.
        quantization: of the outputs that are integers which stand for floats.
        kinds: how numbers are stored or computed with: float32, float16, int8 weights, integers.
        notes: what was decided, in words.
        origins: node of the model → the file's operator that it was made for, as messages name it.
    """

    model: Any
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    free_batch: bool
    quantization: Mapping[str, Quantization]
    kinds: frozenset[str]
    notes: tuple[str, ...]
    origins: Mapping[str, str] = field(default_factory=dict)


def unreadable(path: Path) -> tuple[str, ...]:
    """What cannot be read, each as "operator #N (CODE) -> TENSOR: why"; empty: everything can.

    Raises:
        InputError: it is no TFLite file, or damaged.
    """
    return _translated(read_file(path))[1]


def read_tflite(path: Path, *, free_batch: bool = True) -> Read:
    """A `.tflite` file as an ONNX model.

    Args:
        path: the file; must not change.
        free_batch: whether the first axis may become free; the file's own number stays otherwise.

    Raises:
        InputError: it is no TFLite file, damaged, or has operators that are not read (all of them are named).
    """
    return read_source(read_file(path), free_batch=free_batch)


def read_source(source: SourceGraph, *, free_batch: bool = True) -> Read:
    """As `read_tflite`, of a file's tables."""
    read, problems = _translated(source, "" if free_batch else "its answers differ with the batch")
    if read is None:
        shown = "; ".join(problems[:_SHOWN]) + (
            f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        )
        raise InputError(
            f"the TFLite model has parts that are not read: {shown}: change these, or give the model as ONNX",
            reason=NOT_SUPPORTED,
        )
    return read


def _translated(source: SourceGraph, why: str = "") -> tuple[Read | None, tuple[str, ...]]:
    """With a free batch where the graph allows it, else with the file's own."""
    problems = _unread(source)
    if problems:
        return None, problems
    source = read_blocks.dilated(source)
    why = why or _may_be_free(source)
    if not why:
        try:
            return _Translation(source, free=True).run()
        except FixedBatchError as error:
            why = str(error)
    try:
        read, problems = _Translation(source, free=False).run(why)
    except FixedBatchError as error:
        return None, (str(error),)
    return read, problems


def _unread(source: SourceGraph) -> tuple[str, ...]:
    """Operators that are not read whatever their operands are."""
    found = list(source.problems)
    for op in source.ops:
        if op.code not in READERS:
            name = op.code.removeprefix("CUSTOM ")
            why = _WORDS.get(op.code, "it is not read")
            if op.code.startswith("CUSTOM "):
                why = _CUSTOM.get(name, "it is an operator of somebody's own, of which nothing but the name is known")
            found.append(f"{_place(source, op)}: {why}")
    for name, number in source.inputs.items():
        tensor = source.tensors[number]
        if tensor.dtype is None:
            found.append(f"input {name!r} is {tensor.kind}")
        if any(a > 0 for a in tensor.free):
            found.append(
                f"input {name!r} has free dimensions besides the first ({[-1 if a in tensor.free else d for a, d in enumerate(tensor.shape)]}):"
                " export it with fixed ones"
            )
        if tensor.data is not None:
            found.append(f"input {name!r} is a constant")
    return tuple(found)


def _place(source: SourceGraph, op: SourceOp) -> str:
    name = source.tensors[op.outputs[0]].name if op.outputs else ""
    return f"{op.label} -> {name.partition(';')[0][:80]!r}" if name else op.label


def _may_be_free(source: SourceGraph) -> str:
    """Why not; empty: it may."""
    for name, number in source.inputs.items():
        tensor = source.tensors[number]
        if not tensor.shape or (0 not in tensor.free and (tensor.shape[0] != 1 or len(tensor.shape) < 2)):
            return f"input {name!r} has shape {list(tensor.shape)}"
    if any(t.variable for t in source.tensors) and not all(0 in source.tensors[n].free for n in source.inputs.values()):
        return "states have the size of the batch"
    return ""


class _Translation:
    """One try."""

    def __init__(self, source: SourceGraph, *, free: bool) -> None:
        self._source, self._free = source, free
        self._declared = all(0 in source.tensors[n].free for n in source.inputs.values())
        names = {*source.inputs, *source.outputs}
        self._build = Builder(names, file_bytes=source.size_bytes, integers="integers" in _kinds(source))
        self._values: dict[int, Value] = {}
        self._problems: list[str] = []
        self._broken: set[int] = set()
        self._made = {number for op in source.ops for number in op.outputs}
        self._origins: dict[str, str] = {}

    def run(self, why: str = "") -> tuple[Read | None, tuple[str, ...]]:
        """The model, or what cannot be read.

        Raises:
            FixedBatchError: an operator does not allow a free batch.
        """
        inputs = [self._input(name, number) for name, number in self._source.inputs.items()]
        for op in self._source.ops:
            if any(i in self._broken for i in op.inputs):
                self._broken.update(op.outputs)
                continue
            self._one(op)
        if self._problems:
            return None, tuple(self._problems)
        outputs = []
        for name, number in self._source.outputs.items():
            self._build.origin = name
            try:
                outputs.append(self._output(name, number))
            except RefusedError as error:
                self._problems.append(f"output {name!r}: {error}")
        if self._problems:
            return None, tuple(self._problems)
        nodes = _named_outputs(_needed(self._build.nodes, [o.name for o in outputs]), {i.name for i in inputs})
        graph = helper.make_graph(nodes, "tflite", inputs, outputs)
        used = {n for node in graph.node for n in node.input}
        graph.initializer.extend(t for t in self._build.initializers if t.name in used)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION)
        model.producer_name = "EdgeModel, read from TFLite"
        notes = [] if self._free else [f"the batch is fixed to the file's: {why}"] if why else []
        if any(t.variable for t in self._source.tensors):
            notes.append("the model keeps states: here they begin at zero with each request")
        quantized = {
            n: q for n, i in self._source.outputs.items() if (q := self._source.tensors[i].quantization) is not None
        }
        return Read(
            model,
            self._source.inputs,
            self._source.outputs,
            self._free,
            quantized,
            _kinds(self._source),
            tuple(notes),
            {n.name: self._origins[n.name] for n in nodes if n.name in self._origins},
        ), ()

    def _one(self, op: SourceOp) -> None:
        self._build.origin = _origin(self._source, op)
        before = len(self._build.nodes)
        early = next((i for i in op.inputs if i in self._made and i not in self._values), None)
        if early is not None:
            raise InputError(f"{op.label} reads tensor #{early} before it is made: export the TFLite model again")
        inputs = [None if i < 0 else self._value(i) for i in op.inputs]
        outputs = [_empty(self._source.tensors[i]) for i in op.outputs]
        for value, number in zip(outputs, op.outputs, strict=True):
            if number in self._values or number in self._source.inputs.values():
                raise InputError(f"{op.label} makes a tensor that is there already: export the TFLite model again")
            value.name = self._build.origin if len(outputs) == 1 else f"{self._build.origin}/{len(self._values)}"
        site = ReadSite(op, self._build, inputs, outputs, lenient=not self._declared)
        try:
            READERS[op.code][0](site)
        except RefusedError as error:
            self._refuse(op, str(error))
            return
        except FixedBatchError as error:
            raise FixedBatchError(f"{_place(self._source, op)}: {error}") from None
        except InputError:
            raise
        except Exception as error:
            # No traceback, and nothing of what Python says of it.
            log.debug("%s", op.label, exc_info=error)
            self._refuse(op, "its options and the shapes of its tensors contradict each other")
            return
        finally:
            for node in self._build.nodes[before:]:
                self._origins[node.name] = _place(self._source, op)
        for value, number in zip(outputs, op.outputs, strict=True):
            if not value.held and not value.stored and value.known is None and value.data is None:
                self._broken.add(number)
            self._values[number] = value

    def _refuse(self, op: SourceOp, why: str) -> None:
        self._problems.append(f"{_place(self._source, op)}: {why}")
        self._broken.update(op.outputs)

    def _value(self, number: int) -> Value:
        if number not in self._values:
            tensor = self._source.tensors[number]
            value = _empty(tensor)
            value.shape, value.data = tensor.shape, tensor.data
            value.name = tensor.name or f"tensor{number}"
            self._values[number] = value
        return self._values[number]

    def _input(self, name: str, number: int) -> Any:
        tensor = self._source.tensors[number]
        value = _empty(tensor)
        shape: list[int] = list(tensor.shape)
        if self._free:
            shape[0] = Free(shape[0])
        value.shape, value.name = tuple(shape), name
        order = plain(len(shape))
        (value.stored if value.quantization is not None else value.held)[order] = name
        self._values[number] = value
        if self._free:
            self._build.set_batch(name)
        dtype = tensor.dtype if tensor.dtype is not None else np.dtype(np.float32)
        return helper.make_tensor_value_info(name, onnx_type(dtype), _dims(shape))

    def _output(self, name: str, number: int) -> Any:
        value = self._value(number)
        # A name of its own, whatever else reads the same tensor.
        made = self._build.get_stored(value)
        self._build.nodes.append(helper.make_node("Identity", [made], [name], name=f"output/{name}"))
        dtype = value.stored_dtype if value.stored_dtype is not None and value.quantization is not None else value.dtype
        return helper.make_tensor_value_info(name, onnx_type(dtype), _dims(value.shape))


def _empty(tensor: SourceTensor) -> Value:
    if tensor.dtype is None:
        return Value(tensor.name, tensor.shape, np.dtype(object), declared=tensor.free)
    if tensor.quantization is not None:
        floats = np.dtype(np.float32)
        return Value(tensor.name, tensor.shape, floats, None, tensor.quantization, tensor.dtype, declared=tensor.free)
    return Value(tensor.name, tensor.shape, tensor.dtype, declared=tensor.free)


def _origin(source: SourceGraph, op: SourceOp) -> str:
    name = source.tensors[op.outputs[0]].name.partition(";")[0] if op.outputs else ""
    return name or f"{op.code.lower()}_{op.place}"


def _dims(shape: Any) -> list[int | str]:
    return [
        BATCH if isinstance(d, Free) and int(d) == 1 else (f"{BATCH}*{int(d)}" if isinstance(d, Free) else int(d))
        for d in shape
    ]


def _needed(nodes: list[Any], outputs: list[str]) -> list[Any]:
    """Nodes of which something comes to an output."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if any(o in wanted for o in node.output):
            kept.append(node)
            wanted.update(node.input)
    return kept[::-1]


def _named_outputs(nodes: list[Any], inputs: set[str]) -> list[Any]:
    """Instead of a copy under the output's name, the name itself, where something computes it."""
    made = {name for node in nodes for name in node.output}
    renamed: dict[str, str] = {}
    copies = []
    for node in nodes:
        if node.op_type == "Identity" and node.input[0] in made - inputs - set(renamed):
            renamed[node.input[0]] = node.output[0]
            copies.append(node)
    kept = [node for node in nodes if not any(node is c for c in copies)]
    for node in kept:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = renamed.get(name, name)
    return kept


def _kinds(source: SourceGraph) -> frozenset[str]:
    found = set()
    for tensor in source.tensors:
        if tensor.quantization is not None and tensor.dtype is not None:
            if tensor.data is None:
                found.add("integers")
            elif tensor.dtype.itemsize == 1:
                found.add("int8 weights")
        elif tensor.data is not None and tensor.dtype == np.float16:
            found.add("float16 weights")
    return frozenset(found)


def save(read: Read, dest: Path) -> tuple[str, int]:
    """Write the ONNX file: sha256 and size in bytes."""
    from edgemodel_compressor.formats.onnx_model import save_model

    return save_model(read.model, dest)
