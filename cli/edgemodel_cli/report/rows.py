"""Candidates, nodes, layers → the rows of the page's tables. Pure; the template only arranges them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from edgemodel_api.edgemodel import EdgeModel
from edgemodel_api.edgemodel_status import VariantStatus
from edgemodel_api.edgenode import EdgeNode, ModelStatus, TargetState
from edgemodel_api.quantities import counted, format_bytes, format_seconds
from edgemodel_api.report import Candidate, CompressionReport, Conversion, Layer, Measurement, Verification
from edgemodel_cli.results import AS_GIVEN, original_name, original_text
from edgemodel_cli.timeline import OFFLINE, NodeChange

from .numbers import NOTHING, interval, percent, quality, times
from .view import SOURCE


class Cell(NamedTuple):
    """What is read, what it is sorted by (nothing: the text), and a second line."""

    text: str
    key: str | float | None = None
    detail: str = ""


class CandidateRow(NamedTuple):
    """One candidate, and the sentences below it."""

    name: str
    recipe: str
    verdict: str
    cells: tuple[Cell, ...]
    messages: tuple[str, ...]


class NodeRow(NamedTuple):
    """One node."""

    name: str
    state: str
    tone: str
    cells: tuple[Cell, ...]
    message: str


class VerifiedRow(NamedTuple):
    """One candidate on one kind of CPU."""

    name: str
    verdict: str
    tone: str
    cells: tuple[Cell, ...]


class ConversionRow(NamedTuple):
    """One file of a format besides ONNX, and the sentences below it."""

    name: str
    verdict: str
    cells: tuple[Cell, ...]
    messages: tuple[str, ...]


class Group(NamedTuple):
    """Nodes that are alike."""

    state: str
    tone: str
    runs: str
    hardware: str
    nodes: int


class LayerRow(NamedTuple):
    """One layer. `share`: of the largest layer's bytes, in percent; `left`: what compression left of that."""

    name: str
    node: str
    cells: tuple[Cell, ...]
    share: float
    left: float


CANDIDATE_COLUMNS = (
    "Stored size",
    "File",
    "Quality",
    "Drop",
    "Latency",
    "vs source",
    "Memory",
    "Zeros",
    "Meant for",
)
NODE_COLUMNS = ("Wave", "Runs", "Hardware", "Latency here", "Golden error", "Fetched", "Restarts")
LAYER_COLUMNS = (
    "Operator",
    "Shape",
    "Source",
    "Stored",
    "Smaller",
    "Zeros",
    "Encoding",
    "Sensitivity",
    "Drop",
    "Time",
    "Time then",
)
VERIFIED_COLUMNS = (
    "Hardware class",
    "Run",
    "CPU",
    "Samples",
    "Quality there",
    "Drop there",
    "Distance",
    "What was found",
)
CONVERSION_COLUMNS = (
    "Format",
    "Encoding",
    "Made of",
    "Stored size",
    "File",
    "Quality",
    "Drop",
    "Distance",
    "Same answer",
    "Cases",
    "Run with",
)
VARIANT_COLUMNS = ("Hardware class", "Variant", "Stored size", "Quality", "Latency there", "Measured on", "Why")


def candidate_rows(report: CompressionReport, chosen: frozenset[str]) -> tuple[CandidateRow, ...]:
    """The source first, then what was chosen, accepted, refused, each by size."""
    listed = next((c for c in report.candidates if c.name == SOURCE), Candidate(name=SOURCE, accepted=True))
    rest = [c for c in report.candidates if c.name != SOURCE]
    rest.sort(key=lambda c: (c.name not in chosen, not c.accepted, _size(c), c.name))
    source, *others = (_candidate(report, c, chosen) for c in (listed.replace(measurement=report.source), *rest))
    return (source, *_original(report), *others)


