"""The verdict on a file for each kind of CPU: its answers there, judged beside the source's, and beside its own here.

A file holds on a CPU where it runs, and where its quality on the samples is within the budget, or no worse than its own
here: a candidate that has used its budget up must not be refused for samples that are hard everywhere.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted
from edgemodel_api.report import Verification, VerifiedHow
from edgemodel_compressor.evaluate.runner import Arrays

from .machines import Machine, Machines
from .running import Ran, run_on
from .samples import Judged, Samples
from .saturation import SATURATING, find_saturation

#: Fewer answers than this say nothing; a CPU that gives no more in the time is not verified.
LEAST_ANSWERS = 8
#: For a CPU that cannot be had: requests on which saturation is counted, and a layer's error that is none.
COUNTED = 8
HARMLESS = 0.01


def verify(
    path: Path,
    *,
    classes: Iterable[str],
    samples: Samples,
    machines: Machines,
    work_dir: Path,
    seconds: float = 240.0,
    workers: int = 1,
) -> tuple[Verification, ...]:
    """Run a file on each kind of CPU that this machine can be.

    Args:
        path: an ONNX file.
        classes: hardware classes, those that the file is meant for.
        samples: requests and their judge.
        machines: what there is.
        work_dir: for requests and answers; nothing is left there.
        seconds: for each kind of CPU; what was answered until then counts.
        workers: so many of them at a time; each takes one core.

    Returns:
        One row for each class, in order. What the model does there (a crash, too much memory) is a verdict.

    Raises:
        InputError: the disk is full.
    """
    wanted = tuple(dict.fromkeys(map(str, classes)))
    if not any(machines.of(c) for c in wanted):
        return tuple(_missing(machines, c, path, samples) for c in wanted)
    here = run_on(machines.here, path, samples.feeds, work_dir=work_dir, seconds=seconds)
    own = _judge(samples, here.answers)

    def row(hardware_class: str) -> Verification:
        machine = machines.of(hardware_class)
        if machine is None:
            return _missing(machines, hardware_class, path, samples)
        ran = here
        if machine != machines.here:
            ran = run_on(machine, path, samples.feeds, work_dir=work_dir, seconds=seconds)
        with judging:
            return _row(machine, ran, here, own, samples)

    # The evaluator, which judges, is nobody's business but one thread's.
    judging = threading.Lock()
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        return tuple(pool.map(row, wanted))


def _missing(machines: Machines, hardware_class: str, path: Path, samples: Samples) -> Verification:
    """Not run there. Whether sums saturate is known all the same, by arithmetic."""
    why = next(
        (text for kind, text in machines.missing.items() if kind == hardware_class), "no such kind of CPU is known"
    )
    row = Verification(hardware_class=hardware_class, how=VerifiedHow.NO, message=f"not verified: {why}")
    if hardware_class not in SATURATING:
        return row
    try:
        found = find_saturation(path, samples.feeds[:COUNTED])
    except InputError as error:
        return row.replace(message=f"{row.message}; {error.message}")
    beyond = [s for s in found if s.saturates]
    if not beyond:
        return row.replace(message=f"{row.message}; counted on {COUNTED} samples, no sum leaves 16 bits there")
    worst = max(beyond, key=lambda s: (not math.isfinite(s.error), s.error))
    size = f"{worst.error:.2%}" if math.isfinite(worst.error) else "up to half"
    many = counted(len(beyond), "of its layers leaves", "of its layers leave")
    return row.replace(
        holds=None if math.isfinite(worst.error) and worst.error <= HARMLESS else False,
        message=f"{row.message}; counted, {many} 16 bits there: {worst.node!r} errs by {size}",
    )


def _row(machine: Machine, ran: Ran, here: Ran, own: Judged | str | None, samples: Samples) -> Verification:
    row = Verification(
        hardware_class=machine.hardware_class, how=machine.how, cpu=machine.cpu, samples=len(ran.answers) * samples.rows
    )
    few = len(ran.answers) < min(LEAST_ANSWERS, len(samples.feeds))
    if not ran.started or (ran.late and few):
        # Nothing is known of the model: neither for nor against it.
        return row.replace(how=VerifiedHow.NO, message=f"not verified: {ran.failure}")
    if ran.failure and not ran.late:
        return row.replace(holds=False, message=ran.failure)
    judged = _judge(samples, ran.answers)
    error = distance(ran.answers, here.answers) if ran is not here else 0.0
    if not isinstance(judged, Judged):
        return row.replace(holds=False, max_error=error, message=judged or "no answers")
    as_here = isinstance(own, Judged) and judged.drop <= own.drop
    holds = not judged.over or (as_here and ran is not here)
    message = "" if holds else f"quality drops by {judged.drop:.2%} there"
    if not holds and isinstance(own, Judged) and ran is not here:
        message += f", by {own.drop:.2%} here, on the same {counted(row.samples, 'sample')}"
    if ran.late:
        message = "; ".join(filter(None, (message, f"{counted(row.samples, 'sample')}: {ran.failure}")))
    return row.replace(quality=judged.quality, quality_drop=judged.drop, max_error=error, holds=holds, message=message)


def _judge(samples: Samples, answers: Sequence[Arrays]) -> Judged | str | None:
    """What they are worth, or why they are no answers."""
    if not answers:
        return None
    try:
        return samples.judge(answers)
    except InputError as error:
        return error.message


def distance(there: Sequence[Arrays], here: Sequence[Arrays]) -> float | None:
    """‖there − here‖₂ / ‖here‖₂ over all answers, the largest of the float outputs; None where there are none.

    Args:
        there: answers to some requests.
        here: answers to at least as many of the same.
    """
    if not there or len(here) < len(there):
        return None
    found = []
    for name, first in here[0].items():
        if not np.issubdtype(first.dtype, np.floating):
            continue
        pairs = [(a[name].astype(np.float64), b[name].astype(np.float64)) for a, b in zip(there, here, strict=False)]
        if any(a.shape != b.shape for a, b in pairs):
            return None
        apart = sum(float(((a - b) ** 2).sum()) for a, b in pairs)
        scale = sum(float((b**2).sum()) for _, b in pairs)
        found.append(float(np.sqrt(apart / scale)) if scale > 0 else float(apart > 0))
    finite = [f for f in found if np.isfinite(f)]
    return max(finite, default=None)
