"""One number (or predicted class) per sample, from a batch of outputs and what they are judged by. Pure.

Top1, TopK and F1 read the last axis of the output as scores of classes. A last axis of one is the probability of
class 1 (threshold 0.5); integer or string outputs are taken as the predicted class itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from edgemodel_api.edgemodel import Metric
from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted
from edgemodel_oci.golden import NORM_FLOOR, classifier_like, nothing_below

from .intervals import Floats

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Judge:
    """How rows are made. `agreement`: against the source's outputs; else against labels.

    Attributes:
        name: what the report calls it.
        metric: how one row is judged.
        k: for TopK.
        floor: norm of an answer that is as good as none: its direction, and what it is off by, are noise. (A detector
            that finds nothing answers with numbers near 0, whose cosine says nothing.) See `with_floor`.
    """

    name: str
    metric: Metric
    k: int = 1
    agreement: bool = False
    floor: float = 0.0

    @property
    def higher_is_better(self) -> bool:
        """False for MeanSquaredError against labels only; agreement is always a closeness."""
        return self.agreement or self.metric is not Metric.MEAN_SQUARED_ERROR

    @property
    def reads_classes(self) -> bool:
        """Whether answers are read as classes."""
        return self.metric in (Metric.TOP1, Metric.TOPK, Metric.F1)

    def keep(self, output: Array) -> Array:
        """What has to be kept of the source's output to judge others by it: classes if they suffice, else all."""
        return predicted_class(output) if self.metric is Metric.TOP1 else output

    def rows(self, output: Array, truth: Array) -> Array:
        """Per sample: shape [batch].

        Args:
            output: of the model, [batch, …].
            truth: labels [batch, …], or what `keep` returned for the source.
        """
        match self.metric:
            case Metric.TOP1:
                return _share_equal(predicted_class(output), class_labels(truth, output))
            case Metric.TOPK:
                return _in_top(output, class_labels(truth, output), self.k)
            case Metric.F1:
                return predicted_class(output).reshape(-1)
            case Metric.COSINE:
                return _cosine(output, truth, self.floor)
            case Metric.MEAN_SQUARED_ERROR:
                return _closeness(output, truth, self.floor) if self.agreement else _squared_error(output, truth)

    def squares(self, output: Array) -> Floats | None:
        """Squared norm of each sample's answer, shape [batch], where `with_floor` needs it."""
        norms = self.agreement and self.metric in (Metric.COSINE, Metric.MEAN_SQUARED_ERROR)
        return np.asarray((_per_sample(output) ** 2).sum(axis=1)) if norms else None

    def with_floor(self, squares: Floats) -> Judge:
        """The same, to which answers much smaller than the source's usual ones are nothing.

        Args:
            squares: of all the source's answers.
        """
        return replace(self, floor=nothing_below(squares))

    def margins(self, output: Array) -> Floats | None:
        """How far each sample's answer is from another one: shape [batch]; None: the metric knows no such thing.

        The gap between the scores that decide (first and second class; the k-th and the next), the smallest where a
        sample has several answers. Compression flips answers with a small gap first.
        """
        if not self.reads_classes or not np.issubdtype(output.dtype, np.floating):
            return None
        if output.ndim < 2 or output.shape[-1] == 1:
            return np.asarray(_per_sample(np.abs(output.astype(np.float64) - 0.5)).min(axis=1))
        k = self.k if self.metric is Metric.TOPK else 1
        if output.shape[-1] <= k:
            return None
        top = -np.partition(-output.astype(np.float64), (k - 1, k), axis=-1)
        return np.asarray(_per_sample(top[..., k - 1] - top[..., k]).min(axis=1))


def label_judge(metric: Metric, k: int) -> Judge:
    """Against labels."""
    return Judge(name=f"Top{k}" if metric is Metric.TOPK else metric.value, metric=metric, k=k)


def agreement_judge(output: Array, wanted: Metric | None) -> Judge:
    """Against the source: the same arg max where the output is a classifier's, unless another metric was asked for.

    Cosine, when asked for, is the cosine of both outputs; everything else, and every output that is no
    classifier's, is 1 − ‖candidate − source‖₂ / ‖source‖₂ per sample, at least 0 (`Closeness`).
    """
    if wanted is Metric.COSINE and np.issubdtype(output.dtype, np.number):
        return Judge(name="Cosine", metric=Metric.COSINE, agreement=True)
    discrete = not np.issubdtype(output.dtype, np.floating)
    if discrete or (wanted is not Metric.MEAN_SQUARED_ERROR and classifier_like(output)):
        return Judge(name="SameAnswer" if discrete else "SameArgMax", metric=Metric.TOP1, agreement=True)
    return Judge(name="Closeness", metric=Metric.MEAN_SQUARED_ERROR, agreement=True)


