"""The Job's inputs: what is not supported is refused before any work; then source and data are brought here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgemodel_api import reasons
from edgemodel_api.edgemodel import RemoteFile
from edgemodel_api.edgemodel_status import ANNOTATION_RETRY
from edgemodel_api.errors import InputError
from edgemodel_api.job import JobSpec, Progress
from edgemodel_oci.descriptor import is_platform
from edgemodel_oci.reference import Reference, is_tag

from .candidates import recipes_for, unsupported
from .credentials import CredentialsError, Secret, stored_elsewhere
from .data import Dataset, open_dataset, synthetic
from .formats import check_formats
from .formats.onnx_model import SourceModel, load_model
from .formats.probe import probe
from .progress import Report, counter
from .sources import Fetched, check_credentials, fetch_source

SYNTHETIC_SAMPLES = 256
PROBE_TIMEOUT_SECONDS = 300.0
#: What the source is called in the work folder, where a message begins with it.
_OUR_NAME = re.compile(r"^(model )?source(\.folded)?\.onnx(: | (?=is ))")


@dataclass(frozen=True)
class Inputs:
    """What there is to work with.

    Attributes:
        model: the source.
        calibration: for ranges and sensitivity.
        validation: for quality.
        calibrated: whether `calibration` is real data: ranges of random numbers mean nothing.
        warnings: for the report.
    """

    model: SourceModel
    calibration: Dataset
    validation: Dataset
    calibrated: bool
    warnings: tuple[str, ...]


def check_supported(job: JobSpec) -> Reference:
    """Refuse what this compressor cannot do, before anything is fetched; where the output goes, with its tag.

    Raises:
        InputError: with reason NotSupported where another version might.
    """
    check_formats(job.formats)
    if error := unsupported(job.compression.steps):
        raise error
    if not job.platforms:
        raise InputError("the Job names no platform: give at least one, such as linux/amd64")
    for platform in job.platforms:
        if not is_platform(platform):
            raise InputError(f"platform {platform!r} is none: write os/architecture[/variant], such as linux/arm64")
    if not is_tag(job.revision):
        raise InputError(f"revision {job.revision!r} cannot be a tag: use at most 128 letters, digits, '_', '.', '-'")
    if job.compression.steps:
        recipes_for(job.compression.steps, job.platforms)
    return Reference.parse(job.output).without_target().with_tag(job.revision)


def bring_inputs(job: JobSpec, work_dir: Path, report: Report) -> Inputs:
    """Fetch, verify, load and try the source; open the data.

    Raises:
        InputError: whatever is wrong with them.
        TransientError: a server does not answer.
    """
    for what, remote in _remotes(job).items():
        with _named(job, what):
            check_credentials(remote, _secret(job, what, remote))
    fetched = {}
    for what, remote in _remotes(job).items():
        with _named(job, what):
            fetched[what] = _fetch(job, what, remote, work_dir, report)
    report(Progress(stage="load"))
    source = fetched["source"]
    with _about(job.source):
        model = load_model(source.path, work_dir=work_dir, max_bytes=job.max_source_bytes, external_dir=source.folder)
    inputs = _with_data(job, model, {what: f.path for what, f in fetched.items()}, work_dir)
    report(Progress(stage="probe", message="first run, in a process of its own"))
    with _about(job.source):
        probe(
            model.path,
            model.inputs,
            work_dir=work_dir,
            memory_bytes=probe_memory(model.size_bytes),
            timeout=PROBE_TIMEOUT_SECONDS,
            feeds=inputs.validation.take(model.fixed_batch or 1, job.seed),
        )
    return inputs


@contextmanager
def _named(job: JobSpec, what: str) -> Iterator[None]:
    """Whose credentials they are; and that a corrected Secret does nothing by itself."""
    try:
        yield
    except CredentialsError as error:
        again = f"; then: kubectl annotate em {job.name} -n {job.namespace} --overwrite {ANNOTATION_RETRY}=$(date +%s)"
        message = f"{what}: {error.message}{again if job.in_pod else ''}"
        raise InputError(message, reason=error.reason) from None


@contextmanager
def _about(source: RemoteFile) -> Iterator[None]:
    """Messages about the model name the user's URI, not the file in the work folder."""
    try:
        yield
    except InputError as error:
        if error.reason == reasons.DISK_FULL:
            raise
        message = _OUR_NAME.sub("", error.message)
        raise InputError(f"source {source.shown}: {message}", reason=error.reason) from None


