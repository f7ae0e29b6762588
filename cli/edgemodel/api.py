"""`compress()`: the command line's words as arguments, and the same Job behind them."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
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
    target: str | Sequence[str] = (),
    formats: str | Sequence[str] = (),
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
    steps: Sequence[Mapping[str, Any]] = (),
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
        try:
            done = compression.compress(
                prepared(_options(said, Path(folder)), Path(folder)),
                out=as_path(out),
                platforms=_texts(target, "target"),
                timeout=_duration(timeout),
                progress=follower,
                check=follower.check,
            )
        except EdgeModelError as error:
            raise type(error)(in_python(error.message), reason=error.reason) from None
    if not done.accepted:
        raise CompressionRefusedError(done)
    return Compressed(done)


def in_python(message: str) -> str:
    """A message in the words of this module's arguments.

    >>> in_python("--max-quality-drop 5: no percentage; data.validation.labels: there is none")
    'max_quality_drop 5: no percentage; labels: there is none'
    """
    return re.sub(r"(?<![\w-])--[a-z]+(?:-[a-z]+)*", lambda m: _WORDS.get(m[0], m[0]), in_options(message))


def _options(said: Mapping[str, Any], folder: Path) -> ModelOptions:
    """The options of a command line, with everything that is no file written into the folder."""
    model = model_file(said["model"], folder)
    found = dict(said, model=model, steps=tuple(said["steps"]), formats=_texts(said["formats"], "formats"))
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


def _texts(value: str | Sequence[str], what: str) -> tuple[str, ...]:
    found = (value,) if isinstance(value, str) else tuple(value)
    if not all(isinstance(v, str) for v in found):
        raise InputError(f"{what} {value!r}: give a text, or a list of texts")
    return found


def _duration(value: str | timedelta) -> timedelta:
    try:
        found = value if isinstance(value, timedelta) else parse_duration(value)
    except (ValueError, TypeError) as error:
        raise InputError(f"timeout: {error}") from None
    if found <= timedelta(0):
        raise InputError(f"timeout {value}: give more than nothing, such as 30m")
    return found
