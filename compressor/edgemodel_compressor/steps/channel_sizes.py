"""Where numbers of channels go as numbers, for `channel_rules`.

Exported graphs compute shapes: Shape → Gather → Concat → Reshape. `Tracer.sizes` follow which of such small integer
tensors depend on numbers of channels, and `Tracer.entries` which entry counts which axis. A Reshape or Resize that reads
them gets its target written down anew or takes it as it comes; anywhere else (`spend`) they fix the channels that they
count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .graph import attribute, is_standard

if TYPE_CHECKING:
    from .channels import Axis, Labels, Tracer

#: These only hand numbers on.
_CARRIERS = frozenset(
    {"Shape", "Gather", "Slice", "Concat", "Unsqueeze", "Squeeze", "Cast", "Identity", "Reshape", "Expand", "Resize",
     "Add", "Sub", "Mul", "Div", "Floor", "Ceil"}
)  # fmt: skip


def spends(node: Any) -> bool:
    """Whether an operator uses integers for something that is not followed."""
    return not is_standard(node) or node.op_type not in _CARRIERS


def spend(tracer: Tracer, name: str) -> None:
    """Numbers that count channels are used: these channels stay."""
    for axis in tracer.sizes.get(name, ()):
        tracer.fix(axis)


def numbers(tracer: Tracer, node: Any) -> None:
    """Follow which outputs of a node depend on numbers of channels."""
    op = node.op_type
    if spends(node) or not node.output:
        return
    found: list[Labels] = []
    if op == "Shape":
        axes = tracer.of(node.input[0]) or []
        start, end = int(attribute(node, "start", 0)), attribute(node, "end", None)
        tracer.entries[node.output[0]] = axes[start : None if end is None else int(end)]
        found = [a for a in tracer.entries[node.output[0]] if a is not None]
    elif op == "Gather" and node.input[0] in tracer.entries:
        found = _picked(tracer, node)
    elif op == "Slice" and node.input[0] in tracer.entries:
        found = _cut(tracer, node)
    elif op in ("Cast", "Identity", "Unsqueeze", "Squeeze") and node.input[0] in tracer.entries:
        tracer.entries[node.output[0]] = tracer.entries[node.input[0]]
        found = tracer.sizes.get(node.input[0], [])
    elif op == "Concat":
        found = _joined(tracer, node)
    elif op not in ("Reshape", "Expand", "Resize"):
        found = [a for name in node.input for a in tracer.sizes.get(name, ())]
    elif tracer.sizes.get(node.input[0]):
        found = tracer.sizes[node.input[0]]
    if found:
        tracer.sizes[node.output[0]] = found


def _picked(tracer: Tracer, node: Any) -> list[Labels]:
    entries, which = tracer.entries[node.input[0]], tracer.integers(node.input[1])
    if which is None or not all(-len(entries) <= int(i) < len(entries) for i in which.reshape(-1)):
        return tracer.sizes.get(node.input[0], [])
    kept = [entries[int(i)] for i in which.reshape(-1)]
    tracer.entries[node.output[0]] = kept
    return [a for a in kept if a is not None]


def _cut(tracer: Tracer, node: Any) -> list[Labels]:
    entries, cuts = tracer.entries[node.input[0]], bounds(tracer, node)
    if cuts is None or len(cuts) != 1:
        return tracer.sizes.get(node.input[0], [])
    (_, start, end, step) = cuts[0]
    tracer.entries[node.output[0]] = entries[slice(start, end, step)]
    return [a for a in tracer.entries[node.output[0]] if a is not None]


def _joined(tracer: Tracer, node: Any) -> list[Labels]:
    entries: list[Axis] = []
    for name in node.input:
        dims = tracer.dims(name) or ()
        if name in tracer.entries:
            entries += tracer.entries[name]
        elif len(dims) == 1 and isinstance(dims[0], int) and not tracer.sizes.get(name):
            entries += [None] * dims[0]
        else:
            break
    else:
        tracer.entries[node.output[0]] = entries
    return [a for name in node.input for a in tracer.sizes.get(name, ())]


def bounds(tracer: Tracer, node: Any) -> list[tuple[int, int, int, int]] | None:
    """(axis, start, end, step) of a Slice, as given; None: not constant."""
    if len(node.input) == 1:
        starts, ends, axes = (attribute(node, n, None) for n in ("starts", "ends", "axes"))
        if starts is None or ends is None:
            return None
        steps = [1] * len(starts)
    else:
        given = [tracer.integers(n) if n else None for n in (*node.input[1:], *[""] * (5 - len(node.input)))]
        if given[0] is None or given[1] is None:
            return None
        if any(g is None and i < len(node.input) - 1 and node.input[i + 1] for i, g in enumerate(given)):
            return None
        starts, ends = given[0].tolist(), given[1].tolist()
        axes = None if given[2] is None else given[2].tolist()
        steps = [1] * len(starts) if given[3] is None else given[3].tolist()
    axes = list(range(len(starts))) if axes is None else axes
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        return None
    return [(int(a), int(s), int(e), int(t)) for a, s, e, t in zip(axes, starts, ends, steps, strict=True)]
