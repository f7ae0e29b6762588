"""Random weights for a student that learns from scratch: seeded, the same for the same graph and seed.

- Weights before a rectifier: He et al. 2015 (arXiv:1502.01852), normal with variance 2 / fan-in.
- Other weights: Glorot and Bengio 2010, uniform with variance 2 / (fan-in + fan-out).
- Recurrent matrices of LSTM, GRU and RNN: uniform within ± 1/√hidden. Embeddings: normal, σ = 0.02 · √(50 / width) …
  no larger than 1/√width.
- Biases 0; scales of norms 1, their shifts 0, their running statistics 0 and 1. The forget gate of an LSTM starts at 1
  (Jozefowicz et al. 2015).

The rest (scalars, masks, positions, constants of preprocessing) keeps the teacher's values.

Without batch statistics (a prepared model has its BatchNormalization folded) a deep network would start with
activations that vanish or explode, so the weights are then scaled layer by layer until each layer's output has variance
1 on some rows of the data: Mishkin and Matas 2016, "All you need is a good init" (LSUV, arXiv:1511.06422).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import numpy_helper

from edgemodel_compressor.evaluate.runner import BATCH_ROWS, Arrays
from edgemodel_compressor.steps.graph import array_of, attribute, is_standard
from edgemodel_compressor.steps.weights import Weight, weights

from .answers import in_parts, model_runner
from .convert import with_parameters
from .heads import with_outputs

Array = npt.NDArray[Any]

_RECTIFIERS = frozenset({"Relu", "LeakyRelu", "PRelu", "Clip", "Elu", "Selu", "Gelu", "HardSwish", "Swish", "Mish"})
_BETWEEN = frozenset({"Add", "BatchNormalization", "Identity", "Mul", "Sigmoid", "HardSigmoid", "Erf", "Div"})
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_SCALED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
#: Operator → (inputs that become 1, inputs that become 0).
_NORMS = {
    "BatchNormalization": ((1, 4), (2, 3)), "LayerNormalization": ((1,), (2,)), "InstanceNormalization": ((1,), (2,)),
    "GroupNormalization": ((1,), (2,)), "RMSNormalization": ((1,), ()), "SimplifiedLayerNormalization": ((1,), ()),
    "SkipLayerNormalization": ((2,), (3, 4)), "Conv": ((), (2,)), "ConvTranspose": ((), (2,)), "Gemm": ((), (2,)),
}  # fmt: skip


def initialised(model: Any, *, seed: int, rows: Arrays, at_once: int = BATCH_ROWS) -> Any:
    """A copy with random weights.

    Args:
        model: ModelProto.
        seed: of the numbers.
        rows: a few rows of the inputs, by which the layers are scaled.
        at_once: how many of them one run gets.

    Raises:
        InputError: the model fails on the rows.
    """
    return _scaled(with_parameters(model, dict(_random(model, seed))), rows, at_once)


def _random(model: Any, seed: int) -> Iterator[tuple[str, Array]]:
    own = {t.name: t for t in model.graph.initializer}
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = [w for w in weights(model) if w.graph is model.graph or own.get(w.name) is w.tensor]
    taken = {w.name for w in found}
    for index, weight in enumerate(found):
        yield weight.name, _weight(weight, readers, np.random.default_rng([seed, 3, index]))
    for name, value in _constants(model, own):
        if name not in taken:
            taken.add(name)
            yield name, value


def _weight(weight: Weight, readers: dict[str, list[Any]], rng: np.random.Generator) -> Array:
    shape = weight.shape
    if weight.op == "Gather":
        width = shape[-1]
        return rng.normal(0.0, min(0.02 * math.sqrt(50), 1 / math.sqrt(width)), shape)
    if weight.op in _RECURRENT:
        # [directions, gates · hidden, in]
        gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[weight.op]
        bound = 1 / math.sqrt(max(shape[-2] // gates, 1))
        return rng.uniform(-bound, bound, shape)
    fan_in, fan_out = fans(weight)
    if _before_rectifier(weight, readers):
        return rng.normal(0.0, math.sqrt(2 / fan_in), shape)
    bound = math.sqrt(6 / (fan_in + fan_out))
    return rng.uniform(-bound, bound, shape)


def fans(weight: Weight) -> tuple[int, int]:
    """How many inputs one output of a weight is made of, and how many outputs one input goes to."""
    size = weight.size
    outputs = math.prod(weight.shape[a] for a in weight.channel_axes) or 1
    if weight.op in ("Conv", "ConvTranspose", "DeformConv"):
        kernel = math.prod(weight.shape[2:])
        return max(size // outputs, 1), max(outputs * kernel, 1)
    return max(size // outputs, 1), max(outputs, 1)


def _before_rectifier(weight: Weight, readers: dict[str, list[Any]]) -> bool:
    """Whether the first activation behind a weight's reader is a rectifier of some kind."""
    names = [o for node in readers.get(weight.name, []) for o in node.output]
    for _ in range(4):
        following = [node for name in names for node in readers.get(name, [])]
        if any(node.op_type in _RECTIFIERS for node in following):
            return True
        names = [o for node in following if node.op_type in _BETWEEN for o in node.output]
    return False


