"""What `compress()` returns, or raises where a gate said no: the report, the candidates as rows, and the files."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from markupsafe import Markup, escape
from rich.console import Console

from edgemodel_agent import hardware
from edgemodel_agent.files import write_atomic
from edgemodel_api.errors import InputError, RefusedError
from edgemodel_api.formats import Format
from edgemodel_api.quantities import format_bytes, format_seconds
from edgemodel_api.report import Candidate, CompressionReport, Conversion
from edgemodel_cli import tables
from edgemodel_cli.compression import Compression
from edgemodel_cli.results import AS_GIVEN, SOURCE, original_name, original_text

#: Rows that a notebook shows: the source, what was chosen, the front, then the nearest of the rest.
SHOWN = 12


@dataclass(frozen=True)
class CandidateRow:
    """The source, or one way to compress it. `pandas.DataFrame(done.candidates)` makes a table of them.

    Attributes:
        format: ONNX, TFLite or CoreML.
        size_bytes: stored, which is what a node downloads.
        file_bytes: of the file.
        smaller: times that it is smaller than the source, both stored.
        quality_drop: relative to the source's quality; a fraction.
        slowdown: of the median latency, relative to the source's; a fraction.
        sparsity: share of zeros among the weights.
        accepted: whether it keeps the budget on this machine.
        chosen: the best of those.
        on_front: no other is better in quality, size and latency.
        why: which gates said no, with the numbers.
    """

    name: str
    format: str
    encoding: str
    recipe: str
    size_bytes: int | None
    file_bytes: int | None
    smaller: float | None
    quality: float | None
    quality_drop: float | None
    latency_seconds: float | None
    slowdown: float | None
    memory_bytes: int | None
    sparsity: float | None
    accepted: bool
    chosen: bool
    on_front: bool
    platforms: tuple[str, ...]
    hardware_classes: tuple[str, ...]
    why: str


class Findings:
    """What was found, whether it is enough or not."""

    def __init__(self, done: Compression) -> None:
        self._done = done

    @property
    def report(self) -> CompressionReport:
        """Everything that was measured.

        Raises:
            RefusedError: the Job was refused before it measured.
        """
        if self._done.report is None:
            raise RefusedError(self._done.result.message, reason=self._done.result.reason)
        return self._done.report

    @property
    def accepted(self) -> bool:
        """Whether a candidate keeps the budget."""
        return self._done.accepted

    @property
    def candidates(self) -> tuple[CandidateRow, ...]:
        """The source, the file that was given where that was no ONNX file, then all candidates: the chosen one, those that
        were accepted, the refused; the smallest first.
        """
        report = self.report
        here = report.host.platform if report.host is not None else None
        rows = [
            _row(c, report, good=c.accepted and not (here in c.platforms and c.refusals)) for c in report.candidates
        ]
        rows += [_conversion(c, report) for c in report.conversions]
        rows = [replace(row, why=self._done.words(row.why)) for row in rows]
        rows.sort(key=lambda r: (not r.chosen, not r.accepted, r.size_bytes or 1 << 62, r.name))
        source = _source(report, self._done.platforms)
        return (source, *_original(report, source), *rows)

    def save_html(self, path: str | os.PathLike[str]) -> Path:
        """Write the report as one self-contained page; its path.

        Raises:
            InputError: it cannot be written.
        """
        from edgemodel_cli.html_report import render

        dest = Path(os.fspath(path)).expanduser().absolute()
        try:
            write_atomic(dest, render(self.report, self._done.manifest.model, (), ()).encode())
        except OSError as error:
            raise InputError(f"{dest} cannot be written: {error.strerror or error}") from None
        return dest

    def __repr__(self) -> str:
        """The tables that the command line prints."""
        console = Console(file=io.StringIO(), width=tables.FILE_WIDTH, force_jupyter=False)
        report = self._done.report
        console.print(tables.variants_table(self._done.rows, *tables.basis(report)))
        console.print(tables.warnings_lines(report, self._done.words))
        console.print(tables.diagnosis_lines(report, self._done.words))
        lines = "\n".join([console.file.getvalue().strip("\n"), *self._told()])  # type: ignore[attr-defined]
        return "\n".join(line.rstrip() for line in lines.split("\n"))

    def _repr_html_(self) -> str:
        return _html(self)

    def _told(self) -> Iterator[str]:
        if not self.accepted:
            yield self._done.message


class Compressed(Findings):
    """A compressed model. Its folder is what `edgemodel compress --out` writes.

    Attributes:
        out: the folder: an OCI image layout with the model files, report.json and report.html beside it.
        path: the best file for this machine, or for the first target, if this machine is none.
        files: format (ONNX, TFLite, CoreML) → its best file, as `path`.
        targets: platform → the best file for it; this machine's first.
        digest: of the artifact's index; the same inputs give the same.
        reference: of the artifact: `oci-layout://OUT:REVISION`, for oras and skopeo.
    """

    def __init__(self, done: Compression) -> None:
        super().__init__(done)
        self.out = done.out
        self.digest = str(done.result.digest)
        self.reference = str(done.reference)
        here = hardware.detect().platform
        platforms = sorted(done.files, key=lambda platform: platform != here)
        self.targets = {platform: done.out / done.files[platform].name for platform in platforms}
        self.path = self.targets[platforms[0]]
        self.files: dict[str, Path] = {}
        for platform in platforms:
            file = done.files[platform]
            for one in (file, *file.beside):
                self.files.setdefault(one.format.value, done.out / one.name)

    def _told(self) -> Iterator[str]:
        if self._done.left_out:
            yield self._done.words(f"no ONNX file: {self._done.left_out}")
        for format_name, path in self.files.items():
            yield f"{format_name}: {path} ({format_bytes(path.stat().st_size) if path.exists() else 'moved away'})"


class CompressionRefusedError(RefusedError, Findings):
    """No candidate keeps the budget: the message has the numbers, and `report`, `candidates` and `save_html` the rest."""

    def __init__(self, done: Compression) -> None:
        RefusedError.__init__(self, done.words(done.result.message), reason=done.result.reason or None)
        Findings.__init__(self, done)


def _source(report: CompressionReport, platforms: tuple[str, ...]) -> CandidateRow:
    source = Candidate(name=SOURCE, encoding="float32", platforms=platforms, measurement=report.source, accepted=True)
    return _row(source, report, good=True)


def _original(report: CompressionReport, source: CandidateRow) -> Iterator[CandidateRow]:
    """The user's file, where the source was read from one that is no ONNX file."""
    given = report.original
    if given is None:
        return
    yield replace(
        source,
        name=original_name(given),
        format=given.format.value,
        encoding="",
        recipe=AS_GIVEN,
        size_bytes=given.size_bytes or None,
        file_bytes=given.file_bytes or None,
        smaller=report.source.size_bytes / given.size_bytes if given.size_bytes else None,
        quality=None,
        quality_drop=None,
        latency_seconds=None,
        slowdown=None,
        memory_bytes=None,
        sparsity=None,
        why=original_text(given),
    )


