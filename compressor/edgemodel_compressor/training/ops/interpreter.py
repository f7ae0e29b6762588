"""Runs a graph node by node, with numpy where values are static and with JAX where they are traced."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from onnx import AttributeProto, helper

from edgemodel_compressor.formats.functions import domain_of
from edgemodel_compressor.formats.tensors import node_label
from edgemodel_compressor.steps.graph import array_of

from .base import REGISTRY, Call, NotConvertibleError, Value, dtype_of, is_static, lift

#: Graphs within graphs: If in Loop in If …
MAX_NESTING = 16
#: Elements of known inputs beyond which JAX computes with them: also bounds what outer products of constants can come to.
MAX_FOLDED = 2**14
#: What a subgraph's free name may be bound to.
_Scope = dict[str, Value]


class NodeError(Exception):
    """A node failed while the graph was traced.

    Attributes:
        label: `node 'name' (Op)`.
        why: the reason, without the node.
        unsupported: the converter lacks something; else the model itself does not fit together.
    """

    def __init__(self, label: str, why: str, *, unsupported: bool) -> None:
        super().__init__(f"{label}: {why}")
        self.label, self.why, self.unsupported = label, why, unsupported


def lacks(domain: str, name: str, opset: int) -> str:
    """Why an operator has no conversion at all; empty: it has one."""
    conversion = REGISTRY.get((domain, name))
    if conversion is None:
        return f"the operator {f'{domain}.{name}' if domain else name} has no conversion"
    if opset < conversion.since:
        return f"its form before opset {conversion.since} has no conversion: export with a later one"
    return ""


class _Poison:
    """Stands for the outputs of a node that failed, so that the nodes after it are not blamed."""


POISON = _Poison()


class _PoisonedError(Exception):
    """A subgraph has no outputs, as one of its nodes failed, which has been said."""


@dataclass(frozen=True)
class Interpreter:
    """One pass over a model.

    Attributes:
        opsets: version by domain.
        failed: called with each failing node; None: the first is raised.
    """

    opsets: Mapping[str, int]
    failed: Callable[[NodeError], None] | None = None

    def run(self, graph: Any, scope: Mapping[str, Value], nesting: int = 0) -> dict[str, Value]:
        """All values of a graph.

        Args:
            graph: a GraphProto.
            scope: values of its inputs, of the initializers that learn, and of the outer graphs.
            nesting: of the graph.

        Raises:
            NodeError: a node that cannot be converted, or whose inputs do not fit.
        """
        values: _Scope = dict(scope)
        for tensor in graph.initializer:
            if tensor.name not in values or nesting:
                values[tensor.name] = array_of(tensor)
        for index, node in enumerate(graph.node):
            label = node_label(node, index)
            try:
                results = self._call(node, label, values, nesting)
            except NodeError as error:
                if self.failed is None:
                    raise
                self.failed(error)
                results = (POISON,) * len(node.output)
            values.update((name, value) for name, value in zip(node.output, results, strict=False) if name)
        return values

    def _call(self, node: Any, label: str, values: _Scope, nesting: int) -> Sequence[Value]:
        domain = domain_of(node.domain)
        opset = self.opsets.get(domain, 1)
        why = lacks(domain, node.op_type, opset)
        if why:
            raise NodeError(label, why, unsupported=True)
        conversion = REGISTRY[domain, node.op_type]
        missing = [name for name in node.input if name and name not in values]
        if missing:
            raise NodeError(label, f"nothing makes its input {missing[0]!r}: export the model again", unsupported=False)
        inputs = [values[name] if name else None for name in node.input]
        if any(value is POISON for value in inputs):
            return (POISON,) * len(node.output)

        def run(graph: Any, given: Sequence[Value]) -> tuple[Value, ...]:
            if nesting >= MAX_NESTING:
                raise NodeError(label, f"graphs are nested more than {MAX_NESTING} deep", unsupported=True)
            names = [i.name for i in graph.input]
            inner = self.run(graph, {**values, **dict(zip(names, given, strict=True))}, nesting + 1)
            missing = [o.name for o in graph.output if o.name not in inner]
            if missing:
                raise NodeError(label, f"nothing in its graph makes {missing[0]!r}", unsupported=False)
            outputs = tuple(inner[o.name] for o in graph.output)
            if any(value is POISON for value in outputs):
                raise _PoisonedError
            return outputs

        try:
            static = not conversion.traced and _foldable(inputs)
            call = Call(node.op_type, opset, _attributes_of(node), tuple(node.output), np if static else jnp, run)
            if not static:
                inputs = [v if i in conversion.keep else lift(v) for i, v in enumerate(inputs)]
            with np.errstate(all="ignore"):
                results = conversion.function(call, *inputs)
        except NotConvertibleError as error:
            raise NodeError(label, str(error), unsupported=True) from None
        except _PoisonedError:
            return (POISON,) * len(node.output)
        except NodeError:
            raise
        except Exception as error:  # whatever numpy and JAX raise at shapes and types that do not fit
            shapes = ", ".join("absent" if v is None else f"{v.dtype}{list(v.shape)}" for v in inputs)
            raise NodeError(label, f"{_first_line(error)} (inputs: {shapes})", unsupported=False) from error
        return results if isinstance(results, tuple) else (results,)


def _foldable(inputs: Sequence[Value]) -> bool:
    """Whether numpy computes it while tracing: all known, and small enough for a shape, an index or a small mask."""
    return all(is_static(v) for v in inputs) and sum(np.size(v) for v in inputs if v is not None) <= MAX_FOLDED


def _attributes_of(node: Any) -> dict[str, Any]:
    found = {}
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            raise NotConvertibleError(f"its attribute {attribute.name!r} refers to a function's")
        tensor = attribute.type == AttributeProto.TENSOR
        found[attribute.name] = array_of(attribute.t) if tensor else helper.get_attribute_value(attribute)
    return found


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]


__all__ = [
    "MAX_NESTING",
    "POISON",
    "Interpreter",
    "NodeError",
    "NotConvertibleError",
    "dtype_of",
    "lacks",
    "lift",
]
