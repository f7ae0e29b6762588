"""`compress()`: the command line's words as arguments, and the same Job behind them."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from edgemodel_api.errors import EdgeModelError, InputError
from edgemodel_api.job import Progress
from edgemodel_api.quantities import parse_duration
from edgemodel_cli import compression
from edgemodel_cli.model_options import FIELDS, STEPS, ModelOptions, flag, in_options, prepared

from .following import following
from .given import as_path, data_file, model_file
from .result import Compressed, CompressionRefusedError

if TYPE_CHECKING:
    import onnx
    from numpy.typing import ArrayLike

    ModelLike: TypeAlias = str | os.PathLike[str] | onnx.ModelProto
    DataLike: TypeAlias = str | os.PathLike[str] | Mapping[str, ArrayLike] | ArrayLike

#: Characters of a wrong argument that a message shows.
_SHOWN = 200
#: Options of the command line, as arguments.
_WORDS = {flag(name): name for name in (*FIELDS, *STEPS, "target", "out", "timeout")} | {"--platform": "target"}


def compress(
    model: ModelLike,
    *,
    validation: DataLike | None = None,
    labels: str | ArrayLike | None = None,
    metric: str | None = None,
    k: int | None = None,
    judged_output: str | None = None,
    calibration: DataLike | None = None,
    training: DataLike | None = None,
    training_labels: str | ArrayLike | None = None,
    target: str | Iterable[str] | None = None,
    formats: str | Iterable[str] | None = None,
    objective: str | None = None,
    max_quality_drop: str | None = None,
    max_size: str | int | None = None,
    max_latency: str | None = None,
    max_memory: str | int | None = None,
    max_slowdown: str | None = None,
    search_timeout: str | None = None,
    max_candidates: int | None = None,
    distill: str | Mapping[str, Any] | None = None,
    student: ModelLike | None = None,
    student_width: str | None = None,
    student_depth: str | None = None,
    student_rank: str | None = None,
    distill_epochs: int | None = None,
    prune: str | Mapping[str, Any] | None = None,
    structure: str | None = None,
    recover_epochs: int | None = None,
    quantize: str | Mapping[str, Any] | None = None,
    activations: str | None = None,
    steps: Iterable[Mapping[str, Any]] | None = None,
    out: str | os.PathLike[str] | None = None,
    timeout: str | timedelta = "2h",
    progress: bool | Callable[[Progress], object] | None = True,
) -> Compressed:
    """Compress a model within a budget: what `edgemodel compress` does, in the same words.

    The work is done by a process of its own, which an interrupt ends. Without `distill`, `prune`, `quantize` and `steps`
    the smallest (or fastest) candidate within the budget is searched for.

    Args:
        model: path of an ONNX or TFLite file, or an onnx.ModelProto.
        validation: what quality is measured on: path of an `.npz`; arrays by the names of the model's inputs, first axis =
            samples; or one array, for a model with one input.
        labels: name of the labels in `validation`, or the labels themselves; None: agreement with the source is measured.
        metric: Top1, TopK, F1, Cosine or MeanSquaredError.
        k: for TopK.
        judged_output: name of the model's output that is judged; the first by default.
        calibration: as `validation`, for the ranges of activations.
        training: as `validation`, to learn from.
        training_labels: as `labels`, of `training`.
        target: platforms such as `linux/arm64`; this machine's by default.
        formats: ONNX, TFLite, CoreML; ONNX by default.
        objective: Smallest or Fastest.
        max_quality_drop: relative to the source's, such as `0.5%`; 1 % by default.
        max_size: stored bytes, such as `20Mi`.
        max_latency: median, such as `5ms`.
        max_memory: of a process that serves it, such as `200Mi`.
        max_slowdown: against the source, such as `10%`; 0 % by default.
        search_timeout: take the best that was found after this time, such as `10m`.
        max_candidates: measure so many at most.
        distill: Knowledge or Parameter; or the fields of the manifest's step, such as `{"student": {"width": "50%"}}`.
        student: ONNX file or onnx.ModelProto to train, instead of the shares below.
        student_width: share of the teacher's channels, such as `50%`.
        student_depth: share of its repeated blocks.
        student_rank: share of the full rank of its matrices.
        distill_epochs: passes over the training data.
        prune: share of the weights, such as `60%`; N:M, such as `2:4`; or the fields of the manifest's step.
        structure: Weights or Channels.
        recover_epochs: learn again after pruning, so many passes.
        quantize: Int8, Int4 or Float16; or the fields of the manifest's step.
        activations: Static, Dynamic or None.
        steps: all steps as in a manifest, in their order, instead of the arguments above.
        out: the folder to write, new, empty, or from an earlier compression; `NAME-compressed` by default.
        timeout: of all.
        progress: True shows it on standard error; a function is called with each `Progress`, from another thread, and what
            it raises ends the compression.

    Raises:
        InputError: something that was given cannot be used; the message says what to change.
        CompressionRefusedError: no candidate keeps the budget; it has the numbers, the report and the candidates.
        TransientError: something failed that is no verdict on the model, such as the timeout.
    """
    said = {name: value for name, value in locals().items() if name in ModelOptions.__dataclass_fields__}
    with tempfile.TemporaryDirectory(prefix="edgemodel-") as folder, following(progress) as follower:

        def words(message: str) -> str:
            return in_python(_without_folder(message, Path(folder)), steps=steps is not None)

        try:
            done = compression.compress(
                prepared(_options(said, Path(folder)), Path(folder)),
                out=_folder(out),
                platforms=_texts(target, "target", "linux/arm64"),
                timeout=_duration(timeout),
                progress=follower,
                check=follower.check,
                words=words,
            )
        except EdgeModelError as error:
            raise type(error)(words(error.message), reason=error.reason) from None
    if not done.accepted:
        raise CompressionRefusedError(done)
    return Compressed(done)


def in_python(message: str, *, steps: bool = False) -> str:
    """A message in the words of this module's arguments.

    Args:
        message: of the Job, or of the command line.
        steps: whether `steps` was given.

    >>> in_python("--max-quality-drop 5: no percentage; data.validation.labels: there is none")
    'max_quality_drop 5: no percentage; labels: there is none'
    >>> in_python("compression.steps[1].quantize.include names no node; take TFLite out of spec.formats")
    'quantize.include names no node; take TFLite out of formats'
    """
    message = in_options(message, steps=steps)
    message = re.sub(r"(?<![\w-])--[a-z]+(?:-[a-z]+)*", lambda m: _WORDS.get(m[0], m[0]), message)
    return re.sub(r"(?<![\w-])--(?=(?:distill|prune|quantize)\.\w)", "", message)


def _without_folder(message: str, folder: Path) -> str:
    """What was no file names what was given, not the file that was made of it."""
    within = rf"(?:file:(?://)?)?{re.escape(str(folder))}/"
    message = re.sub(rf"(?:--student )?{within}student/[^/\s:]+\.onnx", "student", message)
    message = re.sub(rf"(?:source )?{within}[^/\s:]+\.onnx", "model", message)
    return re.sub(rf"(?:--\w+ )?{within}(\w+)\.npz", r"\1", message)


def _options(said: Mapping[str, Any], folder: Path) -> ModelOptions:
    """The options of a command line, with everything that is no file written into the folder."""
    model = model_file(said["model"], folder)
    found = dict(said, model=model, steps=_steps(said["steps"]), formats=_texts(said["formats"], "formats", "TFLite"))
    for what, labels in (("validation", "labels"), ("calibration", ""), ("training", "training_labels")):
        path, name = data_file(said[what], said.get(labels), what=what, folder=folder, model=model)
        found[what] = path
        if labels:
            found[labels] = name
    if said["student"] is not None:
        within = folder / "student"
        within.mkdir()
        found["student"] = model_file(said["student"], within, "student")
    return ModelOptions(**found)


def _texts(value: str | Iterable[str] | None, what: str, example: str) -> tuple[str, ...]:
    """None: nothing was said, and the default holds."""
    if value is None:
        return ()
    found = (value,) if isinstance(value, str) else _listed(value)
    if found is None or not all(isinstance(v, str) for v in found):
        raise InputError(f"{what} {_shown(value)}: give a text, or a list of texts, such as {what}={[example]}")
    if not found:
        raise InputError(f"{what} is empty: name at least one, such as {what}={[example]}, or leave it out")
    return found


def _steps(value: Iterable[Mapping[str, Any]] | None) -> tuple[Mapping[str, Any], ...]:
    if value is None:
        return ()
    example = 'steps=[{"quantize": {"precision": "Int8"}}]'
    found = None if isinstance(value, str) else _listed(value)
    if found is None or not all(isinstance(v, Mapping) for v in found):
        raise InputError(f"steps {_shown(value)}: give a list of the manifest's steps, such as {example}")
    if not found:
        raise InputError(
            f"steps is empty: name at least one, such as {example}, or leave it out: the search does it all"
        )
    return found


def _listed(value: Any) -> tuple[Any, ...] | None:
    """None: it is no list."""
    if isinstance(value, Mapping | bytes | bytearray) or not isinstance(value, Iterable):
        return None
    return tuple(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _folder(out: str | os.PathLike[str] | None) -> Path | None:
    found = as_path(out)
    if out is not None and found is None:
        raise InputError(f"out {_shown(out)}: give the path of a folder")
    return found


def _duration(value: str | timedelta) -> timedelta:
    try:
        found = value if isinstance(value, timedelta) else parse_duration(value)
    except (ValueError, TypeError) as error:
        raise InputError(f"timeout: {error}") from None
    if found <= timedelta(0):
        raise InputError(f"timeout {value}: give more than nothing, such as 30m")
    return found