def _original(report: CompressionReport) -> tuple[CandidateRow, ...]:
    """The user's file, where the source was read from one that is no ONNX file."""
    given = report.original
    if given is None:
        return ()
    numbers = [
        Cell(format_bytes(given.size_bytes), given.size_bytes, times(report.source.size_bytes, given.size_bytes))
        if given.size_bytes
        else Cell(NOTHING),
        Cell(format_bytes(given.file_bytes) if given.file_bytes else NOTHING, given.file_bytes or None),
    ]
    empty = (Cell(NOTHING),) * (len(CANDIDATE_COLUMNS) - len(numbers))
    return (
        CandidateRow(
            name=original_name(given),
            recipe=AS_GIVEN,
            verdict=SOURCE,
            cells=(*numbers, *empty),
            messages=(original_text(given), *given.notes),
        ),
    )


def _size(candidate: Candidate) -> float:
    return float("inf") if candidate.measurement is None else candidate.measurement.size_bytes


def _candidate(report: CompressionReport, candidate: Candidate, chosen: frozenset[str]) -> CandidateRow:
    source = candidate.name == SOURCE
    if candidate.name in chosen:
        verdict = "chosen"
    else:
        verdict = "source" if source else "accepted" if candidate.accepted else "refused"
    messages = [r.message for r in candidate.refusals]
    m = candidate.measurement
    numbers = (Cell(NOTHING),) * (len(CANDIDATE_COLUMNS) - 1) if m is None else _measured(m, report, source=source)
    places = ", ".join(candidate.hardware_classes or candidate.platforms) or "any"
    return CandidateRow(
        name=candidate.name,
        recipe=_as_read(report) if source else _recipe(candidate),
        verdict=verdict,
        cells=(*numbers, Cell(places)),
        messages=(*messages, *(f"Repaired: {r}" for r in candidate.repairs), *candidate.notes),
    )


def _as_read(report: CompressionReport) -> str:
    return AS_GIVEN if report.original is None else f"as read from {report.original.format.value}"


def _recipe(candidate: Candidate) -> str:
    recipe = ", then ".join(candidate.recipe) or candidate.encoding
    return f"{recipe} ({counted(candidate.quantized_nodes, 'node')})" if candidate.quantized_nodes else recipe


def _measured(m: Measurement, report: CompressionReport, *, source: bool) -> tuple[Cell, ...]:
    smaller = "" if source else times(report.source.size_bytes, m.size_bytes)
    p99 = "" if m.latency_p99_seconds is None else f"p99 {format_seconds(m.latency_p99_seconds)}"
    return (
        Cell(format_bytes(m.size_bytes), m.size_bytes, smaller),
        # What is loaded is another number than what is fetched, where zeros were coded away.
        Cell(format_bytes(m.file_bytes) if m.file_bytes else NOTHING, m.file_bytes or None),
        Cell(quality(m.quality, report.quality), m.quality, interval(m, report.quality)),
        Cell(NOTHING if source else percent(m.quality_drop), m.quality_drop),
        Cell(_seconds(m.latency_median_seconds), m.latency_median_seconds, p99),
        Cell(NOTHING if source else percent(m.slowdown, signed=True, digits=1), m.slowdown),
        Cell(NOTHING if m.peak_memory_bytes is None else format_bytes(m.peak_memory_bytes), m.peak_memory_bytes),
        Cell(percent(m.sparsity, digits=1), m.sparsity),
    )


def _seconds(seconds: float | None) -> str:
    return NOTHING if seconds is None else format_seconds(seconds)


def variant_rows(report: CompressionReport, variants: Sequence[VariantStatus]) -> tuple[tuple[Cell, ...], ...]:
    """What was chosen for each hardware class, and why."""
    return tuple(
        (
            Cell(v.hardware_class),
            Cell(v.name if v.accepted and v.name else "none fits"),
            Cell(format_bytes(v.size_bytes) if v.size_bytes else NOTHING, v.size_bytes),
            Cell(quality(_number(v.quality), report.quality), _number(v.quality)),
            Cell(_seconds(_number(v.latency_median_seconds)), _number(v.latency_median_seconds)),
            Cell(v.measured_on or "not measured there"),
            Cell(v.message or v.reason),
        )
        for v in variants
    )


def _number(text: str | None) -> float | None:
    """A decimal string; None where it is none. Nodes may write anything."""
    try:
        value = float(text) if text is not None else None
    except ValueError:
        return None
    return value if value is not None and abs(value) < float("inf") else None


