"""The Job's inputs: what is not supported is refused before any work; then source and data are brought here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import ValidationError

from edgemodel_api import reasons
from edgemodel_api.edgemodel import RemoteFile, Step
from edgemodel_api.edgemodel_status import ANNOTATION_RETRY
from edgemodel_api.errors import InputError
from edgemodel_api.job import JobSpec, Progress
from edgemodel_api.report import Original as Row
from edgemodel_oci.descriptor import is_platform
from edgemodel_oci.reference import Reference, is_tag

from . import memory
from .candidates import recipes_for
from .credentials import CredentialsError, Secret, stored_elsewhere
from .data import Dataset, open_dataset, synthetic
from .formats import check_formats
from .formats.onnx_model import SourceModel, load_model
from .formats.probe import probe
from .indices import check_indices, tables
from .original import Limits, Original, as_onnx, verified
from .progress import Report, counter
from .sources import Fetched, check_credentials, fetch_source

SYNTHETIC_SAMPLES = 256
PROBE_TIMEOUT_SECONDS = 300.0
SLOWEST_BYTES_PER_SECOND = 5 * 2**20
_STUDENT = "student-"
#: What the source is called in the work folder, where a message begins with it.
_OUR_NAME = re.compile(r"^(model )?source(\.folded|\.large)?\.onnx(: | (?=is ))")


@dataclass(frozen=True)
class Inputs:
    """What there is to work with.

    Attributes:
        model: the source.
        calibration: for ranges and sensitivity.
        validation: for quality.
        training: to learn from: data.training, else data.calibration; None: neither is given.
        students: index of a distill step → the student's file, where the step names one.
        files: everything that was fetched, by what it is for; the source's external data are in `model.sha256`.
        calibrated: whether `calibration` is real data: ranges of random numbers mean nothing.
        warnings: for the report.
        allowed: memory that the Job may take, as it was before anything of this was loaded.
        original: the file that the user gave, where that is no ONNX file.
        origins: node of the model → that file's operator.
    """

    model: SourceModel
    calibration: Dataset
    validation: Dataset
    training: Dataset | None
    students: Mapping[int, SourceModel]
    files: Mapping[str, Path]
    calibrated: bool
    warnings: tuple[str, ...]
    allowed: memory.Limit
    original: Row | None = None
    origins: Mapping[str, str] = field(default_factory=dict)

    @property
    def source_sha256(self) -> str:
        """Of the file that the user gave."""
        return self.original.sha256 if self.original is not None else self.model.sha256


def check_supported(job: JobSpec) -> Reference:
    """Refuse what this compressor cannot do, before anything is fetched; where the output goes, with its tag.

    Raises:
        InputError: with reason NotSupported where another version might.
    """
    check_formats(job.formats)
    _check_learning(job)
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


def _check_learning(job: JobSpec) -> None:
    """Steps that learn need something to learn from; a student's file is a file like others."""
    for index, step in enumerate(job.compression.steps or ()):
        where = f"compression.steps[{index}]"
        if step.distill is not None and step.distill.student.file is not None:
            given = step.distill.student.file
            try:
                RemoteFile.model_validate(given.to_json())
            except ValidationError as error:
                raise InputError(f"{where}.distill.student: {error.errors()[0]['msg']}") from None
        if _learns(step) and job.data.training is None and job.data.calibration is None:
            what = "distill" if step.distill is not None else "prune.recover"
            raise InputError(
                f"{where}.{what} has nothing to learn from: give data.training, an .npz with the model's inputs (best with"
                " labels too), or at least data.calibration"
            )


def _learns(step: Step) -> bool:
    return step.distill is not None or (step.prune is not None and step.prune.recover is not None)


def learns(job: JobSpec) -> bool:
    """Whether a network is trained: a step says so, or a search may, as there is data for it."""
    steps = job.compression.steps
    return any(map(_learns, steps)) if steps else job.data.training is not None


