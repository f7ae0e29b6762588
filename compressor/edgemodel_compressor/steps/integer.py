"""Integer kernels: static (QDQ) and dynamic quantization through onnxruntime.quantization's quantizers.

A float x becomes q = clip(round(x / s) + z), with s = (high − low) / (q_max − q_min) from calibrated ranges (static) or
from the batch at hand (dynamic); weights have s per output channel and z = 0 (ONNX QuantizeLinear; Jacob et al. 2018,
arXiv:1712.05877). The quantizer gets the list of nodes and our ranges; nothing of onnxruntime's calibrators is used.

QDQ: `QuantizeLinear → DequantizeLinear` around float nodes, which runtimes fuse into integer kernels. Where all readers
of a MatMul's or Gemm's answer are float nodes, the pair behind it is taken out again: the kernel then answers floats
directly, which is more exact and spares two nodes.

Dynamic: never for Conv, whose dynamic kernels are many times slower than float ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from edgemodel_api.edgemodel import QuantizeStep
from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted

from .calibrate import Ranges
from .encodings import Encoding, Number, Repair
from .graph import array_of, attribute, copy_of, fresh, names_in, opset, uses_of
from .nodes import computing_nodes, passing_nodes
from .prepare import PER_CHANNEL_OPSET, upgrade_opset
from .quantizer import run_quantizer, tidy

QDQ_OPSET = 10
DYNAMIC_OPSET = 11


@dataclass(frozen=True)
class Made:
    """A quantized model, the nodes that compute with integers, and notes."""

    model: Any
    nodes: tuple[str, ...]
    notes: tuple[str, ...]


def quantize_static(
    model: Any, step: QuantizeStep, encoding: Encoding, *, ranges: Ranges, nodes: frozenset[str] | None
) -> Made:
    """QDQ with calibrated ranges.

    Raises:
        InputError: nothing to quantize, an opset that cannot be raised, or a node that the quantizer cannot take.
    """
    base, per_channel, notes = _at_opset(model, QDQ_OPSET, encoding)
    computing = _left_by_repairs(computing_nodes(base, step, nodes), encoding)
    known = {n for n, r in ranges.tensors.items() if r.finite}
    initializers = {t.name for t in base.graph.initializer}
    ready = tuple(n for n in computing if all(i in known or i in initializers for i in _activations(n)))
    if len(ready) < len(computing):
        lost = [n.name for n in computing if n not in ready]
        notes.append(
            f"{counted(len(lost), 'node stays', 'nodes stay')} float, as inputs or outputs are not finite float32 on"
            f" the calibration data: {', '.join(lost[:3])}{' …' if len(lost) > 3 else ''}"
        )
    if not ready:
        raise InputError(
            f"{encoding.name} finds nothing to quantize: no Conv, MatMul or Gemm with float32 weights is left by include"
            " and exclude; change them, or use activations: None (weights only)"
        )
    passing = tuple(
        n for n in passing_nodes(base, ready, step) if all(i in known or i in initializers for i in _activations(n))
    )
    _own_biases(base, ready)
    options: dict[str, Any] = {
        "WeightSymmetric": encoding.weight is Number.INT8,
        "TensorQuantOverrides": _overrides(base, ready, encoding, per_channel=per_channel),
    }
    made = run_quantizer(
        base,
        [*ready, *passing],
        encoding,
        per_channel=per_channel,
        options=options,
        data=_tensor_data(ranges),
    )
    _answer_floats(
        made, {n.name for n in ready if n.op_type in ("MatMul", "Gemm")}, {n.name for n in (*ready, *passing)}
    )
    return Made(tidy(made, model), tuple(n.name for n in ready), tuple(notes))


def quantize_dynamic(model: Any, step: QuantizeStep, encoding: Encoding, *, nodes: frozenset[str] | None) -> Made:
    """MatMulInteger, QAttention and DynamicQuantizeLSTM, with ranges of the batch at hand.

    Raises:
        InputError: as for `quantize_static`.
    """
    base, per_channel, notes = _at_opset(model, DYNAMIC_OPSET, encoding)
    computing = _left_by_repairs(computing_nodes(base, step, nodes), encoding)
    if not computing:
        raise InputError(
            f"{encoding.name} finds nothing to quantize: no MatMul, Gemm, Attention or LSTM with float32 weights is left"
            " by include and exclude (dynamic INT8 Conv is slower than float, so it is never made); use activations:"
            " Static or None"
        )
    names = tuple(n.name for n in computing)
    base = _gemm_as_matmul(base, frozenset(names))
    chosen = [n for n in base.graph.node if n.name in set(names)]
    options = {
        "MatMulConstBOnly": True,
        "WeightSymmetric": encoding.weight is Number.INT8,
        "TensorQuantOverrides": _repaired(base, chosen, encoding, per_channel=per_channel),
    }
    made = run_quantizer(base, chosen, encoding, per_channel=per_channel, options=options, data=None)
    return Made(tidy(made, model), names, tuple(notes))


def _at_opset(model: Any, least: int, encoding: Encoding) -> tuple[Any, bool, list[str]]:
    """The model in an opset that the encoding can be written in, whether per channel, and notes."""
    have = opset(model)
    wanted = PER_CHANNEL_OPSET if encoding.per_channel else least
    if have >= wanted:
        return copy_of(model), encoding.per_channel, []
    raised = upgrade_opset(model, wanted)
    if raised is not None:
        return raised, encoding.per_channel, [f"written in opset {wanted} instead of {have}"]
    if have >= least:
        note = f"opset {have} has no scale per channel, and could not be raised to {wanted}: one scale per tensor"
        return copy_of(model), False, [note]
    raise InputError(
        f"{encoding.name} needs opset {least}, the model is in opset {have} and ONNX's converter cannot raise it: export"
        f" it with opset {PER_CHANNEL_OPSET} or newer, or use activations: None (weights only)"
    )


def _activations(node: Any) -> list[str]:
    """Tensors that the quantizer puts a pair on; shapes and biases are none of them."""
    several = node.op_type in ("MatMul", "Concat", "Add", "Mul")
    return [*(node.input if several else node.input[:1]), *node.output]


def _tensor_data(ranges: Ranges) -> dict[str, Any]:
    from onnxruntime.quantization.calibrate import TensorData

    made = {}
    for name, r in ranges.tensors.items():
        if not r.finite:
            continue
        low, high = r.clipped
        made[name] = TensorData(lowest=np.float32(low), highest=np.float32(high))
    return made


def _left_by_repairs(nodes: tuple[Any, ...], encoding: Encoding) -> tuple[Any, ...]:
    """Without those that a repair leaves in float."""
    floats = {name for name, repair in encoding.repairs if repair is Repair.FLOAT}
    return tuple(n for n in nodes if n.name not in floats)


def _overrides(
    model: Any, nodes: tuple[Any, ...], encoding: Encoding, *, per_channel: bool
) -> dict[str, list[dict[str, Any]]]:
    """What the quantizer has to do otherwise for single weights."""
    plain = _per_tensor(model, nodes) if per_channel else {}
    # A weight that has one scale for all keeps it when its range is reduced.
    repaired = _repaired(model, nodes, encoding, per_channel=per_channel, whole=frozenset(plain))
    return {**plain, **repaired}


def _repaired(
    model: Any,
    nodes: Sequence[Any],
    encoding: Encoding,
    *,
    per_channel: bool,
    whole: frozenset[str] = frozenset(),
) -> dict[str, list[dict[str, Any]]]:
    """Weights of repaired nodes, by name: 7 bits, or u8 with one scale and a zero point of its own."""
    from onnxruntime.quantization.quant_utils import QuantType

    repairs = dict(encoding.repairs)
    ranks = {t.name: len(t.dims) for t in model.graph.initializer}
    found: dict[str, list[dict[str, Any]]] = {}
    for node in nodes:
        repair = repairs.get(node.name)
        for name in (n for n in node.input[1 : 3 if node.op_type == "LSTM" else 2] if n in ranks):
            if repair is Repair.UINT8:
                found[name] = [{"quant_type": QuantType.QUInt8, "symmetric": False}]
                # The dynamic quantizer wants them all one way.
                if encoding.dynamic and per_channel and (axis := _axis(node, ranks[name])) is not None:
                    found[name][0]["axis"] = axis
            elif repair is Repair.REDUCE_RANGE:
                found[name] = [{"quant_type": QuantType.QInt8, "symmetric": True, "reduce_range": True}]
                if per_channel and name not in whole and (axis := _axis(node, ranks[name])) is not None:
                    found[name][0]["axis"] = axis
    return found


def _axis(node: Any, rank: int) -> int | None:
    """Axis of the output channels of a node's weight, as the quantizer cuts it; None: one scale for all."""
    if node.op_type == "MatMul":
        return 1 if rank == 2 else None
    if node.op_type in ("Conv", "ConvTranspose"):
        return 0 if node.op_type == "Conv" else 1
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return None


