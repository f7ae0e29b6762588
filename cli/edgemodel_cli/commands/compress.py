"""`edgemodel compress`: the compression Job alone, its result in a folder that appears when it is complete."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from edgemodel_api.errors import EXIT_OK, EXIT_REFUSED, InputError
from edgemodel_cli import compression, results, tables
from edgemodel_cli.compression import Compression
from edgemodel_cli.embedded.loop import InterruptedRunError
from edgemodel_cli.embedded.out_folder import REPORT_HTML
from edgemodel_cli.embedded.signals import exit_code, stopped_by
from edgemodel_cli.given_files import MODEL_SUFFIXES
from edgemodel_cli.manifest_file import ManifestFile, read_manifest
from edgemodel_cli.model_options import ModelOptions, in_options, prepared
from edgemodel_cli.progress import reporting


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
    with reporting() as reporter:
        try:
            done = compression.compress(
                manifest,
                out=options.out,
                platforms=options.platforms,
                timeout=options.timeout,
                progress=reporter.job,
                say=reporter.say,
                signals=True,
                words=in_options if options.model is not None else str,
            )
        except InterruptedRunError as interruption:
            reporter.close()
            print(stopped_by(interruption.number), file=sys.stderr)
            return exit_code(interruption.number)
        except InputError as error:
            if options.model is None:
                raise
            raise InputError(in_options(error.message), reason=error.reason) from None
        finally:
            reporter.job_ended()
    _print(done, as_json=options.as_json)
    return EXIT_OK if done.accepted else EXIT_REFUSED


def _manifest(options: Options) -> ManifestFile:
    """Of the file, or of the options that stand for one."""
    if options.model is None:
        if options.file is None:
            raise InputError("name a model (edgemodel compress model.onnx) or a manifest (-f FILE)")
        if options.file.suffix.lower() in MODEL_SUFFIXES:
            raise InputError(
                f"-f {options.file}: a manifest is expected; for a model: edgemodel compress {options.file}"
            )
        return read_manifest(options.file)
    if options.file is not None:
        raise InputError(f"both -f {options.file} and the model {options.model.model} were given: give one of them")
    return prepared(options.model)


def _print(done: Compression, *, as_json: bool) -> None:
    result, report, out, files = done.result, done.report, done.out, done.files
    told = done.message if not done.accepted else done.words(f"no ONNX file: {done.left_out}") if done.left_out else ""
    if as_json:
        found: dict[str, Any] = {
            "ready": done.accepted,
            "revision": done.revision,
            "source": results.source_json(result),
            "variants": [r.to_json() for r in done.rows],
            "digest": result.digest,
            "reference": done.reference,
            "modelFiles": {platform: str(out / f.name) for platform, f in files.items()},
            "formatFiles": {
                platform: {f.format.value: str(out / f.name) for f in (file, *file.beside)}
                for platform, file in files.items()
            },
            "reason": told,
        }
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        console = tables.output_console()
        console.print(tables.variants_table(done.rows, *tables.basis(report)))
        console.print(tables.warnings_lines(report, done.words))
        console.print(tables.diagnosis_lines(report, done.words))
        for platform, file in files.items():
            for one in (file, *file.beside):
                line = f"{platform}: {out / one.name} ({one.variant})"
                console.print(line, markup=False, highlight=False, soft_wrap=True)
        if done.accepted:
            where = f"Artifact: {done.reference}\nReport: {out / REPORT_HTML}"
            console.print(where, markup=False, highlight=False, soft_wrap=True)
    if told:
        print(f"edgemodel: {told}", file=sys.stderr)