def bring_inputs(job: JobSpec, work_dir: Path, report: Report) -> Inputs:
    """Fetch, verify, load and try the source; open the data.

    Raises:
        InputError: whatever is wrong with them.
        TransientError: a server does not answer.
    """
    remotes = {_field(what): remote for what, remote in job.files.items()}
    for what, remote in remotes.items():
        with _named(job, what):
            check_credentials(remote, _secret(job, what, remote))
    fetched = {}
    for what, remote in remotes.items():
        with _named(job, what):
            fetched[what] = _fetch(job, what, remote, work_dir, report)
    report(Progress(stage="load"))
    allowed = memory.limit()
    with _about(job.source):
        source, original = as_onnx(fetched["source"], work_dir, LIMITS)
        memory.check(
            source.path,
            job.compression.steps,
            allowed,
            folder=source.folder,
            formats=job.formats,
            learns=learns(job),
        )
        model = load_model(
            source.path,
            work_dir=work_dir,
            max_bytes=job.max_source_bytes,
            external_dir=source.folder,
            data_sha256=job.source.data_sha256,
            pinned=source.pinned,
        )
    students = _students(job, fetched, work_dir)
    inputs = _with_data(
        job, model, {what: f.path for what, f in fetched.items()}, students, work_dir=work_dir, allowed=allowed
    )
    report(Progress(stage="probe", message="first run, in a process of its own"))
    with _about(job.source):
        _try(model, inputs.validation, work_dir, job.seed)
        if original is not None:
            inputs = _beside(original, inputs, work_dir, job.seed)
    for index, student in students.items():
        with _about_student(index):
            _try(student, inputs.validation, work_dir, job.seed)
    return inputs


def _try(model: SourceModel, data: Dataset, work_dir: Path, seed: int) -> None:
    probe(
        model.path,
        model.inputs,
        work_dir=work_dir,
        memory_bytes=probe_memory(model.size_bytes),
        timeout=probe_timeout(model.size_bytes),
        feeds=data.take(model.fixed_batch or 1, seed),
    )


def _beside(original: Original, inputs: Inputs, work_dir: Path, seed: int) -> Inputs:
    """With how far the model is from the file that it was made of."""
    data = (inputs.validation, inputs.calibration)
    row, said = verified(original, data, inputs.model.inputs, work_dir=work_dir, limits=LIMITS, seed=seed)
    return replace(inputs, original=row, origins=original.read.origins, warnings=(*said, *inputs.warnings))


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


def probe_timeout(size: int) -> float:
    """Seconds for it: a large model has to be read and packed, on a busy machine."""
    return PROBE_TIMEOUT_SECONDS + size / SLOWEST_BYTES_PER_SECOND


#: Of the process that runs a file of another format beside what was made of it.
LIMITS = Limits(probe_memory, probe_timeout)


def _field(what: str) -> str:
    """How messages name one of `JobSpec.files`."""
    return what if what == "source" or what.startswith(_STUDENT) else f"data.{what}"


def _students(job: JobSpec, fetched: Mapping[str, Fetched], work_dir: Path) -> dict[int, SourceModel]:
    found = {}
    for what, file in fetched.items():
        if what.startswith(_STUDENT):
            index = int(what.removeprefix(_STUDENT))
            with _about_student(index):
                model, _ = as_onnx(file, work_dir, LIMITS)
                found[index] = load_model(
                    model.path, work_dir=work_dir, max_bytes=job.max_source_bytes, external_dir=model.folder
                )
    return found


@contextmanager
def _about_student(index: int) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        if error.reason == reasons.DISK_FULL:
            raise
        raise InputError(f"compression.steps[{index}].distill.student: {error.message}", reason=error.reason) from None


def _fetch(job: JobSpec, what: str, remote: RemoteFile, work_dir: Path, report: Report) -> Fetched:
    is_model = what == "source" or what.startswith(_STUDENT)
    dest = work_dir / f"{what.replace('.', '-')}{'.onnx' if is_model else '.npz'}"
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


def _with_data(
    job: JobSpec,
    model: SourceModel,
    paths: dict[str, Path],
    students: Mapping[int, SourceModel],
    *,
    work_dir: Path,
    allowed: memory.Limit,
) -> Inputs:
    def opened(what: str, labels: str | None) -> Dataset | None:
        if what not in paths:
            return None
        return open_dataset(
            paths[what], model.inputs, labels=labels, work_dir=work_dir, max_bytes=job.max_source_bytes, what=what
        )

    declared = job.data.validation
    calibration = opened("data.calibration", None)
    validation = opened("data.validation", declared.labels if declared is not None else None)
    given = job.data.training
    training = opened("data.training", given.labels if given is not None else None)
    looked_up = tables(model.proto)
    for what, data in (("calibration", calibration), ("validation", validation), ("training", training)):
        if data is not None:
            check_indices(data, looked_up, f"data.{what}")
    made = None
    if calibration is None and validation is None:
        made = synthetic(model.inputs, samples=SYNTHETIC_SAMPLES * (model.fixed_batch or 1), seed=job.seed)
    # What is made up has its warning below.
    notes = [d.note for d in (training, calibration, validation) if d is not None and d.note]
    return Inputs(
        model=model,
        calibration=_first(calibration, validation, made),
        validation=_first(validation, calibration, made),
        training=training if training is not None else calibration,
        students=students,
        files=paths,
        calibrated=made is None,
        warnings=(*_warnings(job, made=made is not None), *dict.fromkeys(notes)),
        allowed=allowed,
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
