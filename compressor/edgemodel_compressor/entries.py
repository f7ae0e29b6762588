"""An outcome as an entry of the cache, and back. Pure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .bench import Clocks
from .build import Built
from .cache import Entry, encoded
from .judge import Court, Known


def entry_of(built: Built | None, known: Known, clocks: Clocks | None) -> Entry:
    """What is kept of a candidate.

    Args:
        built: its file; None: it could not be built, and `known` says why.
        known: of that file.
        clocks: rough ones, for the plot.
    """
    kind, rows = encoded(known.rows) if known.rows is not None else ("", "")
    return Entry(
        file_digest=built.digest if built is not None else "",
        file_bytes=built.file_bytes if built is not None else 0,
        size_bytes=known.size_bytes,
        quantized=built.quantized if built is not None else (),
        notes=built.notes if built is not None else (),
        sparsity=built.sparsity if built is not None else None,
        failure=known.failure,
        complete=known.complete,
        row_type=kind,
        rows=rows,
        slowdown=clocks.slowdown if clocks is not None else None,
        slowdown_low=clocks.low if clocks is not None else None,
        p99=clocks.p99 if clocks is not None else None,
    )


def built_of(entry: Entry) -> Built | None:
    """The candidate's file, which is not there any more; None: it could not be built."""
    if not entry.file_digest:
        return None
    return Built(Path(), entry.file_digest, entry.file_bytes, entry.quantized, entry.notes, entry.sparsity)


def known_of(entry: Entry, court: Court, *, full: bool) -> Known:
    """What a measurement of now would have come to: where a first look is enough, its rows alone.

    Args:
        entry: as it was kept; what does not fit the samples counts as not known.
        court: with the samples.
        full: whether all of them are asked for.
    """
    screen = court.screen
    samples = court.evaluator.samples if entry.complete else int(screen.sum())
    rows = entry.array(samples)
    if entry.failure:
        return Known(entry.size_bytes, failure=entry.failure)
    if rows is None or not entry.size_bytes:
        return Known()
    known = Known(entry.size_bytes, rows, entry.complete)
    if not known.complete or screen.all():
        return known
    glance = replace(known, rows=rows[screen], complete=False)
    return glance if court.enough(glance, full=full) else known


def clocks_of(entry: Entry | None) -> Clocks | None:
    """Rough clocks of an earlier run."""
    if entry is None or entry.slowdown is None or entry.slowdown_low is None or entry.p99 is None:
        return None
    return Clocks(entry.slowdown, entry.slowdown_low, entry.p99, None)
