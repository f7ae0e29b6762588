"""The tables at the end of a command. Pure: rows in, renderables out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgemodel_api.quantities import counted, format_bytes, format_seconds
from edgemodel_api.report import CompressionReport, Original, QualityBasis, QualityKind

from .report.numbers import is_share
from .results import AS_GIVEN, SOURCE, NodeRow, VariantRow, WaveRow, original_name, original_text

NOTHING = "–"
FILE_WIDTH = 160
#: More nodes than this fill screens; the rest is counted.
MAX_NODES_SHOWN = 40
STYLES = {"Serving": "green", "Failed": "red", "Offline": "yellow", "Done": "green", "RolledBack": "red"}


def output_console() -> Console:
    """For standard output. A file or pipe has no width of its own: it gets room for whole lines."""
    console = Console()
    return console if console.is_terminal else Console(width=FILE_WIDTH)


def _table(title: str, *columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def variants_table(
    rows: Sequence[VariantRow], basis: QualityBasis | None, original: Original | None = None
) -> RenderableType:
    """Name, stored size, quality and latency beside the source's, and the verdict; below it why not, a line each.

    Args:
        rows: the variants.
        basis: what quality is.
        original: the user's file, where the source was read from one that is no ONNX file.
    """
    platforms = sorted({row.platform for row in rows})
    several = len(platforms) > 1
    table = _table(
        "Variants" if several else f"Variants for {', '.join(platforms)}",
        *(["Platform"] if several else []),
        "Variant", "Stored", "Smaller", quality_title(basis), "Drop", "Latency", "Of source", "Verdict",
        right=("Stored", "Smaller", quality_title(basis), "Drop", "Latency", "Of source"),
    )  # fmt: skip
    if original is not None:
        stored, size = original.size_bytes or None, next((r.size for r in rows if r.name == SOURCE), None)
        cells = (original_name(original), NOTHING if stored is None else format_bytes(stored), times(size, stored))
        # Of no platform, and above all that came of it.
        table.add_row(*([NOTHING] if several else []), *cells, *[NOTHING] * 4, AS_GIVEN)
    for row in rows:
        sources = [r for r in rows if r.name == SOURCE]
        # Core ML's platform has no source of its own.
        source = next((r for r in sources if r.platform == row.platform), next(iter(sources), None))
        table.add_row(
            *([row.platform] if several else []),
            row.name,
            NOTHING if row.size is None else format_bytes(row.size),
            times(source.size if source else None, row.size),
            format_quality(row.quality, basis),
            NOTHING if row.drop is None else f"{100 * row.drop + 0.0:.2f} %",
            NOTHING if row.latency is None else format_seconds(row.latency),
            times(row.latency, source.latency if source else None),
            verdict(row),
        )
    read = [] if original is None else [f"{original_name(original)}: {original_text(original)}"]
    why = dict.fromkeys((*read, *(f"{row.name}: {row.reason}" for row in rows if row.reason)))
    return Group(table, *(Text(line, style="dim") for line in why), *([Text("")] if why else []))


def basis(report: CompressionReport | None) -> tuple[QualityBasis | None, Original | None]:
    """What a report says that `variants_table` needs."""
    return (None, None) if report is None else (report.quality, report.original)


def warnings_lines(report: CompressionReport | None, words: Callable[[str], str] = str) -> RenderableType:
    """What limits the numbers above, a line each: it belongs beside them, not in a file only.

    Args:
        report: of the Job.
        words: what to make of messages that name fields of a manifest.
    """
    return Group(*(Text(f"warning: {words(line)}", style="yellow") for line in (report.warnings if report else ())))


def diagnosis_lines(report: CompressionReport | None, words: Callable[[str], str] = str) -> RenderableType:
    """Why nothing keeps the budget, and what would have to be given up; arguments as above."""
    found = report.diagnosis if report is not None else None
    if found is None:
        return Group()
    lines = []
    if found.nearest is not None:
        known = {gate: f"{gate} by {by:.1%} of its limit" for gate, by in found.missing.items()}
        misses = ", ".join(known.get(gate, gate) for gate in dict.fromkeys((*found.gates, *found.missing)))
        lines.append(f"nearest: {found.nearest}{f' (misses {misses})' if misses else ''}")
    if found.costly_layers:
        lines.append(f"layers that cost most quality: {', '.join(found.costly_layers)}")
    lines += [f"or: {text}" for text in found.suggestions]
    return Group(*(Text(words(line)) for line in lines))


def quality_title(basis: QualityBasis | None) -> str:
    """What the quality numbers are."""
    if basis is None or basis.kind is QualityKind.NONE:
        return "Quality"
    if basis.kind is QualityKind.AGREEMENT:
        return f"Agreement with source ({basis.metric})"
    return basis.metric


def format_quality(value: float | None, basis: QualityBasis | None) -> str:
    """A share as a percentage, anything else with four digits."""
    if value is None:
        return NOTHING
    if basis is not None and is_share(basis):
        return f"{100 * value:.2f} %"
    return f"{value:.4g}"


def times(above: float | None, below: float | None) -> str:
    """`above / below` as `3.84×`."""
    if above is None or not below:
        return NOTHING
    return f"{above / below:.2f}×"


def verdict(row: VariantRow) -> Text:
    """Chosen for which hardware, accepted, or refused."""
    if row.chosen_for:
        return Text(f"chosen for {', '.join(row.chosen_for)}", style="bold green")
    return Text("accepted", style="green") if row.accepted else Text("refused", style="red")


def nodes_table(rows: Sequence[NodeRow]) -> RenderableType:
    """State, revision, variant, endpoint; troubled nodes first if there are too many for a screen."""
    shown = sorted(rows, key=lambda r: (r.state == "Serving", r.name))[:MAX_NODES_SHOWN]
    table = _table("Nodes", "Node", "State", "Revision", "Variant", "Endpoint")
    for row in sorted(shown, key=lambda r: r.name):
        state = Text(row.state, style=STYLES.get(row.state, ""))
        if row.reason and row.reason != row.state:
            state.append(f" ({row.reason})")
        table.add_row(row.name, state, row.revision or NOTHING, row.variant or NOTHING, row.endpoint or NOTHING)
    if len(rows) > len(shown):
        return Group(table, Text(f"… and {counted(len(rows) - len(shown), 'more node')}"))
    return table


def waves_table(rows: Sequence[WaveRow]) -> Table:
    """Who was let in when, and how long each wave had to stay good."""
    table = _table("Waves", "Wave", "Nodes", "Admitted", "Soak", "State", right=("Wave", "Admitted"))
    for number, row in enumerate(rows, start=1):
        state = Text(row.state, style=STYLES.get(row.state, ""))
        table.add_row(str(number), names(row.nodes), str(row.admitted), row.soak, state)
    return table


def names(given: Sequence[str], limit: int = 6) -> str:
    """The first few names, and how many more there are."""
    if len(given) <= limit:
        return ", ".join(given) or NOTHING
    return f"{', '.join(given[: limit - 1])} and {len(given) - limit + 1} more"
