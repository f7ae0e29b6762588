"""Quality of a model file, with 95 % intervals, against labels or as agreement with the source.

The data streams through in batches; of the source's answers one number a sample is kept (or, where agreement needs
the whole answer, a file in the work folder), so memory does not grow with the size of the answers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgemodel_api.edgemodel import Metric, ValidationData
from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted
from edgemodel_api.report import QualityBasis, QualityKind

from .f1 import f1_drop, f1_interval
from .intervals import Floats, Interval, Z, mean_interval, paired_difference
from .metrics import Array, Judge, agreement_judge, check_labels, class_labels, label_judge, predicted_class
from .runner import BATCH_ROWS, Arrays, Batches, Run, answers, batch_rows

Mask = npt.NDArray[np.bool_]

#: Under this, the source's quality counts as this: a relative drop must not divide by zero.
QUALITY_FLOOR = 1e-12
#: Fewer samples may well be of one class.
CLASS_SAMPLES = 8


@dataclass(frozen=True)
class Quality:
    """One model's quality, and its drop relative to the source.

    Attributes:
        value: the metric.
        low: lower end of its 95 % interval.
        high: upper end.
        drop: (source − this) / |source|; for MeanSquaredError (this − source) / |source|: positive is always worse.
        drop_low: lower end of the drop's interval; paired over the same samples, so it is narrower than `low`, `high`.
        drop_high: upper end.
    """

    value: float
    low: float
    high: float
    drop: float
    drop_low: float
    drop_high: float

    @property
    def drop_half_width(self) -> float:
        """How exactly the drop is known."""
        return (self.drop_high - self.drop_low) / 2


class Evaluator:
    """Judges models beside one source on one dataset. The source's answers are computed once, here."""

    def __init__(
        self,
        source: Run,
        data: Batches,
        *,
        validation: ValidationData | None,
        work_dir: Path,
        fixed_batch: int | None = None,
        seed: int = 0,
        lanes: int = 1,
        most_rows: int = BATCH_ROWS,
    ) -> None:
        """Runs the source over all the data.

        Args:
            source: the source model.
            data: validation data; without any, what there is (calibration, synthetic).
            validation: output, metric and k; `labels` are used where the data has them.
            work_dir: for the source's answers, where they are kept whole.
            fixed_batch: the model's batch where that is a fixed number.
            seed: of the bootstrap.
            lanes: so many runs of the source at a time.
            most_rows: of one run.

        Raises:
            InputError: no data, an unknown output, labels that do not fit, a source that answers NaN, or one whose
                quality is 0.
        """
        if data.samples < 1:
            raise InputError("the validation data holds no samples: give at least one, better 1000")
        self._data = data
        self._seed = seed
        self._spool = work_dir / "source-answers.bin"
        self._rows = batch_rows(source, data, fixed=fixed_batch, most=most_rows)
        self._fixed = fixed_batch
        probe = source(next(iter(data.batches(self._rows))))
        self._output = _output_name(probe, validation)
        self._labels = data.labels
        self.judge = self._choose(probe[self._output], validation)
        self._margins: Floats | None = None
        self._answers: set[object] = set()
        #: A first answer, for its type and its number of classes.
        self.example = probe[self._output]
        self._source = self._source_rows(source, lanes)
        #: What the numbers mean.
        self.basis = QualityBasis(
            kind=QualityKind.AGREEMENT if self.judge.agreement else QualityKind.LABELS,
            metric=self.judge.name,
            samples=len(self._source),
            higher_is_better=self.judge.higher_is_better,
        )
        #: The yardstick.
        self.source_quality = self._quality(self._source, np.ones(len(self._source), dtype=bool))
        self._check_yardstick()

    @property
    def samples(self) -> int:
        """How many samples are judged."""
        return len(self._source)

    @property
    def output(self) -> str:
        """The output that is judged."""
        return self._output

    @property
    def labels(self) -> Array | None:
        """Of the samples that are judged."""
        return None if self._labels is None else np.asarray(self._labels)[: self.samples]

    @property
    def one_answer(self) -> object | None:
        """The class that the source gives for all samples; None: it gives several, or the metric reads no classes."""
        return next(iter(self._answers)) if len(self._answers) == 1 else None

    @property
    def one_label(self) -> object | None:
        """The class that all samples are labelled with; None: there are several, or no classes are compared with labels."""
        if self.labels is None or self.judge.agreement or not self.judge.reads_classes:
            return None
        if self.labels.size > self.samples and (np.count_nonzero(self.labels, axis=-1) != 1).any():
            return None  # several classes a sample, or one at each position: of none it can be said that it is the one
        found = np.unique(class_labels(self.labels, self.example)).tolist()
        return found[0] if len(found) == 1 else None

    def evaluate(self, model: Run, *, one_by_one: bool = False) -> Quality:
        """Quality of a candidate on all samples.

        Args:
            model: the candidate.
            one_by_one: rows alone, as a server gets them: for dynamic quantization, whose ranges are the batch's.

        Raises:
            InputError: the model fails on the data, answers NaN, or answers with another shape.
        """
        everything = np.ones(self.samples, dtype=bool)
        return self.quality(self.judge_rows(model, everything, one_by_one=one_by_one), everything)

    @property
    def rows(self) -> int:
        """How many rows one run may get: their answers are those of single rows."""
        return self._rows

    def screen(self, wanted: int) -> Mask:
        """About `wanted` samples for a first look, shape [samples]; all where there are fewer than twice that.

        Where answers have margins, those on which the source is least sure: an answer that compression changes is
        among them first. Else random ones, the same for the same seed.
        """
        unit = self._fixed or 1
        if self.samples < 2 * wanted:
            return np.ones(self.samples, dtype=bool)
        if self._margins is None:
            order = np.random.default_rng(self._seed).permutation(self.samples // unit)
        else:
            order = np.argsort(self._margins.reshape(-1, unit).min(axis=1), kind="stable")
        return np.isin(np.arange(self.samples) // unit, order[: max(1, wanted // unit)])

    def over(self, quality: Quality, limit: float) -> bool:
        """Whether a first look settles that the drop is above `limit`: the rest can hardly take it back."""
        return (quality.drop if self._margins is not None else quality.drop_low) > limit

    def judge_rows(self, model: Run, chosen: Mask, *, one_by_one: bool = False, lanes: int = 1) -> Array:
        """One number (or class) for each chosen sample, for `quality`.

        Args:
            model: the candidate.
            chosen: shape [samples].
            one_by_one: as for `evaluate`.
            lanes: so many runs at a time; the numbers are the same.

        Raises:
            InputError: as `evaluate`.
        """
        rows = self._fixed or (1 if one_by_one else self._rows)
        requests = _chosen(self._batches(rows), chosen)
        return np.concatenate(list(self._judged(answers(model, requests, lanes), self._truths(chosen))))

    def quality(self, rows: Array, chosen: Mask) -> Quality:
        """What `judge_rows` gave, beside the source.

        Of samples chosen by their margin, the others count as unchanged; else only the chosen ones count.
        """
        if self._margins is None or chosen.all():
            return self._quality(rows, chosen)
        full = self._source.astype(np.result_type(self._source, rows))
        full[chosen] = rows
        return self._quality(full, np.ones(self.samples, dtype=bool))

    def apart(self, rows: Array, chosen: Mask) -> Quality:
        """As `quality`, of the chosen samples alone: nothing is taken for granted of the others."""
        return self._quality(rows, chosen)

    @property
    def unit(self) -> int:
        """Rows of one request: the model's batch where that is a fixed number, else 1."""
        return self._fixed or 1

    def requests(self, chosen: Mask) -> Iterator[Arrays]:
        """The chosen samples as single requests of `unit` rows, in order.

        Args:
            chosen: shape [samples]; whole units, as `screen` gives them.
        """
        for index, feeds in enumerate(self._batches(self.unit)):
            if index * self.unit < len(chosen) and chosen[index * self.unit]:
                yield feeds

    def _batches(self, rows: int) -> Iterator[Arrays]:
        """Of the data; a model that insists on its batch is spared the remainder."""
        for feeds in self._data.batches(rows):
            if self._fixed is None or len(next(iter(feeds.values()))) == self._fixed:
                yield feeds

    def samples_needed(self, quality: Quality, budget: float) -> int | None:
        """About how many samples would pin the drop down to ± `budget`; None: no number would (a budget of 0)."""
        if budget <= 0:
            return None
        n = len(self._source)
        return math.ceil(n * max(1.0, (quality.drop_half_width / budget) ** 2)) if n > 1 else math.ceil(Z / budget)

    def _choose(self, output: Array, validation: ValidationData | None) -> Judge:
        if self._labels is not None and validation is not None:
            return label_judge(validation.metric, validation.k)
        return agreement_judge(output, validation.metric if validation is not None else None)

    def _source_rows(self, source: Run, lanes: int) -> Array:
        kept: list[Array] = []
        margins: list[Floats] = []
        squares: list[Floats] = []
        offset = 0
        with self._spool.open("wb") as spool:
            sized, requests = itertools.tee(self._batches(self._rows))
            sizes = (len(next(iter(feeds.values()))) for feeds in sized)
            for outputs, size in zip(answers(source, requests, lanes), sizes, strict=True):
                output = outputs[self._output]
                self._check_rows(output, size)
                if _has_nan(output):
                    raise InputError(
                        f"the source model answers NaN for samples {offset} to {offset + len(output) - 1}: no quality"
                        " can be measured; check the model and the data (values, scaling)"
                    )
                # Of TopK the first of the k may be one class, and the others not.
                if self.judge.reads_classes and self.judge.metric is not Metric.TOPK and len(self._answers) < 2:
                    self._answers.update(np.unique(predicted_class(output)).tolist())
                if self.judge.agreement:
                    np.save(spool, _plain(self.judge.keep(output)), allow_pickle=False)
                    kept.append(np.ones(len(output)))
                    square = self.judge.squares(output)
                    squares += [] if square is None else [square]
                else:
                    labels = np.asarray(self._labels)[offset : offset + len(output)]
                    check_labels(self.judge, labels, output)
                    kept.append(self.judge.rows(output, labels))
                offset += len(output)
                margin = self.judge.margins(output)
                margins += [] if margin is None else [margin]
        if margins:
            self._margins = np.concatenate(margins)
        if squares:
            self.judge = self.judge.with_floor(np.concatenate(squares))
        if not kept:
            raise InputError(
                f"the model takes {self._fixed} samples at a time and the validation data has {self._data.samples}: give more"
            )
        return np.concatenate(kept)

    def _check_yardstick(self) -> None:
        """A drop is relative to the source's quality: of 0 nothing can be lost (or, as an error, everything is)."""
        if abs(self.source_quality.value) > QUALITY_FLOOR:
            return
        found = f"the source's {self.judge.name} is 0 on {counted(self.samples, 'sample')}"
        if self.judge.higher_is_better:
            raise InputError(
                f"{found}, so no drop of quality could be seen: data.validation.labels do not belong to output"
                f" {self._output!r} (another order or offset of the classes? other samples?): correct them, or name the"
                " output in data.validation.output"
            )
        raise InputError(
            f"{found}, so the labels are its own answers and no drop can be relative to it: leave"
            " data.validation.labels out to measure the agreement with the source"
        )

    def _check_rows(self, output: Array, rows: int) -> None:
        if output.ndim == 0 or len(output) != rows:
            raise InputError(
                f"output {self._output!r} has shape {list(output.shape)} for {counted(rows, 'sample')}: quality is"
                " judged sample by sample, so its first axis must be the samples; name another output in"
                " data.validation.output, or export the model without what joins or multiplies samples"
            )

    def _truths(self, chosen: Mask) -> Iterator[Array]:
        """What the chosen rows are judged by, in arbitrary pieces: the caller cuts them to its own batches."""
        if not self.judge.agreement:
            yield np.asarray(self._labels)[: len(chosen)][chosen]
            return
        offset = 0
        with self._spool.open("rb") as spool:
            size = self._spool.stat().st_size
            while spool.tell() < size:
                piece = np.load(spool, allow_pickle=False)
                yield piece[chosen[offset : offset + len(piece)]]
                offset += len(piece)

    def _judged(self, found: Iterator[dict[str, Array]], truths: Iterator[Array]) -> Iterator[Array]:
        pending: Array = next(truths)
        for outputs in found:
            output = outputs.get(self._output)
            if output is None:
                raise InputError(f"the compressed model has lost its output {self._output!r}")
            if _has_nan(output):
                raise InputError(f"the compressed model answers NaN in output {self._output!r}")
            while len(pending) < len(output):
                more = next(truths, None)
                if more is None:
                    raise InputError(f"output {self._output!r} has another number of rows than the source's")
                pending = np.concatenate([pending, more])
            truth, pending = pending[: len(output)], pending[len(output) :]
            if self.judge.agreement and self.judge.keep(output).shape != truth.shape:
                raise InputError(f"output {self._output!r} has shape {list(output.shape)}, unlike the source's")
            yield self.judge.rows(output, truth)

    def _quality(self, rows: Array, chosen: Mask) -> Quality:
        beside = self._source[chosen]
        if self.judge.metric is Metric.F1 and not self.judge.agreement:
            labels = np.asarray(self._labels)[: len(chosen)][chosen].reshape(-1)
            value = f1_interval(labels, rows, seed=self._seed)
            base = f1_interval(labels, beside, seed=self._seed).value
            difference = f1_drop(labels, beside, rows, seed=self._seed)
        else:
            source: Floats = beside.astype(np.float64)
            value = _clip(mean_interval(rows.astype(np.float64)), self.judge)
            base = float(source.mean())
            first, second = (source, rows) if self.judge.higher_is_better else (rows, source)
            difference = paired_difference(first.astype(np.float64), second.astype(np.float64))
        scale = max(abs(base), QUALITY_FLOOR)
        return Quality(
            value.value,
            value.low,
            value.high,
            difference.value / scale,
            difference.low / scale,
            difference.high / scale,
        )


def class_warning(evaluator: Evaluator) -> str | None:
    """A sentence for the report where all labels, or all of the source's answers, are of one class, else None."""
    n = evaluator.samples
    if n < CLASS_SAMPLES:
        return None
    if (label := evaluator.one_label) is not None:
        return (
            f"all {n} samples are labelled with class {_class(label)}, so quality says nothing of the other classes: give"
            " samples of all classes in data.validation"
        )
    if (answer := evaluator.one_answer) is not None:
        kind = "class " if np.issubdtype(evaluator.example.dtype, np.floating) else ""
        other = "samples of all classes, " if evaluator.labels is None else ""
        return (
            f"the source answers {kind}{_class(answer)} for all {n} samples, and a model that always does would lose"
            f" nothing, so quality says little: give {other}data in data.validation that is prepared as for the model's"
            " training"
        )
    return None


def _class(value: object) -> str:
    """1.0 and True are class 1; a text in quotes."""
    return f"{value:g}" if isinstance(value, (bool, int, float)) else repr(value)


def label_warning(evaluator: Evaluator) -> str | None:
    """A sentence for the report where the source is right less often than one constant answer, else None."""
    labels = evaluator.labels
    if labels is None or evaluator.judge.agreement or evaluator.judge.metric is not Metric.TOP1:
        return None
    if evaluator.one_label is not None and class_warning(evaluator) is not None:
        return None
    flat = class_labels(labels, evaluator.example).reshape(-1)
    _, counts = np.unique(flat, return_counts=True)
    share, value = float(counts.max()) / len(flat), evaluator.source_quality.value
    if value >= share:
        return None
    return (
        f"the source's Top1 is {value:.2%}, and always answering the most frequent label would give {share:.2%}: do the"
        " labels belong to this output (order or offset of the classes, other samples)? A drop from so little says little"
    )


def sample_warning(evaluator: Evaluator, quality: Quality, budget: float, name: str) -> str | None:
    """A sentence for the report where the drop is known less exactly than the budget asks for, else None."""
    if quality.drop_half_width <= budget:
        return None
    needed = evaluator.samples_needed(quality, budget)
    advice = (
        f"about {counted(needed, 'sample')} would settle it"
        if needed is not None
        else "no number of samples can settle a budget of 0 %"
    )
    return (
        f"{counted(evaluator.basis.samples, 'sample tells', 'samples tell')} the quality drop of {name} only to within"
        f" ±{quality.drop_half_width:.2%}, wider than maxQualityDrop {budget:.2%}: {advice}"
    )


def _chosen(batches: Iterator[Arrays], chosen: Mask) -> Iterator[Arrays]:
    """Only the chosen rows, which may make batches smaller (never those of a fixed size: see `Evaluator.sample`)."""
    offset = 0
    for feeds in batches:
        size = len(next(iter(feeds.values())))
        keep = chosen[offset : offset + size]
        offset += size
        if keep.all():
            yield feeds
        elif keep.any():
            yield {name: a[keep] for name, a in feeds.items()}


def _output_name(outputs: dict[str, Array], validation: ValidationData | None) -> str:
    names = list(outputs)
    wanted = validation.output if validation is not None else None
    if wanted is not None and wanted not in names:
        raise InputError(f"data.validation.output is {wanted!r}, but the model's outputs are {', '.join(names)}")
    return wanted or names[0]


def _clip(interval: Interval, judge: Judge) -> Interval:
    """Ends of a normal interval, kept within what the metric can be."""
    low, high = (0.0, math.inf) if not judge.higher_is_better else (-1.0 if judge.metric is Metric.COSINE else 0.0, 1.0)
    return Interval(interval.value, max(low, interval.low), min(high, interval.high))


def _has_nan(output: Array) -> bool:
    return bool(np.issubdtype(output.dtype, np.inexact) and np.isnan(output).any())


def _plain(array: Array) -> npt.NDArray[np.generic]:
    """Strings as fixed-width ones: numpy writes objects as pickles only."""
    return array.astype(str) if array.dtype == object else array
