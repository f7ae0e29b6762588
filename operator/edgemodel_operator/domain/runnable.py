"""Which formats the nodes of a hardware class can run, and the words for those that have no runtime for what there is.

A class gets one variant, so where its nodes have different runtimes, what the most of them load decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from edgemodel_api import reasons
from edgemodel_api.edgemodel_status import CandidateStatus, VariantStatus
from edgemodel_api.formats import RUNTIMES_OF, Format
from edgemodel_api.hardware import HardwareClass
from edgemodel_api.quantities import counted

from .assign import Goal
from .pool import Member, Pool
from .text import listed, shortened


def formats_on(candidates: Iterable[CandidateStatus], platform: str) -> frozenset[Format]:
    """What the artifact has for a platform."""
    return frozenset(c.format or Format.ONNX for c in candidates if c.platform == platform)


def loads(m: Member, variant: VariantStatus | None) -> bool:
    """Whether a node loads what was chosen for its class; true as well where nothing was."""
    return variant is None or not variant.accepted or (variant.format or Format.ONNX) in m.formats


def formats_for(there: frozenset[Format], nodes: Iterable[Member]) -> frozenset[Format]:
    """Of the formats that are `there`, those that are tried on these nodes of one class; empty: no node loads any.

    What the most of the nodes load, so that a variant that is chosen among them can run on all of these. At least one
    node loads all of what is returned.

    >>> formats_for(frozenset({Format.ONNX, Format.TFLITE}), ())
    frozenset()
    """
    able = [m.formats & there for m in nodes]
    count = Counter(f for formats in able for f in formats)
    most = max(count.values(), default=0)
    best = frozenset(f for f in count if count[f] == most)
    if best and not any(best <= formats for formats in able):
        return frozenset({next(f for f in Format if f in best)})
    return best


def no_runtime(
    hardware_class: HardwareClass, platform: str, there: frozenset[Format], nodes: Sequence[Member]
) -> VariantStatus:
    """What a class gets of which no node loads any variant: nothing, and the reason. It is tried as soon as one does."""
    formats = [f for f in Format if f in there]
    says = listed([f"{m.name} has {_runtimes(m)}" for m in nodes], 3)
    return VariantStatus(
        hardware_class=hardware_class,
        platform=platform,
        name="",
        digest="",
        size_bytes=0,
        accepted=False,
        reason=reasons.NO_RUNTIME,
        message=shortened(
            f"no node of {hardware_class} has a runtime for the artifact's variants for {platform}:"
            f" {'; '.join(_needs(f) for f in formats)}; {says}: {_remedy(formats)}"
        ),
    )


def unable(pool: Pool, goal: Goal) -> str:
    """Which nodes can be reached and have no runtime for their class's variant, for a message; empty: none."""
    meant = {m.name: goal.meant_for(m) for m in pool if m.online}
    found = [m for m in pool if (c := meant.get(m.name)) is not None and c.format not in m.formats]
    if not found:
        return ""
    formats = {c.format for m in found if (c := meant[m.name]) is not None}
    needs = "; ".join(_needs(f) for f in Format if f in formats)
    names = listed([f"{m.name} has {_runtimes(m)}" for m in found], 3)
    return f"{counted(len(found), 'node')} without a runtime for it ({needs}; {names})"


def _needs(one: Format) -> str:
    names = RUNTIMES_OF[one]
    return f"{one} needs {' or '.join(names)}" if names else f"{one} runs on no node"


def _runtimes(m: Member) -> str:
    """Reports are hostile: bounded."""
    found = sorted(m.node.status.runtimes.items())
    return listed([f"{name[:40]} {version[:20]}" for name, version in found], 4) if found else "none"


def _remedy(formats: Sequence[Format]) -> str:
    if not any(RUNTIMES_OF[f] for f in formats):
        return "add ONNX or TFLite to spec.formats"
    missing = [f for f in (Format.ONNX, Format.TFLITE) if f not in formats]
    return "install one of them" + (f", or add {' or '.join(missing)} to spec.formats" if missing else "")