def _constants(model: Any, own: dict[str, Any]) -> Iterator[tuple[str, Array]]:
    """Biases and the parameters of norms."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        ones, zeros = (
            _NORMS.get(node.op_type, ((), ())) if is_standard(node) or node.domain == "com.microsoft" else ((), ())
        )
        for index in (*ones, *zeros):
            if index < len(node.input) and node.input[index] in own:
                shape = tuple(own[node.input[index]].dims)
                yield node.input[index], np.ones(shape) if index in ones else np.zeros(shape)
        if node.op_type in _RECURRENT and len(node.input) > 3 and node.input[3] in own:
            yield node.input[3], _recurrent_bias(node, tuple(own[node.input[3]].dims))
        if node.op_type == "Add" and len(node.input) == 2:
            # The bias of a MatMul.
            for name, other in (node.input, reversed(node.input)):
                maker = made_by.get(other)
                if name in own and len(own[name].dims) == 1 and maker is not None and maker.op_type == "MatMul":
                    yield name, np.zeros(tuple(own[name].dims))


def _recurrent_bias(node: Any, shape: tuple[int, ...]) -> Array:
    bias = np.zeros(shape)
    if node.op_type == "LSTM":
        # Gates in the order i, o, f, c, for W and then for R.
        hidden = int(attribute(node, "hidden_size", shape[-1] // 8))
        bias[..., 2 * hidden : 3 * hidden] = 1.0
    return bias


def _scaled(model: Any, rows: Arrays, at_once: int) -> Any:
    """Each layer's weights divided by the standard deviation of its output, first layers first: then it is 1."""
    tensors = {t.name: t for t in model.graph.initializer}
    for name, output in _layers(model):
        parts = in_parts(model_runner(with_outputs(model, [output])), rows, at_once)
        deviation = float(np.std(np.concatenate([p[output].ravel() for p in parts]).astype(np.float64)))
        if math.isfinite(deviation) and deviation > 1e-12:
            values = array_of(tensors[name])
            scaled = (values.astype(np.float64) / deviation).astype(values.dtype)
            tensors[name].CopyFrom(numpy_helper.from_array(scaled, name))
    return model


def _layers(model: Any) -> list[tuple[str, str]]:
    """(weight, the output of its one reader), in the order of the nodes."""
    own = {t.name for t in model.graph.initializer}
    found: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.op_type in _SCALED and is_standard(node):
            for name in node.input[:2]:
                if name in own:
                    found.setdefault(name, []).append(node.output[0])
    return [(name, outputs[0]) for name, outputs in found.items() if len(outputs) == 1]