def _row(candidate: Candidate, report: CompressionReport, *, good: bool) -> CandidateRow:
    m, source = candidate.measurement, report.source
    return CandidateRow(
        name=candidate.name,
        format=Format.ONNX.value,
        encoding=candidate.encoding,
        recipe="; ".join(candidate.recipe),
        size_bytes=m.size_bytes if m else None,
        file_bytes=m.file_bytes if m else None,
        smaller=source.size_bytes / m.size_bytes if m and m.size_bytes else None,
        quality=m.quality if m else None,
        quality_drop=m.quality_drop if m else None,
        latency_seconds=m.latency_median_seconds if m else None,
        slowdown=m.slowdown if m else None,
        memory_bytes=m.peak_memory_bytes if m else None,
        sparsity=m.sparsity if m else None,
        accepted=good,
        chosen=candidate.chosen,
        on_front=candidate.on_front,
        platforms=candidate.platforms,
        hardware_classes=candidate.hardware_classes,
        why="; ".join(f"{r.gate}: {r.message}" for r in candidate.refusals),
    )


def _conversion(c: Conversion, report: CompressionReport) -> CandidateRow:
    return CandidateRow(
        name=c.name,
        format=c.format,
        encoding=c.encoding,
        recipe=f"{c.candidate} as {c.format}",
        size_bytes=c.size_bytes or None,
        file_bytes=c.file_bytes or None,
        smaller=report.source.size_bytes / c.size_bytes if c.size_bytes else None,
        quality=c.quality,
        quality_drop=c.quality_drop,
        latency_seconds=None,
        slowdown=None,
        memory_bytes=None,
        sparsity=None,
        accepted=c.accepted,
        chosen=False,
        on_front=False,
        platforms=c.platforms,
        hardware_classes=(),
        why=c.message,
    )


def _html(findings: Findings) -> str:
    """A table for a notebook. Names come from models: they are escaped."""
    report = findings._done.report
    told = Markup("").join(Markup("<div>{}</div>").format(line) for line in findings._told())
    if report is None:
        return str(told)
    quality = tables.quality_title(report.quality)
    head = ("", "Stored", "Smaller", quality, "Drop", "Latency", "Memory", "Verdict")
    rows = findings.candidates
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(Markup("").join(Markup("<td>{}</td>").format(cell) for cell in cells))
        for cells in (_cells(r, report) for r in rows[:SHOWN])
    )
    more = f"… and {len(rows) - SHOWN} more, in .candidates" if len(rows) > SHOWN else ""
    words = findings._done.words
    warnings = Markup("").join(Markup("<div>warning: {}</div>").format(words(w)) for w in report.warnings)
    return str(
        Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table><div>{}</div>{}{}").format(
            Markup("").join(Markup("<th>{}</th>").format(h) for h in head), body, escape(more), warnings, told
        )
    )


def _cells(row: CandidateRow, report: CompressionReport) -> tuple[str, ...]:
    def shown(value: float | None, text: str) -> str:
        return tables.NOTHING if value is None else text

    verdict = "chosen" if row.chosen else "accepted" if row.accepted else row.why
    if row.name == SOURCE or row.recipe == AS_GIVEN:
        verdict = "source" if row.name == SOURCE else AS_GIVEN
    return (
        row.name,
        shown(row.size_bytes, format_bytes(row.size_bytes or 0)),
        shown(row.smaller, f"{row.smaller or 0:.2f}×"),
        tables.format_quality(row.quality, report.quality),
        shown(row.quality_drop, f"{100 * (row.quality_drop or 0) + 0.0:.2f} %"),
        shown(row.latency_seconds, format_seconds(row.latency_seconds or 0)),
        shown(row.memory_bytes, format_bytes(row.memory_bytes or 0)),
        verdict or "refused",
    )
