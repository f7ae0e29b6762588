"""Report, model and nodes → how it ended, and the numbers at the top of the page. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from edgemodel_api import reasons
from edgemodel_api.edgemodel import EdgeModel, Format
from edgemodel_api.edgemodel_status import VariantStatus
from edgemodel_api.edgenode import EdgeNode
from edgemodel_api.meta import get_condition
from edgemodel_api.quantities import counted, format_bytes, format_seconds
from edgemodel_api.report import Candidate, CompressionReport, Conversion, Measurement

from .numbers import interval, percent, quality, times

SOURCE = "source"


class Verdict(NamedTuple):
    """How it ended. `tone` is good, bad, or open."""

    tone: str
    word: str
    sentence: str


class Tile(NamedTuple):
    """One number that a reader looks for first."""

    label: str
    value: str
    detail: str


def chosen_names(report: CompressionReport, model: EdgeModel) -> frozenset[str]:
    """Candidates that trials chose for some kind of node; before there are trials, what the compressor chose."""
    tried = {v.name for v in chosen_variants(report, model) if v.accepted and v.name}
    known = {SOURCE, *(c.name for c in report.candidates), *(c.name for c in report.conversions)}
    return frozenset(tried & known) or frozenset(c.name for c in report.candidates if c.chosen)


def chosen_variants(report: CompressionReport, model: EdgeModel) -> tuple[VariantStatus, ...]:
    """What was chosen for each hardware class, if the model's status speaks of this revision."""
    return model.status.variants if model.status.revision == report.revision else ()


def verdict(report: CompressionReport, model: EdgeModel) -> Verdict:
    """From the model's status, or, where it was only compressed, from the candidates."""
    status = model.status
    ready = get_condition(status.conditions, reasons.READY)
    if ready is not None and status.revision == report.revision:
        rollout = status.rollout
        if rollout is not None and rollout.rolled_back:
            return Verdict("bad", "Rolled back", rollout.message or ready.message)
        if ready.status == "True":
            return Verdict("good", "Rolled out", ready.message)
        stalled = get_condition(status.conditions, reasons.STALLED)
        if stalled is not None and stalled.status == "True":
            word = "Refused" if stalled.reason == reasons.BUDGET_EXCEEDED else "Stalled"
            return Verdict("bad", word, stalled.message or ready.message)
        return Verdict("open", "In progress", ready.message)
    accepted = [c for c in _candidates(report) if c.accepted and c.name != SOURCE]
    files = [c for c in report.conversions if c.accepted and c.name != SOURCE]
    if files and not accepted:
        tried = sum(c.name != SOURCE for c in report.conversions)
        formats = " and ".join(dict.fromkeys(c.format for c in files))
        return Verdict(
            "good", "Compressed", f"{len(files)} of {counted(tried, 'file')} of {formats} within the budget."
        )
    if accepted:
        kept = sum(not c.refusals for c in accepted)
        if kept:
            said = f"{counted(kept, 'candidate')} of {len(report.candidates)} within the budget."
        else:
            said = (
                f"{counted(len(accepted), 'candidate')} of {len(report.candidates)} within the budget's quality and size,"
                " none within its latency, memory and slowdown on the machine that compressed: trials on nodes decide."
            )
        return Verdict("good" if kept else "open", "Compressed", said)
    if not report.candidates:
        return Verdict("open", "Measured", "Only the source was measured; there were no candidates.")
    return Verdict(
        "bad",
        "Refused",
        f"None of {counted(len(report.candidates), 'candidate')} is within the budget; the table says why.",
    )


def tiles(report: CompressionReport, model: EdgeModel, nodes: Sequence[EdgeNode]) -> tuple[Tile, ...]:
    """Size, quality, latency of what was chosen beside the source, and the nodes."""
    chosen = chosen_names(report, model)
    measured = [c.measurement for c in _candidates(report) if c.name in chosen and c.measurement is not None]
    # A file of another format speaks for the revision where it was chosen, or where there are no others.
    measured += [_of_file(c) for c in report.conversions if c.name in chosen and c.name != SOURCE]
    measured = measured or [_of_file(c) for c in report.conversions if c.digest is not None and c.name != SOURCE]
    source = report.source
    best = min(measured, key=lambda m: m.size_bytes, default=None)
    found = []
    if best is None:
        found.append(Tile("Source", format_bytes(source.size_bytes), "stored; nothing smaller was chosen"))
        if source.quality is not None:
            found.append(
                Tile("Quality of the source", quality(source.quality, report.quality), interval(source, report.quality))
            )
    else:
        found.append(
            Tile(
                "Stored size",
                f"{times(source.size_bytes, best.size_bytes)} smaller"
                if best.size_bytes < source.size_bytes
                else format_bytes(best.size_bytes),
                f"{format_bytes(source.size_bytes)} → {format_bytes(best.size_bytes)}",
            )
        )
        if best.quality is not None:
            detail = f"source {quality(source.quality, report.quality)}"
            if best.quality_drop is not None:
                detail += f"; drop {percent(best.quality_drop)}, budget {report.budget.max_quality_drop}"
            found.append(Tile(report.quality.metric or "Quality", quality(best.quality, report.quality), detail))
        if best.latency_median_seconds is not None:
            detail = "median on the compressing machine"
            if source.latency_median_seconds is not None:
                detail = f"median; source {format_seconds(source.latency_median_seconds)}"
            if best.slowdown is not None:
                # Of paired runs: on a busy machine the two medians alone say something else.
                detail += f"; {percent(best.slowdown, signed=True, digits=1)} in turns with it"
            found.append(Tile("Latency", format_seconds(best.latency_median_seconds), detail))
    if nodes:
        serving = sum(serves(node, model, report.revision) for node in nodes)
        found.append(Tile("Nodes", f"{serving} of {len(nodes)}", "serve this revision"))
    return tuple(found)


def _candidates(report: CompressionReport) -> tuple[Candidate, ...]:
    """Those that the artifact could hold."""
    return report.candidates if Format.ONNX in report.formats else ()


def _of_file(c: Conversion) -> Measurement:
    return Measurement(size_bytes=c.size_bytes, file_bytes=c.file_bytes, quality=c.quality, quality_drop=c.quality_drop)


def budget(report: CompressionReport) -> str:
    """The limits, as the manifest names them."""
    b = report.budget
    limits = {
        "maxQualityDrop": b.max_quality_drop, "maxSize": b.max_size, "maxLatency": b.max_latency,
        "maxMemory": b.max_memory, "maxSlowdown": b.max_slowdown,
    }  # fmt: skip
    return ", ".join(f"{name} {value}" for name, value in limits.items() if value is not None)


def serves(node: EdgeNode, model: EdgeModel, revision: str) -> bool:
    """Whether this revision answers on the node."""
    found = next((m for m in node.status.models if m.key == model.key), None)
    return found is not None and found.running is not None and found.running.revision == revision