def node_rows(
    model: EdgeModel, revision: str, nodes: Sequence[EdgeNode], timeline: Sequence[NodeChange]
) -> tuple[NodeRow, ...]:
    """Nodes in trouble first, then by wave and name."""
    # Once sent back, a node has no wave any more: the one it was let in with is what tells.
    waves: dict[str, int] = {}
    for c in timeline:
        if c.revision == revision and c.wave >= 0:
            waves[c.node] = max(c.wave, waves.get(c.node, 0))
    last = {c.node: c.state for c in timeline}
    rows = [_node(model, node, waves.get(node.metadata.name), last.get(node.metadata.name, "")) for node in nodes]
    order = ("bad", "open", "good")
    return tuple(sorted(rows, key=lambda r: (order.index(r.tone), r.cells[0].key, r.name)))


def _node(model: EdgeModel, node: EdgeNode, wave: int | None, last: str) -> NodeRow:
    m = next((m for m in node.status.models if m.key == model.key), None)
    offline = last == OFFLINE
    hardware = node.status.hardware
    state = "Offline" if offline else m.state if m is not None else "Not assigned"
    good, bad = m is not None and m.state is TargetState.SERVING, m is not None and m.state is TargetState.FAILED
    return NodeRow(
        name=node.metadata.name,
        state=state,
        tone="open" if offline else "bad" if bad else "good" if good else "open",
        cells=(
            Cell(NOTHING if wave is None else str(wave + 1), 1e9 if wave is None else wave),
            _runs(m),
            Cell(hardware.hardware_class if hardware else NOTHING, None, hardware.cpu_model if hardware else ""),
            *_of_node(m),
        ),
        message=" ".join(filter(None, (m.reason + ":" if m.reason and m.message else m.reason, m.message)))
        if m is not None and not good
        else "",
    )


def _runs(m: ModelStatus | None) -> Cell:
    if m is None or m.running is None:
        return Cell("nothing")
    return Cell(m.running.variant or m.running.digest[:19], None, f"{m.running.revision} {m.running.endpoint}".strip())


def _of_node(m: ModelStatus | None) -> tuple[Cell, ...]:
    if m is None:
        return (Cell(NOTHING),) * 4
    measured = m.measured
    median = _number(measured.latency_median_seconds) if measured else None
    p99 = _number(measured.latency_p99_seconds) if measured else None
    error = _number(measured.golden_error) if measured else None
    took = _number(m.download_seconds)
    return (
        Cell(_seconds(median), median, "" if p99 is None else f"p99 {format_seconds(p99)}"),
        Cell(NOTHING if error is None else f"{error:.2g}", error),
        Cell(
            format_bytes(m.downloaded_bytes), m.downloaded_bytes, "" if took is None else f"in {format_seconds(took)}"
        ),
        Cell(str(m.restarts), m.restarts),
    )


def groups(rows: Sequence[NodeRow]) -> tuple[Group, ...]:
    """Many nodes as few lines: how many are alike."""
    found = Counter((r.state, r.tone, _what(r), r.cells[2].text) for r in rows)
    ordered = sorted(found.items(), key=lambda item: (item[0][1] != "bad", -item[1], item[0]))
    return tuple(Group(*key, count) for key, count in ordered)


def _what(row: NodeRow) -> str:
    runs = row.cells[1]
    return f"{runs.text} ({runs.detail.split(' ')[0]})" if runs.detail else runs.text


def verified_rows(report: CompressionReport, chosen: frozenset[str]) -> tuple[VerifiedRow, ...]:
    """Each candidate on each kind of CPU that it was run on, or was to be; the chosen ones first."""
    ordered = sorted(report.candidates, key=lambda c: (c.name not in chosen, not c.accepted, _size(c), c.name))
    return tuple(_verified(report, c, v) for c in ordered for v in c.verified)


