"""`edgemodel compress`: the compression Job alone, its result in a folder that appears when it is complete."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from edgemodel_agent import hardware
from edgemodel_api import reasons
from edgemodel_api.errors import EXIT_OK, EXIT_REFUSED, InputError, TransientError
from edgemodel_api.hardware import Platform
from edgemodel_api.job import JobResult, JobSpec, Outcome
from edgemodel_api.report import CompressionReport
from edgemodel_api.revision import revision_of
from edgemodel_cli import results, tables
from edgemodel_cli.embedded.job_process import JobProcess
from edgemodel_cli.embedded.loop import InterruptedRunError
from edgemodel_cli.embedded.out_folder import REPORT_HTML, ModelFile, check_out, complete, publish, staging_folder
from edgemodel_cli.embedded.signals import exit_code, on_signals
from edgemodel_cli.embedded.workdir import Workdir, disk_error
from edgemodel_cli.manifest_file import ManifestFile, digested, read_manifest
from edgemodel_cli.model_options import ModelOptions, edge_model
from edgemodel_cli.progress import Reporter, reporting


@dataclass(frozen=True)
class Options:
    """The command line; see `edgemodel compress --help`."""

    file: Path | None = None
    model: ModelOptions | None = None
    out: Path | None = None
    as_json: bool = False
    platforms: tuple[str, ...] = ()
    timeout: timedelta = timedelta(hours=2)


def compress(options: Options) -> int:
    """Do it; the exit code.

    Raises:
        EdgeModelError: bad input, or something failed that is no verdict on the model.
    """
    manifest = _manifest(options)
    out = (options.out or Path(f"{manifest.model.metadata.name}-compressed")).absolute()
    check_out(out)
    platforms = check_platforms(options.platforms)
    staging = staging_folder(out)
    try:
        with reporting() as reporter:
            job = Workdir(staging).job("job")
            process = JobProcess(job, reporter.job)
            revision = revision_of(manifest.model.spec, platforms)
            try:
                _wait(process, _spec(manifest, revision, platforms, staging / "out"), options.timeout, reporter)
            except InterruptedRunError as interruption:
                reporter.close()
                print(f"edgemodel: stopped by {signal.Signals(interruption.number).name}", file=sys.stderr)
                return exit_code(interruption.number)
            result = process.result()
            report = _report(process)
            if result is None or result.outcome is Outcome.FAILED:
                raise TransientError(_with_log(result, process))
            if result.outcome is Outcome.INVALID:
                raise InputError(result.message, reason=result.reason)
            result = _judged(result, report, platforms)
            files: dict[str, ModelFile] = {}
            if result.outcome is Outcome.SUCCEEDED:
                reporter.say(f"writing {out}")
                files = complete(staging / "out", manifest.model, result, report)
                publish(staging / "out", out)
    except OSError as error:
        raise disk_error(f"--out {out}", error) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    _print(options, out, result, report, revision=revision, files=files)
    return EXIT_OK if result.outcome is Outcome.SUCCEEDED else EXIT_REFUSED


def _manifest(options: Options) -> ManifestFile:
    """Of the file, or of the options that stand for one."""
    if options.model is None:
        if options.file is None:
            raise InputError("name a model (edgemodel compress model.onnx) or a manifest (-f FILE)")
        return read_manifest(options.file)
    if options.file is not None:
        raise InputError(f"both -f {options.file} and the model {options.model.model} were given: give one of them")
    return digested(edge_model(options.model), Path.cwd())


def check_platforms(given: tuple[str, ...]) -> tuple[str, ...]:
    """The platforms to build for; this machine's by default.

    Raises:
        InputError: one is not known.
    """
    known = [str(p) for p in Platform]
    for platform in given:
        if platform not in known:
            raise InputError(f"--platform {platform} is not known: use {', '.join(known)}")
    return tuple(sorted(set(given))) or (hardware.detect().platform,)


def _spec(manifest: ManifestFile, revision: str, platforms: tuple[str, ...], layout: Path) -> JobSpec:
    return JobSpec.of(
        manifest.model,
        revision=revision,
        platforms=platforms,
        output=f"oci-layout://{layout}",
        base_dir=str(manifest.base_dir),
    )


def _wait(process: JobProcess, job: JobSpec, timeout: timedelta, reporter: Reporter) -> None:
    came = 0

    def interrupt(number: int) -> None:
        nonlocal came
        came = number

    deadline = time.monotonic() + timeout.total_seconds()
    with on_signals(interrupt, lambda: process.stop(patience=0.0)):
        try:
            process.begin(job)
            while process.running():
                time.sleep(0.05)
                if came:
                    raise InterruptedRunError(came)
                if time.monotonic() >= deadline:
                    raise TransientError(f"not compressed within --timeout {timeout}: give it more time")
        finally:
            process.stop()
            reporter.job_ended()


def _judged(result: JobResult, report: CompressionReport | None, platforms: tuple[str, ...]) -> JobResult:
    """Refused, if nothing keeps latency, memory and slowdown here: unlike a run, no trial on a node follows."""
    why = None if report is None or result.outcome is not Outcome.SUCCEEDED else results.refused_here(report, platforms)
    if why is None:
        return result
    unstored = (v.replace(digest=None) for v in result.variants)
    return result.replace(
        outcome=Outcome.REFUSED,
        reason=reasons.BUDGET_EXCEEDED,
        message=why,
        digest=None,
        reference=None,
        report_digest=None,
        variants=tuple(unstored),
    )


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


def _print(
    options: Options,
    out: Path,
    result: JobResult,
    report: CompressionReport | None,
    *,
    revision: str,
    files: dict[str, ModelFile],
) -> None:
    rows = results.judged_here(results.variant_rows(result, report), report)
    accepted = result.outcome is Outcome.SUCCEEDED
    if options.as_json:
        found: dict[str, Any] = {
            "ready": accepted,
            "revision": revision,
            "source": results.source_json(result),
            "variants": [r.to_json() for r in rows],
            "digest": result.digest,
            "reference": f"oci-layout://{out}:{revision}" if accepted else None,
            "modelFiles": {platform: str(out / f.name) for platform, f in files.items()},
            "reason": "" if accepted else f"{result.reason}: {result.message}",
        }
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        console = tables.output_console()
        console.print(tables.variants_table(rows, report.quality if report else None))
        console.print(tables.warnings_lines(report))
        console.print(tables.diagnosis_lines(report))
        for platform, file in files.items():
            console.print(
                f"{platform}: {out / file.name} ({file.variant})", markup=False, highlight=False, soft_wrap=True
            )
        if accepted:
            where = f"Artifact: oci-layout://{out}:{revision}\nReport: {out / REPORT_HTML}"
            console.print(where, markup=False, highlight=False, soft_wrap=True)
    if not accepted:
        print(f"edgemodel: {result.reason}: {result.message}", file=sys.stderr)
