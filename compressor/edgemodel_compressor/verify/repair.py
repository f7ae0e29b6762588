"""What to change in an encoding that does not hold on a kind of CPU, the least costly change first.

Known is one cause: sums of two products that saturate in 16 bits on x86 without VNNI (`saturation`). Only layers that
were seen to saturate are changed, so that all others keep their exactness and the file can be one for every CPU:

1. 7-bit weights there (2·255·64 = 32640 fits): the same kernels, half a bit less exact.
2. U8 weights there, where activations are u8: kernels that widen first; one scale per tensor.
3. The layer in float.

Each is a new candidate: built, measured and verified again by the caller, who takes the first that holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgemodel_api.hardware import HardwareClass
from edgemodel_api.report import Verification
from edgemodel_compressor.evaluate.runner import Arrays
from edgemodel_compressor.steps.encodings import Encoding, Number, Repair

from .saturation import SATURATING, Saturation, find_saturation

_SUFFIX = {Repair.REDUCE_RANGE: "s7", Repair.UINT8: "u8", Repair.FLOAT: "float"}


def repairs_for(
    encoding: Encoding, model_path: Path, *, feeds: Sequence[Arrays], broken: Sequence[Verification]
) -> tuple[Encoding, ...]:
    """Encodings to try instead, in order.

    Args:
        encoding: what the file was made in; one that was repaired already keeps its repairs.
        model_path: the file.
        feeds: requests, as `samples` gives them.
        broken: verifications that did not hold.

    Returns:
        None where nothing is known to help: the file crashed, or lost its quality for another reason.

    Raises:
        InputError: the model fails on the feeds.
    """
    classes = [v.hardware_class for v in broken if v.hardware_class in SATURATING]
    if encoding.weights_only or not classes:
        return ()
    found = [s for s in find_saturation(model_path, feeds) if s.saturates]
    # Where no layer has weights of its own, all ways come to the same.
    tried = {
        e.repairs: e for e in (repaired(encoding, found, way, classes) for way in reversed(_ways(encoding, found)))
    }
    return tuple(reversed(tried.values()))


def _ways(encoding: Encoding, found: Sequence[Saturation]) -> tuple[Repair, ...]:
    if not found:
        return ()
    ways = [Repair.FLOAT]
    if encoding.activation is Number.UINT8:
        ways.insert(0, Repair.UINT8)
    if not encoding.reduce_range:
        ways.insert(0, Repair.REDUCE_RANGE)
    tried = {r for n, r in encoding.repairs if n in {s.node for s in found}}
    # What saturates in spite of a repair needs the next one.
    return tuple(w for w in ways if w not in tried)


def repaired(encoding: Encoding, found: Sequence[Saturation], repair: Repair, classes: Sequence[str]) -> Encoding:
    """The encoding with one repair for all these layers; products of two activations have no weights: they become float."""
    changed = {s.node: repair if s.weights else Repair.FLOAT for s in found}
    repairs = {**dict(encoding.repairs), **changed}
    wider = dict.fromkeys((*encoding.hardware_classes, *(HardwareClass(c) for c in classes)))
    return replace(
        encoding,
        name=f"{encoding.family}-{_SUFFIX[repair]}",
        of=encoding.family,
        repairs=tuple(sorted(repairs.items())),
        hardware_classes=tuple(wider),
    )


def repair_words(encoding: Encoding) -> tuple[str, ...]:
    """For a report: which layers were changed, how, and why."""
    by_repair: dict[Repair, list[str]] = {}
    for node, repair in encoding.repairs:
        by_repair.setdefault(repair, []).append(node)
    found = []
    for repair, nodes in sorted(by_repair.items()):
        what = "left in float" if repair is Repair.FLOAT else f"with {repair}"
        layers, their = ("layers", "their") if len(nodes) > 1 else ("layer", "its")
        names = ", ".join(nodes[:5]) + (" …" if len(nodes) > 5 else "")
        where = ", ".join(sorted(SATURATING))
        found.append(f"{len(nodes)} {layers} {what}, as {their} sums saturate in 16 bits on {where}: {names}")
    return tuple(found)
