#!/usr/bin/env python3
"""Write docs/formats.md's table of operators from the code.

    tools/coverage.py           write it
    tools/coverage.py --check   change nothing; exit 1 if it differs

Each converter has a table `OPS`: ONNX operator → what of it is converted, empty for all. Operators are those that the
installed onnx knows, which requirements.lock fixes. A note "Mod: int32" of a family of operators is Mod's alone.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import onnx

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "formats.md"
BEGIN, END = "<!-- operators:begin (tools/coverage.py) -->", "<!-- operators:end -->"
#: What onnxruntime adds to ONNX, and what exporters put into ONNX's own domain.
RUNTIME = "com.microsoft"
NONE, PART, WHOLE = "–", "◐", "✓"


class CoverageError(Exception):
    """What is wrong with the tables or the document, in one line."""


class Column(NamedTuple):
    """One converter."""

    title: str
    ops: Mapping[str, str]


def columns() -> tuple[Column, ...]:
    """The converters' own tables."""
    from edgemodel_compressor.formats import coreml, tflite
    from edgemodel_compressor.training.ops import OPS

    return Column("TFLite", tflite.OPS), Column("Core ML", coreml.OPS), Column("training", OPS)


def readers() -> Mapping[str, str]:
    """The table of the reader of TFLite sources."""
    from edgemodel_compressor.formats.tflite.read import READ_OPS

    return READ_OPS


def standard() -> tuple[str, ...]:
    """The operators of ONNX's own domain, by name."""
    return tuple(sorted({schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}))


def note_for(op: str, note: str) -> str | None:
    """What is said of this operator; None: it is not converted.

    >>> note_for("Pow", "Mod: int32"), note_for("Mod", "Mod: int32"), note_for("Pad", "constant pads")
    ('', 'int32', 'constant pads')
    """
    named = re.fullmatch(r"([A-Z]\w*): (.*)", note)
    if named is None:
        return note
    return named[2] if named[1] == op else ""


def cell(op: str, ops: Mapping[str, str]) -> str:
    """One operator in one column."""
    if op not in ops:
        return NONE
    note = note_for(op, ops[op])
    return f"{PART} {note}".replace("|", "\\|") if note else WHOLE


def table(ops: tuple[str, ...], found: tuple[Column, ...]) -> str:
    """Operators that at least one converter knows."""
    rows = [f"| operator | {' | '.join(c.title for c in found)} |", f"|---|{'---|' * len(found)}"]
    for op in ops:
        cells = [cell(op, c.ops) for c in found]
        if set(cells) != {NONE}:
            rows.append(f"| {op} | {' | '.join(cells)} |")
    return "\n".join(rows)


def counts(ops: tuple[str, ...], found: tuple[Column, ...]) -> str:
    """How many of ONNX's operators each converter knows, whole and in part."""
    rows = ["| | operators | whole | in part |", "|---|---|---|---|"]
    for c in found:
        notes = [note_for(op, c.ops[op]) for op in ops if op in c.ops]
        rows.append(f"| {c.title} | {len(notes)} of {len(ops)} | {notes.count('')} | {len(notes) - notes.count('')} |")
    return "\n".join(rows)


def text(found: tuple[Column, ...], read: Mapping[str, str]) -> str:
    """Counts, the table of ONNX's operators, that of onnxruntime's, what no converter knows, and what TFLite sources may have.

    Raises:
        CoverageError: a converter's table is empty.
    """
    for c in found:
        if not c.ops:
            raise CoverageError(f"the table of {c.title} is empty")
    ops = standard()
    # A converter may write onnxruntime's own with the domain before the name, or without.
    others = tuple(
        Column(c.title, {k.removeprefix(f"{RUNTIME}:"): n for k, n in _beyond(c, ops).items()}) for c in found
    )
    beyond = tuple(sorted({op for c in others for op in c.ops}))
    unknown = [op for op in ops if all(op not in c.ops for c in found)]
    return "\n\n".join(
        (
            f"Of the {len(ops)} operators of ONNX's own domain (opset {onnx.defs.onnx_opset_version()}):",
            counts(ops, found),
            f"{WHOLE}: all of it; {PART}: the part that is named; {NONE}: not converted.",
            table(ops, found),
            f"Beyond ONNX, onnxruntime's own (`{RUNTIME}`):",
            table(beyond, others),
            f"None of the three: {', '.join(unknown)}.",
            sources(read),
        )
    )


def sources(ops: Mapping[str, str]) -> str:
    """TFLite operators that are read, those with the same note together."""
    by_note: dict[str, list[str]] = {}
    for op, note in sorted(ops.items()):
        by_note.setdefault(note, []).append(op)
    lines = [f"- {note or 'without a note'}: {', '.join(by_note[note])}" for note in sorted(by_note)]
    return "\n".join((f"{len(ops)} operators of a TFLite **source** are read:", "", *lines))


def _beyond(column: Column, ops: tuple[str, ...]) -> dict[str, str]:
    """What is not among these operators."""
    return {op: note for op, note in column.ops.items() if op not in ops}


def wanted(document: str, made: str) -> str:
    """The document as it shall be.

    Raises:
        CoverageError: it has no place for the table.
    """
    head, begin, rest = document.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise CoverageError(f"docs/formats.md has no lines {BEGIN!r} and {END!r}")
    return f"{head}{BEGIN}\n{made}\n{END}{tail}"


def main(arguments: list[str] | None = None, document: Path = DOCUMENT) -> int:
    """Exit code."""
    parser = argparse.ArgumentParser(
        description="Keep the table of operators in docs/formats.md in step with the code."
    )
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if it differs")
    options = parser.parse_args(arguments)
    try:
        before = document.read_text()
        after = wanted(before, text(columns(), readers()))
    except CoverageError as error:
        print(f"tools/coverage.py: {error}", file=sys.stderr)
        return 1
    if options.check:
        if before != after:
            print(f"{document.name}: not in step with the converters; run `make manifests`", file=sys.stderr)
        return int(before != after)
    document.write_text(after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
