"""The structure of a model, judged without running anything: versions, names, order, nesting, operators.

`onnx.checker` judges again in the probe's child (it is native code, and these files may be attacks); what is checked
here gets a message that names the node, and bounds what every later walk over the model costs.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from onnx import defs

from edgemodel_api.complaints import nearest
from edgemodel_api.errors import InputError
from edgemodel_api.reasons import NOT_SUPPORTED

from .functions import FunctionKey, check_calls, domain_of, local_functions
from .tensors import node_label, subgraphs

#: What onnxruntime 1.32 loads; a unit test compares these with the one that is installed.
MIN_IR, MAX_IR = 3, 14
MIN_OPSET, MAX_OPSET = 7, 28
MAX_ML_OPSET = 6
#: Graphs within graphs: If in Loop in If …
MAX_NESTING = 16
ML_DOMAIN, CONTRIB_DOMAIN = "ai.onnx.ml", "com.microsoft"
_STANDARD = ("", ML_DOMAIN)
_INTERNAL = ("com.microsoft.nchwc", "com.ms.internal.nhwc", "com.microsoft.experimental")


@dataclass(frozen=True)
class _Domains:
    """What the nodes of one graph or function may use."""

    opsets: dict[str, int]
    functions: dict[FunctionKey, Any]


def check_structure(model: Any, *, what: str) -> None:
    """All checks.

    Args:
        model: a ModelProto.
        what: for messages.

    Raises:
        InputError: the first thing that is wrong.
    """
    if not model.HasField("graph") or not model.ir_version:
        raise InputError(
            f"{what}: no ONNX model: it has no {'IR version' if model.HasField('graph') else 'graph'}; give a file that"
            " an ONNX exporter wrote"
        )
    if not MIN_IR <= model.ir_version <= MAX_IR:
        raise InputError(
            f"{what}: IR version {model.ir_version}, but {MIN_IR} to {MAX_IR} are supported: export the model with"
            " another version of onnx (onnx.version_converter, or model.ir_version = 10)"
        )
    functions = local_functions(model)
    domains = _Domains(_opsets(model.opset_import, "the model"), functions)
    _check_default_opset(domains.opsets, what)
    if model.training_info:
        raise InputError(f"{what}: it carries training information, which no node needs: export it for inference")
    graph = model.graph
    for name, values in (("nodes", graph.node), ("inputs", graph.input), ("outputs", graph.output)):
        if not values:
            raise InputError(f"{what}: the model has no {name}: export the whole network")
    _check_graph(graph, [], domains, nesting=0, outermost=True)
    for function in functions.values():
        _check_function(function, domains)
    check_calls(model, functions)


def _opsets(imports: Iterable[Any], where: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in imports:
        domain = domain_of(one.domain)
        if domain in found:
            raise InputError(f"{where} imports the operators of {domain or 'ai.onnx'!r} twice: export it again")
        found[domain] = one.version
    return found


def _check_default_opset(opsets: dict[str, int], what: str) -> None:
    for domain, least, most in (("", MIN_OPSET, MAX_OPSET), (ML_DOMAIN, 1, MAX_ML_OPSET)):
        version = opsets.get(domain, least)
        if not least <= version <= most:
            raise InputError(
                f"{what}: opset {version} of {domain or 'ai.onnx'}, but {least} to {most} are supported: export with"
                f" another one (such as opset_version={min(most, 17)}), or convert with onnx.version_converter"
            )


def _check_graph(graph: Any, outer: list[set[str]], domains: _Domains, *, nesting: int, outermost: bool) -> None:
    if nesting > MAX_NESTING:
        raise InputError(
            f"subgraphs (If, Loop, Scan) are nested {nesting} deep or more, at most {MAX_NESTING} are possible: flatten"
            " the model's control flow"
        )
    known: set[str] = set()
    made: set[str] = set()
    for value in graph.input:
        if not value.name or value.name in made:
            raise InputError(_twice("input", value.name))
        made.add(value.name)
    for tensor in graph.initializer:
        # Up to IR version 3 every initializer is an input as well.
        if not tensor.name or tensor.name in known:
            raise InputError(_twice("initializer", tensor.name))
        known.add(tensor.name)
    known |= made
    _check_nodes(graph.node, known, outer, domains, nesting=nesting)
    outputs: set[str] = set()
    for value in graph.output:
        if value.name in outputs:
            raise InputError(_twice("output", value.name))
        outputs.add(value.name)
        if value.name not in known and (outermost or not any(value.name in scope for scope in outer)):
            raise InputError(f"output {value.name!r} is made by no node: export the model again")


def _twice(kind: str, name: str) -> str:
    if not name:
        return f"an {kind} has no name: export the model again"
    return f"there are two {kind}s named {name!r}: names must be unique, rename one and export again"


def _check_nodes(nodes: Any, known: set[str], outer: list[set[str]], domains: _Domains, *, nesting: int) -> None:
    """Names in topological order; adds to `known` what the nodes make."""
    for index, node in enumerate(nodes):
        _check_operator(node, index, domains)
        for name in node.input:
            if name and name not in known and not any(name in scope for scope in outer):
                raise InputError(_unknown_input(nodes, index, name))
        for attribute in node.attribute:
            if not attribute.name:
                raise InputError(f"{node_label(node, index)} has an attribute without a name: export the model again")
        for graph in subgraphs(node):
            _check_graph(graph, [*outer, known], domains, nesting=nesting + 1, outermost=False)
        for name in node.output:
            if name and name in known:
                raise InputError(
                    f"{node_label(node, index)} makes {name!r}, which is made already: names of values must be unique"
                    " (export the model again)"
                )
            if name:
                known.add(name)


def _unknown_input(nodes: Any, index: int, name: str) -> str:
    label = node_label(nodes[index], index)
    makers = {output: at for at, node in enumerate(nodes) for output in node.output}
    if name not in makers:
        # difflib is slow, and the file's names are as many and as long as its maker likes.
        meant = nearest(name, [k for k in makers if 0 < len(k) <= 40][-500:]) if len(name) <= 40 else None
        return f"{label} needs {name!r}, which nothing makes" + (
            f": did you mean {meant!r}?" if meant else ": add it to the inputs or initializers, or export again"
        )
    cycle = _cycle(nodes, makers, index)
    if cycle is not None:
        path = " → ".join(node_label(nodes[i], i) for i in [*cycle, cycle[0]][:8])
        return f"the nodes form a cycle: {path}: a model is computed in one direction; use Loop or Scan"
    return (
        f"{label} stands before {node_label(nodes[makers[name]], makers[name])}, whose {name!r} it needs: nodes must be"
        " sorted topologically (export the model again)"
    )


def _cycle(nodes: Any, makers: dict[str, int], start: int) -> list[int] | None:
    """Nodes of a cycle through `start`, or None. Without recursion: chains are as long as the model."""
    came: dict[int, int] = {start: start}
    pending = [start]
    while pending:
        at = pending.pop()
        for name in nodes[at].input:
            maker = makers.get(name) if name else None
            if maker == start:
                path = [at]
                while path[-1] != start:
                    path.append(came[path[-1]])
                return path
            if maker is not None and maker not in came:
                came[maker] = at
                pending.append(maker)
    return None


def _check_operator(node: Any, index: int, domains: _Domains) -> None:
    domain, label = domain_of(node.domain), node_label(node, index)
    if (domain, node.op_type, node.overload) in domains.functions:
        return
    if domain in _INTERNAL:
        raise InputError(
            f"{label} is of {domain!r}: the file was saved by onnxruntime optimized for one machine; give the model as"
            " it was exported (optimization level Basic at most)",
            reason=NOT_SUPPORTED,
        )
    if domain not in (*_STANDARD, CONTRIB_DOMAIN):
        raise InputError(
            f"{label} is of domain {domain!r}, whose operators no node has: use operators of ai.onnx, {ML_DOMAIN} or"
            f" {CONTRIB_DOMAIN}, or export it as a model-local function",
            reason=NOT_SUPPORTED,
        )
    version = domains.opsets.get(domain)
    if version is None:
        raise InputError(f"{label} is of domain {domain or 'ai.onnx'!r}, which the model does not import: add it to"
                         " opset_import")  # fmt: skip
    if domain in _STANDARD:
        _check_schema(node.op_type, domain, version, label)


def _check_schema(op: str, domain: str, version: int, label: str) -> None:
    first, deprecated = _schema(op, domain, version)
    if first is None:
        meant = nearest(op[:100], _operators(domain))
        since = next((s.since_version for s in _all_schemas() if s.name == op and s.domain == domain), None)
        hint = (
            f"it came with opset {since}: export with that or a later one"
            if since is not None
            else f"did you mean {meant}?"
            if meant
            else "replace it by operators of ONNX (onnx.ai/onnx/operators)"
        )
        raise InputError(f"{label}: {domain or 'ai.onnx'} has no operator {op!r} in opset {version}: {hint}")
    if deprecated:
        raise InputError(f"{label}: operator {op!r} is gone since opset {first}: export with opset {first - 1}, or a"
                         " newer exporter")  # fmt: skip


@functools.cache
def _schema(op: str, domain: str, version: int) -> tuple[int | None, bool]:
    try:
        schema = defs.get_schema(op, version, domain)
    except defs.SchemaError:
        return None, False
    return schema.since_version, schema.deprecated


@functools.cache
def _all_schemas() -> tuple[Any, ...]:
    return tuple(sorted(defs.get_all_schemas_with_history(), key=lambda s: int(s.since_version)))


@functools.cache
def _operators(domain: str) -> tuple[str, ...]:
    return tuple(sorted({s.name for s in _all_schemas() if s.domain == domain}))


def _check_function(function: Any, domains: _Domains) -> None:
    where = f"function {function.name!r}"
    opsets = _opsets(function.opset_import, where) or domains.opsets
    known = set(function.input)
    _check_nodes(function.node, known, [], _Domains(opsets, domains.functions), nesting=0)
    for name in function.output:
        if name not in known:
            raise InputError(f"{where} has the output {name!r}, which none of its nodes makes: export the model again")