def probe_memory(size: int) -> int:
    """Address space for a child that loads a file of this size: weights, their packed copies, and the runtime."""
    return 4 * 2**30 + 8 * size


def _remotes(job: JobSpec) -> dict[str, RemoteFile]:
    found: dict[str, RemoteFile | None] = {
        "source": job.source,
        "data.calibration": job.data.calibration,
        "data.validation": job.data.validation,
    }
    return {what: remote for what, remote in found.items() if remote is not None}


def _fetch(job: JobSpec, what: str, remote: RemoteFile, work_dir: Path, report: Report) -> Fetched:
    dest = work_dir / f"{what.replace('.', '-')}{'.onnx' if what == 'source' else '.npz'}"
    progress = counter(report, "fetch", what)
    progress(0, 0)
    return fetch_source(
        remote,
        dest,
        base_dir=Path(job.base_dir),
        max_bytes=job.max_source_bytes,
        progress=progress,
        secret=_secret(job, what, remote),
        volumes_dir=Path(job.volumes_dir) if job.volumes_dir is not None else None,
        in_pod=job.in_pod,
    )


def _secret(job: JobSpec, what: str, remote: RemoteFile) -> Secret | None:
    """What credentialsSecretRef means. In a cluster the folder is always there; else the environment may do."""
    reference = remote.credentials_secret_ref
    if reference is None:
        return None
    folder = job.credentials.get(what.removeprefix("data."))
    if folder is None and not remote.uri.startswith("https:") and stored_elsewhere(remote.uri):
        return None
    return Secret(reference.name, Path(folder) if folder is not None else None)


def _with_data(job: JobSpec, model: SourceModel, paths: dict[str, Path], work_dir: Path) -> Inputs:
    def opened(what: str, labels: str | None) -> Dataset | None:
        if what not in paths:
            return None
        return open_dataset(
            paths[what], model.inputs, labels=labels, work_dir=work_dir, max_bytes=job.max_source_bytes, what=what
        )

    declared = job.data.validation
    calibration = opened("data.calibration", None)
    validation = opened("data.validation", declared.labels if declared is not None else None)
    made = None
    if calibration is None and validation is None:
        made = synthetic(model.inputs, samples=SYNTHETIC_SAMPLES * (model.fixed_batch or 1), seed=job.seed)
    # What is made up has its warning below.
    notes = [d.note for d in (calibration, validation) if d is not None and d.note]
    return Inputs(
        model=model,
        calibration=_first(calibration, validation, made),
        validation=_first(validation, calibration, made),
        calibrated=made is None,
        warnings=(*_warnings(job, made=made is not None), *dict.fromkeys(notes)),
    )


def _first(*datasets: Dataset | None) -> Dataset:
    return next(d for d in datasets if d is not None)


def _warnings(job: JobSpec, *, made: bool) -> list[str]:
    found = []
    if job.data.validation is None or job.data.validation.labels is None:
        found.append(
            "no labels: quality is agreement with the source, so it tells how much compression changed the answers, not"
            " whether they were right; name the array in data.validation.labels to measure that"
        )
    if made:
        found.append(
            "no data: quality is measured on random numbers, on which a model may behave unlike on real ones, and a search"
            " leaves static quantization out; give data.validation and data.calibration"
        )
    elif job.data.validation is None:
        found.append("no data.validation: quality is measured on the calibration data")
    elif job.data.calibration is None:
        found.append(
            "no data.calibration: activation ranges come from the validation data, which flatters static candidates"
        )
    return found
