"""Making a TFLite graph shorter without changing its numbers: activations into their producers, reshapes into one."""

from __future__ import annotations

import numpy as np

from .graph import Graph, Op, Tensor, is_free

_FUSED = {"RELU": "RELU", "RELU6": "RELU6"}
_TAKES_ACTIVATION = frozenset({
    "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "SUB", "MUL", "DIV", "AVERAGE_POOL_2D", "MAX_POOL_2D",
})  # fmt: skip
_TAKES_BIAS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"})


def fuse(graph: Graph) -> None:
    """All of it, until nothing changes."""
    while _reshapes(graph) or _transposes(graph) or _activations(graph) or _biases(graph):
        graph.drop_dead()
    graph.drop_dead()


def _alone(graph: Graph) -> tuple[dict[int, Op], dict[int, list[Op]], set[int]]:
    return graph.producers(), graph.readers(), {id(t) for t in graph.outputs.values()}


def _take(producer: Op, reader: Op) -> None:
    """The producer makes what the reader made."""
    reader.outputs[0].quantization = None
    producer.outputs = [reader.outputs[0]]


def _activations(graph: Graph) -> bool:
    producers, readers, outputs = _alone(graph)
    for op in graph.ops:
        source = op.inputs[0] if op.code in _FUSED else None
        made = producers.get(id(source))
        if made is None or source is None or id(source) in outputs or len(readers[id(source)]) > 1:
            continue
        if made.code in ("RESHAPE", "TRANSPOSE") and made.inputs[0] is not None:
            # Through what only moves numbers: relu(reshape(x)) = reshape(relu(x)).
            inner = producers.get(id(made.inputs[0]))
            first = made.inputs[0]
            if inner is None or len(readers[id(first)]) > 1 or id(first) in outputs or not _takes(inner):
                continue
            inner.options["fusedActivationFunction"] = _activation(op.code)
            _take(made, op)
            graph.ops.remove(op)
            return True
        if _takes(made):
            made.options["fusedActivationFunction"] = _activation(op.code)
            _take(made, op)
            graph.ops.remove(op)
            return True
    return False


def _takes(op: Op) -> bool:
    return (
        op.code in _TAKES_ACTIVATION
        and not op.options.get("fusedActivationFunction")
        and op.outputs[0].dtype == np.float32
    )


def _activation(code: str) -> int:
    from .schema import enum

    return enum("ActivationFunctionType", _FUSED[code])


def _biases(graph: Graph) -> bool:
    """x·W + b, with b added by a node of its own behind a product without bias or with a constant one."""
    producers, readers, outputs = _alone(graph)
    for op in graph.ops:
        if op.code != "ADD" or op.outputs[0].dtype != np.float32:
            continue
        for i in (0, 1):
            source, constant = op.inputs[i], op.inputs[1 - i]
            if source is None or constant is None or constant.data is None or source.data is not None:
                continue
            made = producers.get(id(source))
            channels = int(source.shape[-1]) if source.shape else 0
            if (
                made is None
                or made.code not in _TAKES_BIAS
                or made.options.get("fusedActivationFunction")
                or len(readers[id(source)]) > 1
                or id(source) in outputs
                or constant.data.size != channels
                or (constant.data.ndim and constant.data.shape[-1] != channels)
                or len(op.outputs[0].shape) != len(source.shape)
            ):
                continue
            bias = made.inputs[2] if len(made.inputs) > 2 else None
            if bias is not None and bias.data is None:
                continue
            total = constant.data.reshape(-1)
            if bias is not None and bias.data is not None:
                total = (total.astype(np.float64) + bias.data.reshape(-1)).astype(np.float32)
            made.inputs = [*made.inputs[:2], Tensor(constant.name, (channels,), total.dtype, total)]
            if op.options.get("fusedActivationFunction"):
                made.options["fusedActivationFunction"] = op.options["fusedActivationFunction"]
            _take(made, op)
            graph.ops.remove(op)
            return True
    return False


def _reshapes(graph: Graph) -> bool:
    """Of two in a row the first goes; one that changes nothing goes."""
    producers, _, outputs = _alone(graph)
    for op in graph.ops:
        if op.code != "RESHAPE":
            continue
        source = op.inputs[0]
        made = producers.get(id(source))
        if made is not None and made.code == "RESHAPE" and made.inputs[0] is not source:
            op.inputs[0] = made.inputs[0]
            return True
        result = op.outputs[0]
        if source is not None and id(result) not in outputs and _same(source, result) and made is not None:
            graph.replace(result, source)
            graph.ops.remove(op)
            return True
    return False


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and is_free(a.shape) == is_free(b.shape) and a.dtype == b.dtype


def _transposes(graph: Graph) -> bool:
    """Of two in a row one remains, or none."""
    producers, _, outputs = _alone(graph)
    for op in graph.ops:
        made = producers.get(id(op.inputs[0])) if op.code == "TRANSPOSE" else None
        if made is None or made.code != "TRANSPOSE" or op.inputs[1] is None or made.inputs[1] is None:
            continue
        first, second = made.inputs[1].data, op.inputs[1].data
        if first is None or second is None:
            continue
        both = np.asarray([first[a] for a in second], dtype=np.int32)
        source, result = made.inputs[0], op.outputs[0]
        if source is None:
            continue
        if both.tolist() == list(range(len(both))) and id(result) not in outputs:
            graph.replace(result, source)
            graph.ops.remove(op)
        else:
            op.inputs = [source, Tensor(op.inputs[1].name, op.inputs[1].shape, both.dtype, both)]
        return True
    return False
