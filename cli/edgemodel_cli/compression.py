"""The compression Job alone, its result in a folder that appears when it is complete: what `edgemodel compress` and
`edgemodel.compress()` have in common.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from edgemodel_agent import hardware
from edgemodel_api import reasons
from edgemodel_api.errors import InputError, TransientError
from edgemodel_api.formats import Format
from edgemodel_api.hardware import Platform
from edgemodel_api.job import JobResult, JobSpec, Outcome, Progress
from edgemodel_api.quantities import format_seconds
from edgemodel_api.report import CompressionReport
from edgemodel_api.revision import revision_of
from edgemodel_cli import results
from edgemodel_cli.embedded.job_process import JobProcess
from edgemodel_cli.embedded.loop import InterruptedRunError
from edgemodel_cli.embedded.out_folder import ModelFile, check_out, complete, publish
from edgemodel_cli.embedded.signals import on_signals
from edgemodel_cli.embedded.staging import JOB, clear_stale, staging
from edgemodel_cli.embedded.workdir import Workdir, disk_error
from edgemodel_cli.manifest_file import ManifestFile


@dataclass(frozen=True)
class Compression:
    """What a compression came to.

    Attributes:
        manifest: what was asked for, with the digests of local files.
        platforms: that it was built for.
        out: the folder; it was written if `accepted`.
        result: of the Job, refused also where no candidate keeps latency, memory and slowdown on this machine.
        report: of the Job; None where it left none.
        files: platform → its model file in `out`; none unless `accepted`.
        words: a message in the words of whoever asked.
        left_out: why no ONNX file is in `out`, where other formats' are; empty: there is one, or none was wanted.
    """

    manifest: ManifestFile
    platforms: tuple[str, ...]
    revision: str
    out: Path
    result: JobResult
    report: CompressionReport | None
    files: dict[str, ModelFile]
    words: Callable[[str], str] = str
    left_out: str = ""

    @property
    def accepted(self) -> bool:
        """Whether a gate said no."""
        return self.result.outcome is Outcome.SUCCEEDED

    @property
    def rows(self) -> tuple[results.VariantRow, ...]:
        """A row for each variant and each refused candidate, accepted only if it kept every limit on this machine."""
        rows = results.judged_here(results.variant_rows(self.result, self.report), self.report)
        return tuple(replace(row, reason=self.words(row.reason)) for row in rows)

    @property
    def message(self) -> str:
        """`Reason: message` of the Job."""
        return f"{self.result.reason}: {self.words(self.result.message)}"

    @property
    def reference(self) -> str | None:
        """The artifact; None: there is none."""
        return f"oci-layout://{self.out}:{self.revision}" if self.accepted else None


def compress(
    manifest: ManifestFile,
    *,
    out: Path | None,
    platforms: tuple[str, ...],
    timeout: timedelta,
    progress: Callable[[Progress], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
    check: Callable[[], None] = lambda: None,
    signals: bool = False,
    words: Callable[[str], str] = str,
) -> Compression:
    """Do it.

    Args:
        manifest: what to compress, and how.
        out: the folder to write, new, empty, or from an earlier compression; None: `NAME-compressed` in the current one.
        platforms: to build for; this machine's by default.
        timeout: of all.
        progress: called from a thread of its own.
        say: one line about what happens outside of the Job.
        check: called often while it runs; what it raises ends the Job.
        signals: whether SIGINT and SIGTERM are taken over while it runs (of the main thread only).
        words: what to make of messages that name fields of a manifest.

    Raises:
        InputError: something that was given cannot be used.
        TransientError: something failed that is no verdict on the model.
        InterruptedRunError: a signal came; nothing was written.
    """
    out = (out or Path(f"{manifest.model.metadata.name}-compressed")).absolute()
    clear_stale(out)
    check_out(out)
    platforms = check_platforms(platforms)
    revision = revision_of(manifest.model.spec, platforms)
    files: dict[str, ModelFile] = {}
    left_out = ""
    try:
        with staging(out) as folder:
            process = JobProcess(Workdir(folder).job(JOB), progress)
            _wait(process, _spec(manifest, revision, platforms, folder / "out"), timeout, check, signals=signals)
            result, report = process.result(), _report(process)
            if result is None or result.outcome is Outcome.FAILED:
                raise TransientError(_with_log(result, process))
            if result.outcome is Outcome.INVALID:
                raise InputError(result.message, reason=result.reason)
            result, left_out = _judged(result, report, platforms)
            if result.outcome is Outcome.SUCCEEDED:
                say(f"writing {out}")
                without = (Format.ONNX,) if left_out else ()
                files = complete(folder / "out", manifest.model, result, report, without=without)
                publish(folder / "out", out)
    except OSError as error:
        raise disk_error(f"--out {out}", error) from None
    return Compression(manifest, platforms, revision, out, result, report, files, words, left_out)


def check_platforms(given: tuple[str, ...]) -> tuple[str, ...]:
    """The platforms to build for; this machine's by default.

    Raises:
        InputError: one is not known.
    """
    known = [str(p) for p in Platform]
    for platform in given:
        if platform not in known:
            near = next((k for k in known if k.split("/", 1)[1] == platform.strip("/")), None)
            raise InputError(
                f"--target {platform} is not known: use {', '.join(known)}{f' (did you mean {near}?)' if near else ''}"
            )
    return tuple(sorted(set(given))) or (hardware.detect().platform,)


def _spec(manifest: ManifestFile, revision: str, platforms: tuple[str, ...], layout: Path) -> JobSpec:
    return JobSpec.of(
        manifest.model,
        revision=revision,
        platforms=platforms,
        output=f"oci-layout://{layout}",
        base_dir=str(manifest.base_dir),
    )


def _wait(process: JobProcess, job: JobSpec, timeout: timedelta, check: Callable[[], None], *, signals: bool) -> None:
    came = 0

    def interrupt(number: int) -> None:
        nonlocal came
        came = number

    @contextlib.contextmanager
    def watched() -> Iterator[None]:
        if signals:
            with on_signals(interrupt, lambda: process.stop(patience=0.0)):
                yield
        else:
            yield

    deadline = time.monotonic() + timeout.total_seconds()
    with watched():
        try:
            process.begin(job)
            while process.running():
                time.sleep(0.05)
                if came:
                    raise InterruptedRunError(came)
                check()
                if time.monotonic() >= deadline:
                    given = format_seconds(timeout.total_seconds())
                    raise TransientError(f"not compressed within --timeout {given}: give it more time")
        finally:
            process.stop()


def _judged(result: JobResult, report: CompressionReport | None, platforms: tuple[str, ...]) -> tuple[JobResult, str]:
    """Refused, if nothing keeps latency, memory and slowdown here: unlike a run, no trial on a node follows.

    Only ONNX files are timed here. Accepted files of other formats are what they are where no ONNX is wanted: they are laid
    out, and the second value says why no ONNX file is.
    """
    why = None if report is None or result.outcome is not Outcome.SUCCEEDED else results.refused_here(report, platforms)
    if why is None:
        return result, ""
    if any(
        v.digest and v.accepted and v.name != results.SOURCE and v.format not in (None, Format.ONNX)
        for v in result.variants
    ):
        return result, why
    unstored = (v.replace(digest=None) for v in result.variants)
    refused = result.replace(
        outcome=Outcome.REFUSED,
        reason=reasons.BUDGET_EXCEEDED,
        message=why,
        digest=None,
        reference=None,
        report_digest=None,
        variants=tuple(unstored),
    )
    return refused, ""


def _report(process: JobProcess) -> CompressionReport | None:
    with contextlib.suppress(OSError, ValueError):
        return CompressionReport.model_validate_json(process.report.read_bytes())
    return None


def _with_log(result: JobResult | None, process: JobProcess) -> str:
    """Why the Job failed; its log is saved from the folder that goes away."""
    message = result.message if result is not None else "the compression Job left no result"
    with contextlib.suppress(OSError):
        handle, kept = tempfile.mkstemp(prefix="edgemodel-job-", suffix=".log")
        os.close(handle)
        shutil.copyfile(process.log, kept)
        if str(process.log) in message:
            return message.replace(str(process.log), kept)
        return f"{message} (log: {kept})"
    return message
