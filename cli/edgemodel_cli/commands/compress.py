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
from edgemodel_api.edgemodel import EdgeModel
from edgemodel_api.errors import EXIT_OK, EXIT_REFUSED, InputError, TransientError
from edgemodel_api.hardware import HardwareClass, Platform
from edgemodel_api.job import JobResult, JobSpec, Outcome, VariantSummary
from edgemodel_api.report import CompressionReport
from edgemodel_api.revision import revision_of
from edgemodel_cli import results, tables
from edgemodel_cli.embedded.files import write_atomic
from edgemodel_cli.embedded.job_process import JobProcess
from edgemodel_cli.embedded.loop import InterruptedRunError
from edgemodel_cli.embedded.signals import exit_code, on_signals
from edgemodel_cli.embedded.workdir import Workdir, disk_error, explained
from edgemodel_cli.manifest_file import ManifestFile, read_manifest
from edgemodel_cli.progress import Reporter, reporting

REPORT_JSON, REPORT_HTML = "report.json", "report.html"


@dataclass(frozen=True)
class Options:
    """The command line; see `edgemodel compress --help`."""

    file: Path
    out: Path
    as_json: bool = False
    platforms: tuple[str, ...] = ()
    timeout: timedelta = timedelta(hours=2)


def compress(options: Options) -> int:
    """Do it; the exit code.

    Raises:
        EdgeModelError: bad input, or something failed that is no verdict on the model.
    """
    manifest = read_manifest(options.file)
    out = options.out.absolute()
    check_out(out)
    platforms = check_platforms(options.platforms)
    staging = _staging(out)
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
            files = {}
            if result.outcome is Outcome.SUCCEEDED:
                reporter.say(f"writing {out}")
                files = _complete(staging / "out", manifest.model, result, report, process)
                _publish(staging / "out", out)
    except OSError as error:
        raise disk_error(f"--out {out}", error) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    _print(options, result, report, revision=revision, files={k: str(out / v) for k, v in files.items()})
    return EXIT_OK if result.outcome is Outcome.SUCCEEDED else EXIT_REFUSED


def check_out(out: Path) -> None:
    """--out may be made, or replaced.

    Raises:
        InputError: it is a file, or a folder with something else in it.
    """
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir() or out.is_symlink():
        raise InputError(f"--out {out} exists and is no folder: name another one")
    ours = (out / "oci-layout").is_file() and (out / REPORT_JSON).is_file()
    if not ours and any(out.iterdir()):
        raise InputError(f"--out {out} holds files of something else: name a new or empty folder")


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


def _staging(out: Path) -> Path:
    """A folder on the same disk, so that the last step is a rename."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
    except OSError as error:
        raise InputError(f"--out {out} cannot be written: {explained(error)}") from None


def _spec(manifest: ManifestFile, revision: str, platforms: tuple[str, ...], layout: Path) -> JobSpec:
    spec, meta = manifest.model.spec, manifest.model.metadata
    return JobSpec(
        namespace=meta.namespace,
        name=meta.name,
        revision=revision,
        source=spec.source,
        data=spec.data,
        compression=spec.compression,
        formats=spec.formats,
        health_check=spec.health_check,
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


def best_variant(variants: tuple[VariantSummary, ...], platform: str, here: HardwareClass) -> VariantSummary | None:
    """The first accepted compressed variant of a platform (they come in the order of the objective) that is meant for
    this machine's kind of CPU, or for all; else for any; the source if there is no other.
    """
    mine = [v for v in variants if v.platform == platform and v.digest and v.accepted]
    compressed = [v for v in mine if v.name != results.SOURCE]
    fitting = [v for v in compressed if not v.hardware_classes or here in v.hardware_classes]
    return next(iter((*fitting, *compressed, *mine)), None)


def _complete(
    layout: Path, model: EdgeModel, result: JobResult, report: CompressionReport | None, process: JobProcess
) -> dict[str, str]:
    """Write what lies beside the image layout; platform → name of its model file."""
    from edgemodel_oci import artifact, pack, pull
    from edgemodel_oci.reference import Reference
    from edgemodel_oci.repository import open_repository

    here = hardware.detect().hardware_class
    repository = open_repository(Reference.parse(f"oci-layout://{layout}"))
    platforms = sorted({v.platform for v in result.variants})
    files: dict[str, str] = {}
    written: dict[str, str] = {}
    for platform in platforms:
        best = best_variant(result.variants, platform, here)
        if best is None or best.digest is None:
            continue
        variant = artifact.read_variant(repository, best.digest)
        name = written.get(variant.file_digest)
        if name is None:
            name = model.metadata.name + (f"-{platform.replace('/', '-')}" if written else "") + ".onnx"
            blob = process.folder / "layer"
            pull.fetch_blob(repository, variant.weight, blob)
            pack.unpack_file(blob, layout / name, file_digest=variant.file_digest, file_size=variant.file_size)
            blob.unlink()
            written[variant.file_digest] = name
        files[platform] = name
    for leftover in ("ingest", "index.json.lock"):  # of writing it; nobody writes to this layout any more
        path = layout / leftover
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    content = report.to_json() if report is not None else {}
    write_atomic(layout / REPORT_JSON, json.dumps(content, indent=1, ensure_ascii=False).encode())
    if report is not None:
        from edgemodel_cli.html_report import render

        write_atomic(layout / REPORT_HTML, render(report, model, (), ()).encode())
    return files


def _publish(made: Path, out: Path) -> None:
    """Put the complete folder in the place of the old one."""
    aside = made.parent / "old"
    if out.exists():
        os.rename(out, aside)
    try:
        os.rename(made, out)
    except OSError:
        if aside.exists():
            os.rename(aside, out)
        raise


def _print(
    options: Options,
    result: JobResult,
    report: CompressionReport | None,
    *,
    revision: str,
    files: dict[str, str],
) -> None:
    rows, out = results.variant_rows(result, report), options.out.absolute()
    accepted = result.outcome is Outcome.SUCCEEDED
    if options.as_json:
        found: dict[str, Any] = {
            "ready": accepted,
            "revision": revision,
            "source": results.source_json(result),
            "variants": [r.to_json() for r in rows],
            "digest": result.digest,
            "reference": f"oci-layout://{out}:{revision}" if accepted else None,
            "modelFiles": files,
            "reason": "" if accepted else f"{result.reason}: {result.message}",
        }
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        console = tables.output_console()
        console.print(tables.variants_table(rows, report.quality if report else None))
        for platform, file in files.items():
            console.print(f"{platform}: {file}", markup=False, highlight=False, soft_wrap=True)
        if accepted:
            where = f"Artifact: oci-layout://{out}:{revision}\nReport: {out / REPORT_HTML}"
            console.print(where, markup=False, highlight=False, soft_wrap=True)
    if not accepted:
        print(f"edgemodel: {result.reason}: {result.message}", file=sys.stderr)
