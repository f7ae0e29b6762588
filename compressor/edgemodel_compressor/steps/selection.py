"""Which nodes a step works on: include and exclude, by operator and by name. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from edgemodel_api.edgemodel import Exclude, PruneStep, QuantizeStep, Scope, Step
from edgemodel_api.errors import InputError

from .graph import graphs
from .weights import Use, Weight


def allowed(use: Use, step: PruneStep | QuantizeStep, nodes: frozenset[str] | None = None) -> bool:
    """Whether a step may touch a node.

    Args:
        use: name and operator.
        step: with `exclude`, and `include` where it is Local.
        nodes: names that the caller (a search by sensitivity) narrows it down to.
    """
    if use.op in step.exclude.ops or use.node in step.exclude.nodes:
        return False
    if nodes is not None and use.node not in nodes:
        return False
    if isinstance(step, PruneStep) or step.scope is Scope.GLOBAL:
        return True
    include = step.include
    return not (include.ops or include.nodes) or use.op in include.ops or use.node in include.nodes


def weight_allowed(weight: Weight, step: PruneStep | QuantizeStep, nodes: frozenset[str] | None = None) -> bool:
    """A shared weight: no reader may be excluded, at least one must be allowed."""
    if any(u.op in step.exclude.ops or u.node in step.exclude.nodes for u in weight.uses):
        return False
    return any(allowed(u, step, nodes) for u in weight.uses)


def check_names(steps: Iterable[Step], *models: Any) -> None:
    """Before any step: names that none of the models has are typing errors.

    Args:
        steps: as declared.
        models: the source, and the prepared one: reports show its names, and it names the source's unnamed nodes.

    Raises:
        InputError: `include` or `exclude` names a node or operator that the model does not have.
    """
    problems: list[str] = []
    for index, step in enumerate(steps):
        for kind, action in (("prune", step.prune), ("quantize", step.quantize)):
            if action is not None:
                where = f"compression.steps[{index}].{kind}."
                problems += [where + text for text in _unknown(models, action)]
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise InputError(f"{'; '.join(problems[:3])}{more}: correct the manifest")


def unknown_excludes(model: Any, exclude: Exclude) -> tuple[str, ...]:
    """Sentences for a report: what `exclude` names and this model (any more) lacks."""
    return tuple(_missing((model,), "exclude", exclude.ops, exclude.nodes))


def _unknown(models: Sequence[Any], step: PruneStep | QuantizeStep) -> list[str]:
    found = _missing(models, "exclude", step.exclude.ops, step.exclude.nodes)
    if isinstance(step, QuantizeStep):
        found += _missing(models, "include", step.include.ops, step.include.nodes)
    return found


def _missing(models: Sequence[Any], field: str, ops: tuple[str, ...], nodes: tuple[str, ...]) -> list[str]:
    if not ops and not nodes:
        return []
    all_nodes = [n for model in models for g in graphs(model.graph) for n in g.node]
    found = []
    for kind, wanted, there in (
        ("ops", ops, {n.op_type for n in all_nodes}),
        ("nodes", nodes, {n.name for n in all_nodes if n.name}),
    ):
        for name in wanted:
            if name not in there:
                near = difflib.get_close_matches(name, sorted(there), n=1, cutoff=0.5)
                hint = f" (the nearest is {near[0]!r})" if near else ""
                found.append(f"{field}.{kind} names {name!r}, which the model does not have{hint}")
    return found
