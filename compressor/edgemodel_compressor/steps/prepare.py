"""Preparing: what every candidate starts from. Same answers as the source, easier to compress.

0. Calls of the model's own functions are inlined.
1. Every node gets a name, and none two nodes share: `{op type}_{index of the node in its graph}`, stable across runs.
   Nor do two tensors: branches of an If may each have an initializer of the same name, and a weight is known by its
   name.
2. Constant nodes become initializers; initializers are no longer inputs that a caller might feed (ONNX IR ≥ 4).
3. Identity, Cast, Transpose, Reshape, Squeeze, Unsqueeze, Flatten and Slice of an initializer are computed, where the
   result is no larger and nothing else needs the original (a tied embedding must not be stored twice). So are weights
   of 8 bits behind a DequantizeLinear, or a Cast and a scale, where the model computes in floats alone: they can then
   be pruned, or stored smaller still. Candidates are held to the source's size, which had them small.
4. BatchNormalization behind a Conv is folded into it: with s = γ / √(σ² + ε), W' = W·s and b' = (b − μ)·s + β, per
   output channel (ONNX BatchNormalization, inference mode). Integer kernels then see one node instead of two.
5. What nothing reads is dropped.

`upgrade_opset` is separate, as only per-channel QDQ needs it (QuantizeLinear has `axis` from opset 13 on).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import inliner, numpy_helper, shape_inference, version_converter
from onnx.reference import ReferenceEvaluator

from edgemodel_api.errors import InputError
from edgemodel_compressor.formats.kept import kept_tensors

from .graph import (
    FLOATS,
    array_of,
    attribute,
    copy_of,
    fresh,
    graphs,
    is_standard,
    names_in,
    opset,
    put_array,
    subgraphs,
    tensor_of,
    uses_of,
)
from .weights import SCALE_SUFFIX

PER_CHANNEL_OPSET = 13
_FOLDABLE = frozenset({"Identity", "Cast", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Slice"})
_DEQUANTIZE = "DequantizeLinear"
#: With one of these, integers are computed with.
_INTEGER_COMPUTE = frozenset({
    "QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger",
})  # fmt: skip
#: A folded constant may be larger than what it was made of by this much.
_SLACK_BYTES = 4096


def prepare(model: Any) -> Any:
    """The prepared copy: float, same inputs and outputs, every node named.

    Raises:
        InputError: an initializer cannot be read.
    """
    result = _inlined(model)
    _drop_hidden(result.graph)
    _name_tensors(result.graph)
    for graph in graphs(result.graph):
        _constants_to_initializers(graph)
    result.ir_version = max(result.ir_version, 4)
    _initializers_are_constants(result.graph)
    _name_nodes(result)
    _fold_constants(result)
    _fold_batch_norms(result.graph)
    _drop_unread(result.graph)
    return result


def _inlined(model: Any) -> Any:
    """A copy in which calls of the model's own functions are the functions' nodes: weights then have readers."""
    if not model.functions:
        return copy_of(model)
    try:
        return inliner.inline_local_functions(copy_of(model))
    except Exception:
        # A function that cannot be inlined stays a call; its weights stay as they are.
        return copy_of(model)


def infer_shapes(model: Any) -> Any:
    """With shapes and types of intermediate tensors where ONNX can tell; the model as it is where it cannot."""
    try:
        return shape_inference.infer_shapes(model, data_prop=True)
    except Exception:
        # Broken or contradicting annotations: runtimes ignore them, so they do not matter here.
        return model


def upgrade_opset(model: Any, version: int = PER_CHANNEL_OPSET) -> Any | None:
    """A copy in a newer opset; None where ONNX's converter cannot do it, as with weights that are kept outside.

    Names of nodes and tensors stay, so ranges and selections that were made before still fit.
    """
    if opset(model) >= version:
        return copy_of(model)
    if any(True for _ in kept_tensors(model)):
        return None
    try:
        converted = version_converter.convert_version(copy_of(model), version)
    except Exception:
        # The converter raises types of its own for operators that it lacks an adapter for.
        return None
    before, after = [[v.name for v in (*m.graph.input, *m.graph.output)] for m in (model, converted)]
    if before != after or opset(converted) < version:
        return None
    _name_nodes(converted)
    return converted


def _drop_hidden(graph: Any) -> None:
    """Initializers that onnxruntime does not read: of a name that another graph of the same node reads from outside.

    What is outside is fed into all graphs of that node then. Where no other reads it, the inner one counts. (ONNX wants
    names of their own; the checker lets such models pass.)
    """
    for node in graph.node:
        inner = list(subgraphs(node))
        fed = set[str]().union(*map(_captured, inner))
        for one in inner:
            for index in reversed(range(len(one.initializer))):
                if one.initializer[index].name in fed:
                    del one.initializer[index]
            _drop_hidden(one)


def _captured(graph: Any) -> set[str]:
    """What a graph, or one inside it, reads from around it."""
    read = {v.name for v in graph.output}
    for node in graph.node:
        read.update(node.input)
        for inner in subgraphs(node):
            read |= _captured(inner)
    return read - _own(graph) - {""}


def _own(graph: Any) -> set[str]:
    """Names of what a graph is given, holds or computes itself."""
    given = {t.name for t in (*graph.initializer, *graph.input)} | {t.values.name for t in graph.sparse_initializer}
    return given.union(*(n.output for n in graph.node))


def _name_tensors(graph: Any) -> None:
    """What graphs inside nodes hold or compute gets a name of its own; the first one that has a name keeps it."""
    taken, seen = names_in(graph), set[str]()
    for inner in graphs(graph):
        fed = {i.name for i in inner.input}
        own = [t.name for t in inner.initializer] + [name for n in inner.node for name in n.output if name]
        new = {name: fresh(name, taken) for name in dict.fromkeys(own) if name in seen and name not in fed}
        seen.update(fed, own)
        if new:
            _rename(inner, new)


def _rename(graph: Any, new: dict[str, str]) -> None:
    """Old names to new ones wherever a graph, or one inside it that has no tensor of that name itself, reads them."""
    for node in graph.node:
        node.input[:] = [new.get(n, n) for n in node.input]
        node.output[:] = [new.get(n, n) for n in node.output]
        for inner in subgraphs(node):
            own = _own(inner)
            if left := {old: name for old, name in new.items() if old not in own}:
                _rename(inner, left)
    for value in (*graph.initializer, *graph.output, *graph.value_info):
        value.name = new.get(value.name, value.name)
    for annotation in graph.quantization_annotation:
        annotation.tensor_name = new.get(annotation.tensor_name, annotation.tensor_name)


def _constants_to_initializers(graph: Any) -> None:
    kept = []
    known = {t.name for t in graph.initializer}
    outputs = {o.name for o in graph.output}
    for node in graph.node:
        tensor = _constant(node) if node.op_type == "Constant" and is_standard(node) else None
        if tensor is None or node.output[0] in known or node.output[0] in outputs:
            kept.append(node)
        else:
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
    _set_nodes(graph, kept)


def _constant(node: Any) -> Any | None:
    for a in node.attribute:
        if a.name == "value":
            tensor = onnx.TensorProto()
            tensor.CopyFrom(a.t)
            return tensor
        if a.name in ("value_float", "value_floats"):
            return numpy_helper.from_array(np.asarray(onnx.helper.get_attribute_value(a), dtype=np.float32))
        if a.name in ("value_int", "value_ints"):
            return numpy_helper.from_array(np.asarray(onnx.helper.get_attribute_value(a), dtype=np.int64))
    return None


def _initializers_are_constants(graph: Any) -> None:
    constants = {t.name for t in graph.initializer}
    kept = [i for i in graph.input if i.name not in constants]
    if len(kept) < len(graph.input):
        del graph.input[:]
        graph.input.extend(kept)


def _name_nodes(model: Any) -> None:
    everything = [n for g in graphs(model.graph) for n in g.node]
    taken = {n.name for n in everything if n.name}
    seen: set[str] = set()
    for graph in graphs(model.graph):
        for index, node in enumerate(graph.node):
            if not node.name or node.name in seen:
                node.name = fresh(node.name or f"{node.op_type}_{index}", taken)
            seen.add(node.name)


def _fold_constants(model: Any) -> None:
    imports = {o.domain: o.version for o in model.opset_import}
    ops = {n.op_type for g in graphs(model.graph) for n in g.node}
    # Large weights are worked on one at a time, and are not made four times as large.
    widens = not ops & _INTEGER_COMPUTE and next(iter(kept_tensors(model)), None) is None
    for graph in graphs(model.graph):
        fed = {i.name for i in graph.input}
        known = {t.name: t for t in graph.initializer if t.name not in fed}
        uses = uses_of(graph)
        outputs = {o.name for o in graph.output}
        kept = []
        wide: set[str] = set()
        for node in graph.node:
            folded = None
            growing = widens and _widens(node, known, wide)
            if (node.op_type in _FOLDABLE or growing) and is_standard(node) and node.output[0] not in outputs:
                folded = _folded(node, known, uses, imports, growing=growing)
            if folded is None:
                kept.append(node)
                continue
            if growing:
                wide.add(node.output[0])
            graph.initializer.append(folded)
            known[folded.name] = graph.initializer[-1]
            for name in node.input:
                uses[name] = uses.get(name, 0) - 1
        _set_nodes(graph, kept)


def _widens(node: Any, known: dict[str, Any], wide: set[str]) -> bool:
    """Whether it makes floats of stored integers, or scales what was made of them."""
    if node.op_type in ("Mul", "Sub"):
        return any(n in wide for n in node.input)
    # Parts of one number, and scales of blocks, as `weight_only` writes them.
    if node.op_type == "Add":
        return all(n in wide for n in node.input)
    if node.op_type == "Gather" and node.name.endswith(SCALE_SUFFIX):
        return True
    if node.op_type not in ("Cast", _DEQUANTIZE) or not node.input or node.input[0] not in known:
        return False
    stored = known[node.input[0]]
    floats = node.op_type == _DEQUANTIZE or attribute(node, "to", 0) == onnx.TensorProto.FLOAT
    return floats and len(stored.dims) > 1 and stored.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)


def _folded(
    node: Any, known: dict[str, Any], uses: dict[str, int], imports: dict[str, int], *, growing: bool
) -> Any | None:
    inputs = [n for n in node.input if n]
    if not inputs or len(node.output) != 1 or any(n not in known for n in inputs):
        return None
    source = array_of(known[inputs[0]])
    if uses.get(inputs[0], 0) > 1 and source.nbytes > _SLACK_BYTES:
        return None
    try:
        run = ReferenceEvaluator(node, opsets=imports)
        (value,) = run.run(None, {n: array_of(known[n]) for n in inputs})
        value = np.ascontiguousarray(value) if np.ndim(value) else np.asarray(value)
        if value.nbytes > source.nbytes + _SLACK_BYTES and not growing:
            return None
        return tensor_of(value, node.output[0], beside=known[inputs[0]])
    except InputError:
        raise
    except Exception:
        # Whatever the reference evaluator cannot do stays for the runtime.
        return None


def _fold_batch_norms(graph: Any) -> None:
    uses = uses_of(graph)
    fed = {i.name for i in graph.input}
    known = {t.name: t for t in graph.initializer if t.name not in fed}
    producers = {n.output[0]: n for n in graph.node if n.output}
    outputs = {o.name for o in graph.output}
    taken = names_in(graph)
    folded: set[str] = set()
    for node in graph.node:
        conv = producers.get(node.input[0]) if node.op_type == "BatchNormalization" and node.input else None
        if (
            conv is not None
            and is_standard(node)
            and is_standard(conv)
            and conv.op_type == "Conv"
            and uses.get(conv.output[0], 0) == 1
            and conv.output[0] not in outputs
            and _fold_batch_norm(graph, node, conv, known=known, uses=uses, taken=taken)
        ):
            conv.output[0] = node.output[0]
            producers[node.output[0]] = conv
            folded.add(node.name)
    _set_nodes(graph, [n for n in graph.node if n.name not in folded])
    _drop_stale_shapes(graph)


def _fold_batch_norm(
    graph: Any, norm: Any, conv: Any, *, known: dict[str, Any], uses: dict[str, int], taken: set[str]
) -> bool:
    needed = [conv.input[1], *conv.input[2:3], *norm.input[1:5]]
    if (
        attribute(norm, "training_mode", 0)
        or not attribute(norm, "spatial", 1)
        or any(norm.output[1:])
        or len(norm.input) != 5
    ):
        return False
    if any(n and n not in known for n in needed) or any(uses.get(n, 0) > 1 for n in conv.input[1:3] if n):
        return False
    if any(known[n].data_type not in FLOATS for n in needed if n):
        return False
    weight = array_of(known[conv.input[1]])
    scale, shift, mean, variance = (array_of(known[n]).astype(np.float64) for n in norm.input[1:5])
    channels = weight.shape[0] if weight.ndim else 0
    if any(a.shape != (channels,) for a in (scale, shift, mean, variance)) or weight.ndim < 3:
        return False
    factor: npt.NDArray[np.float64] = scale / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
    bias = np.zeros(channels)
    if len(conv.input) > 2 and conv.input[2]:
        bias = array_of(known[conv.input[2]]).astype(np.float64)
    new_weight = (weight.astype(np.float64) * factor.reshape(-1, *[1] * (weight.ndim - 1))).astype(weight.dtype)
    new_bias = ((bias - mean) * factor + shift).astype(weight.dtype)
    if not (np.isfinite(new_weight).all() and np.isfinite(new_bias).all()):
        return False
    put_array(known[conv.input[1]], new_weight)
    if len(conv.input) > 2 and conv.input[2]:
        put_array(known[conv.input[2]], new_bias)
        return True
    name = fresh(f"{conv.input[1]}/folded_bias", taken)
    graph.initializer.append(numpy_helper.from_array(new_bias, name))
    known[name] = graph.initializer[-1]
    uses[name] = 1
    del conv.input[2:]
    conv.input.append(name)
    return True


def _drop_stale_shapes(graph: Any) -> None:
    made = {name for node in graph.node for name in node.output}
    kept = [v for v in graph.value_info if v.name in made]
    if len(kept) < len(graph.value_info):
        del graph.value_info[:]
        graph.value_info.extend(kept)


def _drop_unread(graph: Any) -> None:
    """Initializers that no node and no output reads; nodes stay (they may be what a user names)."""
    for inner in graphs(graph):
        read = uses_of(inner)
        kept = [t for t in inner.initializer if read.get(t.name)]
        if len(kept) < len(inner.initializer):
            del inner.initializer[:]
            inner.initializer.extend(kept)


def _set_nodes(graph: Any, nodes: list[Any]) -> None:
    if len(nodes) == len(graph.node):
        return
    copies = [copy_of(n) for n in nodes]
    del graph.node[:]
    graph.node.extend(copies)
