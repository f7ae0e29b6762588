"""The first look at quality: which samples, and what follows from them."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemodel_api.edgemodel import Metric, ValidationData
from edgemodel_api.errors import InputError
from edgemodel_compressor.evaluate import quality as quality_module
from edgemodel_compressor.evaluate.metrics import Judge, label_judge
from edgemodel_compressor.evaluate.quality import Evaluator, class_warning, label_warning, sample_warning


class Data:
    """Rows whose answers are the rows themselves."""

    def __init__(self, scores, labels):
        self.scores, self.labels, self.samples = scores.astype(np.float32), labels, len(scores)

    def batches(self, size):
        for i in range(0, self.samples, size):
            yield {"x": self.scores[i : i + size]}

    def take(self, n, seed):
        return {"x": self.scores[:n]}


def identity(feeds):
    return {"y": feeds["x"]}


def shifted(noise):
    """Adds something to the score of class 0."""
    return lambda feeds: {"y": feeds["x"] + np.array([noise, 0, 0], np.float32)}


@pytest.fixture
def evaluator(tmp_path):
    def make(scores, labels, metric="Top1", fixed=None):
        validation = ValidationData(uri="file:x", labels="y" if labels is not None else None, metric=metric, k=2)
        return Evaluator(
            identity, Data(scores, labels), validation=validation, work_dir=tmp_path, fixed_batch=fixed, seed=0
        )

    return make


def scores(n=600, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 3))


@pytest.mark.parametrize("labelled", [True, False], ids=["labels", "agreement"])
@pytest.mark.parametrize("noise", [0.0, 0.02, 0.3])
def test_the_first_look_sees_every_answer_that_changes(evaluator, labelled, noise):
    some = scores()
    judged = evaluator(some, some.argmax(axis=1) if labelled else None)
    chosen = judged.screen(150)
    assert 150 <= chosen.sum() < 300
    rows = judged.judge_rows(shifted(noise), chosen)
    first, full = judged.quality(rows, chosen), judged.evaluate(shifted(noise))
    # 0.3 moves answers beyond the first look too; small changes are all in it.
    assert first.drop <= full.drop + 1e-12
    if noise < 0.1:
        assert first == full


def test_over_is_what_the_first_look_settles(evaluator):
    some = scores()
    judged = evaluator(some, some.argmax(axis=1))
    chosen = judged.screen(150)
    bad = judged.quality(judged.judge_rows(shifted(0.5), chosen), chosen)
    assert judged.over(bad, 0.001)
    assert not judged.over(judged.quality(judged.judge_rows(identity, chosen), chosen), 0.0)


def test_few_samples_are_all_looked_at(evaluator):
    assert evaluator(scores(200), None).screen(150).all()


def test_a_fixed_batch_is_looked_at_whole(evaluator):
    chosen = evaluator(scores(600), None, fixed=4).screen(150).reshape(-1, 4)
    assert (chosen.all(axis=1) | ~chosen.any(axis=1)).all()


def test_metrics_without_margins_take_random_samples(evaluator):
    # Labels one off: a source with an error of 0 is no yardstick.
    judged = evaluator(scores(), scores() - 1, metric="MeanSquaredError")
    chosen = judged.screen(150)
    assert chosen.sum() == 150
    assert (chosen == judged.screen(150)).all()
    quality = judged.quality(judged.judge_rows(shifted(1.0), chosen), chosen)
    assert quality.value == pytest.approx((4 + 1 + 1) / 3, rel=1e-5)


@settings(deadline=None)
@given(st.integers(2, 6), st.integers(1, 5), st.integers(0, 99))
def test_no_change_below_half_the_margin_changes_the_answer(classes, rows, seed):
    rng = np.random.default_rng(seed)
    output = rng.normal(size=(rows, classes))
    for judge in (label_judge(Metric.TOP1, 1), label_judge(Metric.TOPK, min(2, classes - 1))):
        margins = judge.margins(output)
        noise = rng.uniform(-1, 1, size=output.shape) * margins[:, None] * 0.499
        k = judge.k if judge.metric is Metric.TOPK else 1
        for before, after in zip(output, output + noise, strict=True):
            assert set(np.argsort(-before)[:k]) == set(np.argsort(-after)[:k])


def test_margins_of_other_outputs():
    top1 = Judge("Top1", Metric.TOP1)
    assert top1.margins(np.array([[0.9], [0.4]])).tolist() == pytest.approx([0.4, 0.1])
    assert top1.margins(np.array([1, 2])) is None
    assert label_judge(Metric.TOPK, 3).margins(np.zeros((2, 3))) is None
    assert Judge("Cosine", Metric.COSINE).margins(np.zeros((2, 3))) is None


SHAPES = {
    "a number": lambda x: x.mean(),
    "samples joined": lambda x: x.reshape(-1),
    "samples doubled": lambda x: np.concatenate([x, x]),
}


@pytest.mark.parametrize("labels", [None, np.zeros(8, np.int64)], ids=["agreement", "labels"])
@pytest.mark.parametrize("answer", SHAPES.values(), ids=SHAPES)
def test_an_output_without_a_row_for_each_sample_is_bad_input(tmp_path, answer, labels):
    validation = ValidationData(uri="file:x", labels=None if labels is None else "y")
    with pytest.raises(InputError, match=r"output 'y' has shape .* its first axis must be the samples"):
        Evaluator(
            lambda f: {"y": np.asarray(answer(f["x"]))},
            Data(scores(8), labels),
            validation=validation,
            work_dir=tmp_path,
        )


USELESS = {
    "no label is right": (
        "Top1",
        lambda s: (s.argmax(axis=1) + 1) % 3,
        r"Top1 is 0 on 60 samples.*do not belong to output",
    ),
    "labels are the answers": ("MeanSquaredError", lambda s: s.astype(np.float32), r"Error is 0 .*leave .*labels out"),
    "labels of length 0": ("Cosine", np.zeros_like, r"Cosine is 0 on 60 samples"),
}


@pytest.mark.parametrize(("metric", "labels", "message"), USELESS.values(), ids=USELESS)
def test_a_source_without_quality_is_no_yardstick(evaluator, metric, labels, message):
    """Any candidate would keep a budget relative to nothing."""
    with pytest.raises(InputError, match=message):
        evaluator(scores(60), labels(scores(60)), metric=metric)


def test_a_source_worse_than_a_constant_is_doubted(evaluator):
    given = scores(60)
    right = given.argmax(axis=1)
    assert label_warning(evaluator(given, right)) is None
    off = np.where(np.arange(60) < 5, right, (right + 1) % 3)
    assert re.search(r"Top1 is 8.33%.* would give \d\d.\d\d%", label_warning(evaluator(given, off)))
    assert label_warning(evaluator(given, None)) is None


def of_class(one, n):
    """Scores of which class `one` is always the largest."""
    found = scores(n)
    found[:, one] += 100
    return found


@pytest.mark.parametrize("metric", ["Top1", "TopK", "F1"])
def test_labels_of_one_class_are_told(evaluator, metric):
    given = scores(60)
    labels = np.full(60, 2)
    words = r"^all 60 samples are labelled with class 2, .* give samples of all classes in data.validation$"
    assert re.search(words, class_warning(evaluator(given, labels, metric=metric)))
    assert label_warning(evaluator(given, labels, metric=metric)) is None
    labels[7] = 0
    assert class_warning(evaluator(given, labels, metric=metric)) is None
    assert class_warning(evaluator(given[:7], np.full(7, given[0].argmax()), metric=metric)) is None


@pytest.mark.parametrize("labelled", [True, False], ids=["labels", "agreement"])
def test_a_source_that_always_answers_the_same_is_told(evaluator, labelled):
    labels = np.arange(60) % 3 if labelled else None
    words = r"^the source answers class 1 for all 60 samples, and a model that always does would lose nothing, .* give"
    assert re.search(words, class_warning(evaluator(of_class(1, 60), labels)))
    mixed = of_class(1, 60)
    mixed[59, 0] += 1000
    assert class_warning(evaluator(mixed, labels)) is None
    assert class_warning(evaluator(of_class(1, 7), None if labels is None else labels[:7])) is None


@pytest.mark.parametrize(
    ("metric", "labels"), [("MeanSquaredError", None), ("Cosine", None), ("Cosine", of_class(1, 60))]
)
def test_where_no_classes_are_read_one_class_is_nothing_to_tell(evaluator, metric, labels):
    found = class_warning(evaluator(of_class(1, 60), labels, metric=metric))
    assert found is None


def test_one_class_first_is_not_all_of_top_k(evaluator):
    assert class_warning(evaluator(of_class(1, 60), np.arange(60) % 3, metric="TopK")) is None


def test_several_labels_a_sample_are_not_of_one_class(evaluator):
    for row, told in (([1, 0, 1], False), ([1, 0, 0], True)):
        found = class_warning(evaluator(of_class(0, 60), np.tile(row, (60, 1))))
        assert ("labelled with class 0" in found) == told


@pytest.mark.parametrize(("value", "text"), [(1.0, "1"), (True, "1"), (7, "7"), ("", "''"), ("cat", "'cat'")])
def test_classes_are_told_as_people_write_them(value, text):
    assert quality_module._class(value) == text


def test_a_count_of_one_is_no_plural(evaluator):
    judged = evaluator(scores(1), None)
    quality = replace(judged.source_quality, drop_low=-1.0, drop_high=1.0)
    assert sample_warning(judged, quality, 0.5, "int8").startswith("1 sample tells the quality drop of int8")
