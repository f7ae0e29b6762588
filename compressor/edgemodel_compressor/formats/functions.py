"""Model-local functions: which there are, and what calling them comes to."""

from __future__ import annotations

from typing import Any

from edgemodel_api.errors import InputError

from .tensors import subgraphs

#: Functions within functions.
MAX_DEPTH = 16
#: Nodes after all calls are written out.
MAX_CALLED_NODES = 1_000_000

#: Domain, name, overload.
FunctionKey = tuple[str, str, str]


def domain_of(name: str) -> str:
    """The empty name and `ai.onnx` are the same domain."""
    return "" if name == "ai.onnx" else name


def local_functions(model: Any) -> dict[FunctionKey, Any]:
    """By domain, name and overload.

    Raises:
        InputError: one is defined twice.
    """
    found: dict[FunctionKey, Any] = {}
    for function in model.functions:
        key = (domain_of(function.domain), function.name, function.overload)
        if key in found:
            raise InputError(f"function {function.name!r} is defined twice: export the model again")
        found[key] = function
    return found


def check_calls(model: Any, functions: dict[FunctionKey, Any]) -> None:
    """No recursion, and no functions that call functions that call … until the memory is full.

    Raises:
        InputError: names the functions, or the number of nodes.
    """
    sizes: dict[FunctionKey, int] = {}

    def size(key: FunctionKey, path: tuple[FunctionKey, ...]) -> int:
        if key in path:
            names = " → ".join(repr(k[1]) for k in (*path[path.index(key) :], key))
            raise InputError(f"functions call themselves ({names}), which ONNX does not allow: use Loop")
        if len(path) > MAX_DEPTH:
            raise InputError(f"functions call functions more than {MAX_DEPTH} deep: inline them (onnx.inliner)")
        if key not in sizes:
            sizes[key] = count(functions[key].node, (*path, key))
        return sizes[key]

    def count(nodes: Any, path: tuple[FunctionKey, ...]) -> int:
        total = 0
        for node in nodes:
            key = (domain_of(node.domain), node.op_type, node.overload)
            total += size(key, path) if key in functions else 1
            total += sum(count(g.node, path) for g in subgraphs(node))
            if total > MAX_CALLED_NODES:
                raise InputError(
                    f"the functions come to more than {MAX_CALLED_NODES} nodes once they are called: export a smaller model"
                )
        return total

    # Functions first: one that nothing calls may recurse as well.
    for key in functions:
        size(key, ())
    count(model.graph.node, ())