def _per_tensor(model: Any, nodes: tuple[Any, ...]) -> dict[str, list[dict[str, Any]]]:
    """Weights that cannot have a scale per channel.

    MatMul with more than two axes in B (the quantizer would cut along axis 1, which is no channel's), and weights that
    two nodes read along different axes.
    """
    ranks = {t.name: len(t.dims) for t in model.graph.initializer}
    seen: dict[str, int] = {}
    mixed: set[str] = set()
    for node in nodes:
        name = node.input[1]
        if name not in ranks:
            continue
        axis = _axis(node, ranks[name])
        if axis is None or seen.setdefault(name, axis) != axis:
            mixed.add(name)
    return {name: [{"symmetric": True}] for name in sorted(mixed)}


def _own_biases(model: Any, nodes: tuple[Any, ...]) -> None:
    """A bias that several nodes share is copied: its scale is input scale · weight scale, so each needs another.

    The quantizer would copy it too, under a name that may be taken (bias `x` of a graph with a tensor `x2`).
    """
    tensors = {t.name: t for t in model.graph.initializer}
    uses, taken = uses_of(model.graph), names_in(model.graph)
    for node in nodes:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm") and len(node.input) > 2 and uses.get(node.input[2], 0) > 1:
            own = copy_of(tensors[node.input[2]])
            own.name = fresh(f"{node.name}/bias", taken)
            node.input[2] = own.name
            model.graph.initializer.append(own)


