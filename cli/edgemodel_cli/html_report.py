"""One self-contained HTML page about a revision: what compression cost, what was chosen, how it was rolled out."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jinja2
from markupsafe import Markup

from edgemodel_api.edgemodel import EdgeModel
from edgemodel_api.edgenode import EdgeNode
from edgemodel_api.quantities import counted, format_bytes, format_seconds
from edgemodel_api.report import CompressionReport
from edgemodel_cli.report import candidates_figure, layers_figure, numbers, rollout_figure, rows, story, view
from edgemodel_cli.report.sane import sane
from edgemodel_cli.timeline import NodeChange

_TEMPLATES = Path(__file__).parent / "report" / "templates"
#: From here on nodes are counted first, and listed behind a click.
MANY_NODES = 24
#: Columns of words; all others hold numbers, which stand to the right.
WORDS = frozenset(
    {
        "Meant for",
        "Runs",
        "Hardware",
        "Operator",
        "Shape",
        "Encoding",
        "Hardware class",
        "Variant",
        "Measured on",
        "Why",
        "Run",
        "CPU",
        "What was found",
        "Format",
        "Made of",
        "Run with",
    }
)


def render(
    report: CompressionReport, model: EdgeModel, nodes: Sequence[EdgeNode], timeline: Sequence[NodeChange]
) -> str:
    """The page as text. The same arguments give the same bytes.

    Args:
        report: of the compressor.
        model: with its status; an empty status means that it was only compressed.
        nodes: the pool; none where it was only compressed.
        timeline: changes of the nodes, of any revision; may be empty.

    Returns:
        HTML without any outside reference. Names in it come from models and nodes and are escaped; a content security
        policy lets nothing run but the page's own script, by its hash.
    """
    report = sane(report)
    css, js = ((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    digest = base64.b64encode(hashlib.sha256(js.encode()).digest()).decode()
    chosen = view.chosen_names(report, model)
    told = story.tell(timeline, report.revision, model.status.rollout)
    node_rows = rows.node_rows(model, report.revision, nodes, timeline)
    page = _template().render(
        report=report,
        model=model,
        css=Markup(css),  # noqa: S704 - our own file
        js=Markup(js),  # noqa: S704 - our own file
        script_hash=f"sha256-{digest}",
        version=_version(),
        words=WORDS,
        verdict=view.verdict(report, model),
        tiles=view.tiles(report, model, nodes),
        meaning=numbers.meaning(report.quality),
        has_interval=report.source.quality_low is not None,
        budget=view.budget(report),
        candidates_figure=candidates_figure.draw(report, chosen),
        candidates=rows.candidate_rows(report, chosen),
        candidate_columns=rows.CANDIDATE_COLUMNS,
        rollout_figure=None if told is None else rollout_figure.draw(told),
        rollout_caption="" if told is None else _caption(told),
        variants=rows.variant_rows(report, view.chosen_variants(report, model)),
        variant_columns=rows.VARIANT_COLUMNS,
        nodes=node_rows,
        node_columns=rows.NODE_COLUMNS,
        many_nodes=MANY_NODES,
        groups=rows.groups(node_rows),
        verified=rows.verified_rows(report, chosen),
        verified_columns=rows.VERIFIED_COLUMNS,
        conversions=rows.conversion_rows(report, chosen),
        conversion_columns=rows.CONVERSION_COLUMNS,
        layers_figure=layers_figure.draw(report.layers),
        layers=rows.layer_rows(report.layers),
        layer_columns=rows.LAYER_COLUMNS,
        layers_of=", ".join(sorted(c.name for c in report.candidates if c.chosen)),
        facts=_facts(report),
    )
    # A lone surrogate in a name would be text that no file can hold.
    return page.encode(errors="replace").decode()


@functools.cache
def _template() -> jinja2.Template:
    """Compiled once a process: that takes as long as filling it in."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html.j2")


def _caption(told: story.Story) -> str:
    began = told.began.strftime("%Y-%m-%d %H:%M:%S %Z").strip()
    lines = "Dotted lines: a wave begins." if told.borders else "No wave began."
    if told.rolled_back is not None:
        lines += " Red line: the revision is taken back."
    return f"From {began}. {lines} While a node downloads and checks, what it served before goes on serving."


def _facts(report: CompressionReport) -> list[tuple[str, str]]:
    host = report.host
    facts = []
    if host is not None:
        facts.append(("Compressed on", f"{host.hardware_class} ({host.platform})"))
        facts.append(("Processor", f"{host.cpu_model or 'unknown'}, {counted(host.cores, 'core')}"))
        if host.features:
            facts.append(("Features", ", ".join(host.features)))
        if host.memory_bytes:
            facts.append(("Memory", format_bytes(host.memory_bytes)))
    facts += [(name, version) for name, version in sorted(report.runtimes.items())]
    if report.seconds:
        facts.append(("Compression took", format_seconds(report.seconds)))
    if report.source_sha256:
        facts.append(("Source sha256", report.source_sha256))
    return facts


def _version() -> str:
    try:
        return version("edgemodel")
    except PackageNotFoundError:
        return ""
