"""Which platforms the pool needs, and thereby which revision is wanted."""

from __future__ import annotations

from collections.abc import Iterable

from edgemodel_api.edgemodel import EdgeModel, Format
from edgemodel_api.edgenode import EdgeNode
from edgemodel_api.hardware import Platform
from edgemodel_api.revision import revision_of

#: Where a runtime for the format exists (onnxruntime has no arm/v7 wheel, and Core ML runs on Apple's systems only).
PLATFORMS_OF: dict[Format, frozenset[str]] = {
    Format.ONNX: frozenset({Platform.LINUX_AMD64, Platform.LINUX_ARM64}),
    Format.TFLITE: frozenset(Platform),
    Format.COREML: frozenset(),
}


def usable_platforms(model: EdgeModel) -> frozenset[str]:
    """Platforms that can be built for, by the formats of the spec."""
    return frozenset(str(p) for f in model.spec.formats for p in PLATFORMS_OF[f])


def would_help(model: EdgeModel, platforms: Iterable[str]) -> str:
    """What to add to the spec's formats for the platforms that these are not built for, for a message; empty: nothing helps.

    Of arm/v7 nodes that is TFLite.
    """
    usable, found = usable_platforms(model), sorted({p for p in platforms if p})
    for other in (f for f in PLATFORMS_OF if f not in model.spec.formats):
        if helped := [p for p in found if p not in usable and p in PLATFORMS_OF[other]]:
            return f"{' and '.join(model.spec.formats)} cannot run on {', '.join(helped)}: add {other} to spec.formats"
    return ""


def pool_platforms(model: EdgeModel, nodes: Iterable[EdgeNode]) -> tuple[str, ...]:
    """Usable platforms of the pool's nodes, sorted; nodes that never reported have none."""
    usable = usable_platforms(model)
    selector = model.spec.node_pool.selector
    found = {
        n.status.hardware.platform
        for n in nodes
        if n.status.hardware is not None
        and n.metadata.deletion_timestamp is None
        and selector.matches(n.metadata.labels)
    }
    return tuple(sorted(found & usable))


def wanted_revision(model: EdgeModel, nodes: Iterable[EdgeNode]) -> tuple[str, tuple[str, ...]]:
    """(revision, platforms) that spec and pool ask for; ("", ()) while no platform is known.

    Platforms are sticky while the spec asks for the same bytes: a node that leaves takes none with it, so the revision
    does not change; a node with another platform adds one, and a new revision is built. Other bytes are built for what
    is there now.
    """
    now = pool_platforms(model, nodes)
    before = model.status.platforms
    if before and revision_of(model.spec, before) == model.status.revision:
        platforms = tuple(sorted({*before, *now}))
    else:
        platforms = now or tuple(sorted(before))
    return (revision_of(model.spec, platforms), platforms) if platforms else ("", ())