def _verified(report: CompressionReport, candidate: Candidate, v: Verification) -> VerifiedRow:
    verdict, tone = {True: ("holds", "good"), False: ("does not hold", "bad"), None: ("not run", "open")}[v.holds]
    return VerifiedRow(
        name=candidate.name,
        verdict=verdict,
        tone=tone,
        cells=(
            Cell(v.hardware_class),
            Cell({"Native": "natively", "Emulated": "emulated", "No": "no"}[v.how]),
            Cell(v.cpu or NOTHING),
            Cell(str(v.samples) if v.samples else NOTHING, v.samples or None),
            Cell(quality(v.quality, report.quality), v.quality),
            Cell(percent(v.quality_drop), v.quality_drop),
            Cell(NOTHING if v.max_error is None else f"{v.max_error:.2g}", v.max_error),
            Cell(v.message),
        ),
    )


def conversion_rows(report: CompressionReport, chosen: frozenset[str]) -> tuple[ConversionRow, ...]:
    """Format by format: what was chosen, what is in the artifact, accepted, refused, each by size."""
    rank = {c.format: n for n, c in reversed(list(enumerate(report.conversions)))}
    ordered = sorted(
        report.conversions,
        key=lambda c: (
            rank[c.format],
            c.name not in chosen,
            c.digest is None,
            not c.accepted,
            not c.size_bytes,
            c.size_bytes,
            c.name,
        ),
    )
    return tuple(_conversion(report, c, chosen) for c in ordered)


def _conversion(report: CompressionReport, c: Conversion, chosen: frozenset[str]) -> ConversionRow:
    verdict = "source" if c.name == SOURCE else "accepted" if c.accepted else "refused"
    stored = Cell(NOTHING)
    if c.size_bytes:
        stored = Cell(format_bytes(c.size_bytes), c.size_bytes, times(report.source.size_bytes, c.size_bytes))
    return ConversionRow(
        name=c.name,
        verdict="chosen" if c.name in chosen and c.name != SOURCE else verdict,
        cells=(
            Cell(c.format),
            Cell(c.encoding),
            Cell(c.candidate),
            stored,
            Cell(format_bytes(c.file_bytes) if c.file_bytes else NOTHING, c.file_bytes or None),
            Cell(quality(c.quality, report.quality), c.quality),
            Cell(percent(c.quality_drop), c.quality_drop),
            Cell(NOTHING if c.max_error is None else f"{c.max_error:.2g}", c.max_error),
            Cell(percent(c.agreement, digits=1), c.agreement),
            Cell(str(c.cases) if c.cases else NOTHING, c.cases or None),
            Cell(c.ran_with),
        ),
        messages=(*((c.message,) if c.message else ()), *c.notes),
    )


def layer_rows(layers: Sequence[Layer]) -> tuple[LayerRow, ...]:
    """In the order of the model. A bar shows a layer's bytes beside the largest one's, and what is left of them."""
    largest = max((layer.source_bytes for layer in layers), default=0) or 1
    return tuple(_layer(layer, largest) for layer in layers)


def _layer(layer: Layer, largest: int) -> LayerRow:
    return LayerRow(
        name=layer.name,
        node=layer.node,
        cells=(
            Cell(layer.op),
            Cell(" × ".join(map(str, layer.shape)) or "scalar", float(_elements(layer.shape))),
            Cell(format_bytes(layer.source_bytes), layer.source_bytes),
            Cell(format_bytes(layer.bytes), layer.bytes),
            Cell(times(layer.source_bytes, layer.bytes), layer.source_bytes / layer.bytes if layer.bytes > 0 else 0.0),
            Cell(percent(layer.sparsity, digits=1), layer.sparsity),
            Cell(layer.encoding),
            Cell(NOTHING if layer.sensitivity is None else f"{layer.sensitivity:.2g}", layer.sensitivity),
            Cell(percent(layer.quality_drop), layer.quality_drop),
            Cell(_seconds(layer.latency_seconds), layer.latency_seconds),
            Cell(_seconds(layer.quantized_latency_seconds), layer.quantized_latency_seconds),
        ),
        share=round(100 * layer.source_bytes / largest, 2),
        left=round(100 * min(layer.bytes, largest) / largest, 2),
    )


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count