def _gemm_as_matmul(model: Any, names: frozenset[str]) -> Any:
    """x·Wᵀ + b as MatMul and Add: there is no dynamic Gemm kernel. The MatMul keeps the Gemm's name."""
    taken = names_in(model.graph)
    tensors = {t.name: t for t in model.graph.initializer}
    index = 0
    while index < len(model.graph.node):
        node = model.graph.node[index]
        if node.op_type == "Gemm" and node.name in names:
            weight = node.input[1]
            if attribute(node, "transB", 0):
                turned = fresh(f"{weight}/transposed", taken)
                values = np.ascontiguousarray(array_of(tensors[weight]).T)
                model.graph.initializer.append(numpy_helper.from_array(values, turned))
                weight = turned
            bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
            output = node.output[0]
            product = fresh(f"{output}/product", taken) if bias else output
            matmul = helper.make_node("MatMul", [node.input[0], weight], [product], name=node.name)
            if bias:
                add = helper.make_node("Add", [product, bias], [output], name=f"{node.name}/bias")
                model.graph.node.insert(index + 1, add)
            node.CopyFrom(matmul)
        index += 1
    return model


def _answer_floats(model: Any, names: set[str], quantized: set[str]) -> None:
    """Take out pairs behind MatMul and Gemm (`names`) that only float nodes read."""
    graph = model.graph
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {o.name for o in graph.output}
    # Graphs inside read tensors too: what they read must keep its name.
    uses = uses_of(graph)
    gone: set[str] = set()
    for node in graph.node:
        if node.name not in names:
            continue
        answer = node.output[0]
        (pair, *others) = readers.get(answer, [None])
        if pair is None or others or uses[answer] > 1 or pair.op_type != "QuantizeLinear" or answer in outputs:
            continue
        back = readers.get(pair.output[0], [])
        if len(back) != 1 or back[0].op_type != "DequantizeLinear":
            continue
        floats = back[0].output[0]
        if any(r.name in quantized for r in readers.get(floats, [])):
            continue
        node.output[0] = floats
        gone |= {pair.name, back[0].name}
    kept = [copy_of(n) for n in graph.node if n.name not in gone]
    if len(kept) < len(graph.node):
        del graph.node[:]
        graph.node.extend(kept)