def predicted_class(output: Array) -> Array:
    """[batch, …, classes] → [batch, …]."""
    if not np.issubdtype(output.dtype, np.floating):
        text = output.astype(str) if output.dtype == object else output
        return text[:, 0] if text.ndim == 2 and text.shape[1] == 1 else text
    if output.ndim < 2 or output.shape[-1] == 1:
        flat = (output[..., 0] if output.ndim >= 2 else output).astype(np.float64)
        return np.asarray(flat > 0.5).astype(np.int64)
    return np.asarray(np.argmax(output, axis=-1))


def class_labels(labels: Array, output: Array) -> Array:
    """Labels as classes: [batch, 1] is flattened, one-hot [batch, classes] becomes its arg max."""
    classes = output.shape[-1] if output.ndim >= 2 else 1
    one_hot = labels.ndim == output.ndim and labels.ndim >= 2 and labels.shape[-1] == classes > 1
    if one_hot and np.issubdtype(output.dtype, np.floating):
        return np.asarray(np.argmax(labels, axis=-1))
    if labels.ndim >= 2 and labels.shape[-1] == 1:
        return labels[..., 0]
    return labels


def check_labels(judge: Judge, labels: Array, output: Array) -> None:
    """Whether these labels can judge this output (both a first batch).

    Raises:
        InputError: shapes or types do not go together, or a label names no class of the output.
    """
    if judge.metric in (Metric.COSINE, Metric.MEAN_SQUARED_ERROR):
        if not np.issubdtype(labels.dtype, np.number) or not np.issubdtype(output.dtype, np.number):
            raise InputError(f"metric {judge.name} needs numbers: labels are {labels.dtype}, the output {output.dtype}")
        if labels[0].size != output[0].size:
            raise InputError(
                f"labels have {counted(labels[0].size, 'number')} a sample and the output {output[0].size}: metric"
                f" {judge.name} needs the same; name the output to judge in data.validation.output"
            )
        return
    _check_classes(judge, class_labels(labels, output), output)


def _check_classes(judge: Judge, labels: Array, output: Array) -> None:
    predicted = predicted_class(output)
    if labels.shape != predicted.shape:
        raise InputError(
            f"labels have shape {list(labels.shape)} for a batch whose predicted classes have shape"
            f" {list(predicted.shape)}: give one class a sample, or name the output in data.validation.output"
        )
    if judge.metric is Metric.F1 and predicted.ndim != 1:
        raise InputError(f"metric F1 needs one class a sample; the output gives {list(predicted.shape[1:])}")
    scored = np.issubdtype(output.dtype, np.floating)
    if judge.metric is Metric.TOPK and not (scored and output.ndim == 2 and output.shape[1] > judge.k):
        raise InputError(
            f"metric TopK with k={judge.k} needs an output [samples, classes] with more than"
            f" {counted(judge.k, 'class', 'classes')}; it is {output.dtype} {list(output.shape)}: use Top1, or a"
            " smaller k"
        )
    if not scored:
        return
    if labels.dtype.kind not in "biuf":
        raise InputError(f"metric {judge.name} needs the numbers of classes as labels; they are {labels.dtype}")
    numbers = labels.astype(np.float64)
    classes = max(2, output.shape[-1] if output.ndim >= 2 else 2)
    wrong = numbers[~((numbers >= 0) & (numbers < classes) & (numbers == np.floor(numbers)))]
    if wrong.size:
        raise InputError(
            f"data.validation.labels: a label is {wrong[0]:g}, but the output has {classes} classes, 0 to {classes - 1}:"
            " number them from 0, or name the output that they are of"
        )


def _per_sample(values: Array) -> Floats:
    return values.astype(np.float64).reshape(len(values), -1)


def _share_equal(predicted: Array, truth: Array) -> Floats:
    if predicted.dtype.kind in "OU" or truth.dtype.kind in "OU":
        predicted, truth = predicted.astype(str), truth.astype(str)
    return np.asarray(_per_sample(np.asarray(predicted == truth)).mean(axis=1))


def _in_top(output: Array, truth: Array, k: int) -> Floats:
    # Stable order: among equal scores the lower class wins, as arg max does.
    order = np.argsort(-output.astype(np.float64), axis=-1, kind="stable")[..., :k]
    return np.asarray((order == truth[..., None].astype(np.int64)).any(axis=-1).astype(np.float64))


def _cosine(output: Array, truth: Array, floor: float) -> Floats:
    """Of both, each with one more coordinate of size `floor`: two answers that are nothing are the same."""
    a, b, more = _per_sample(output), _per_sample(truth), floor**2
    norms = np.sqrt(((a * a).sum(axis=1) + more) * ((b * b).sum(axis=1) + more))
    return np.asarray(((a * b).sum(axis=1) + more) / np.maximum(norms, NORM_FLOOR))


def _squared_error(output: Array, truth: Array) -> Floats:
    return np.asarray(((_per_sample(output) - _per_sample(truth)) ** 2).mean(axis=1))


def _closeness(output: Array, truth: Array, floor: float) -> Floats:
    a, b = _per_sample(output), _per_sample(truth)
    error = np.linalg.norm(a - b, axis=1) / np.maximum(np.linalg.norm(b, axis=1), max(floor, NORM_FLOOR))
    return np.asarray(np.maximum(0.0, 1.0 - error))
