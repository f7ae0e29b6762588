"""Real models in every encoding: size, agreement, and the same answers from an old runtime."""

from __future__ import annotations

import collections
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgemodel_compressor.evaluate.runner import runner
from edgemodel_compressor.formats import tflite
from edgemodel_compressor.formats.onnx_model import open_session
from edgemodel_compressor.formats.tflite import schema
from edgemodel_compressor.formats.tflite.lower import lower

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

#: (encoding, its size over the float ONNX file's at most, relative error at most).
DIGITS = (("float32", 1.02, 1e-5), ("float16", 0.55, 1e-3), ("int8-weights", 0.33, 0.02), ("int8-full", 0.36, 0.05))
MAGIKA = (("float32", 1.02, 1e-5), ("float16", 0.52, 1e-3), ("int8-weights", 0.28, 0.02), ("int8-full", 0.28, 0.15))


def _answers(model, rows):
    run = runner(open_session(model.SerializeToString()))
    count = len(next(iter(rows.values())))
    parts = [run({n: a[i : i + 1] for n, a in rows.items()}) for i in range(count)]
    return {n: np.concatenate([p[n] for p in parts]) for n in parts[0]}


def _error(got, want):
    return max(float(np.linalg.norm(got[n] - want[n]) / np.linalg.norm(want[n])) for n in want)


def _all(path, rows):
    run = tflite.open_run(path)
    count = len(next(iter(rows.values())))
    parts = [run({n: a[i : i + 1] for n, a in rows.items()}) for i in range(count)]
    return {n: np.concatenate([p[n] for p in parts]) for n in parts[0]}


@pytest.mark.parametrize(("encoding", "share", "error"), DIGITS)
def test_digits(digits, tmp_path, encoding, share, error):
    made = tflite.convert(digits.model, tmp_path / "m.tflite", encoding=encoding, calibration=digits.calibration)
    assert made.size_bytes <= share * digits.model.ByteSize()
    want, got = _answers(digits.model, digits.rows), _all(made.path, digits.rows)
    assert _error(got, want) <= error
    assert digits.top1(got["probabilities"]) >= digits.top1(want["probabilities"]) - 0.005


@pytest.mark.parametrize(("encoding", "share", "error"), MAGIKA)
def test_magika(magika, tmp_path, encoding, share, error):
    assert tflite.unsupported(magika.model) == ()
    made = tflite.convert(magika.model, tmp_path / "m.tflite", encoding=encoding, calibration=magika.calibration)
    assert made.size_bytes <= share * magika.model.ByteSize()
    want, got = _answers(magika.model, magika.rows), _all(made.path, magika.rows)
    assert _error(got, want) <= error
    name = next(iter(want))
    assert magika.top1(got[name]) >= magika.top1(want[name]) - 0.02


def test_a_mobile_network_has_one_transposition(mobile, tmp_path):
    graph = lower(mobile.model).graph
    found = collections.Counter(op.code for op in graph.ops)
    assert found["TRANSPOSE"] == 1
    assert found["DEPTHWISE_CONV_2D"] == 4
    assert not found["RELU6"]  # all in their convolutions
    made = tflite.convert(mobile.model, tmp_path / "m.tflite")
    assert (made.free_batch, made.notes) == (True, ())


@pytest.mark.parametrize("encoding", ["float32", "float16", "int8-weights"])
@pytest.mark.parametrize("name", ["digits", "mobile", "magika"])
def test_the_old_runtime_gives_the_same_answers(old_runtime, request, tmp_path, name, encoding):
    real = request.getfixturevalue(name)
    path = tmp_path / "m.tflite"
    tflite.convert(real.model, path, encoding=encoding, calibration=real.calibration)
    rows = {n: a[:8] for n, a in real.rows.items()}
    assert _error(old_runtime.run(path, rows), _all(path, rows)) <= 1e-4


@pytest.mark.parametrize("name", ["digits", "mobile"])
def test_the_old_runtime_computes_full_int8(old_runtime, request, tmp_path, name):
    """Kernels round in their own ways, so a step of the last scale or two may differ."""
    real = request.getfixturevalue(name)
    path = tmp_path / "m.tflite"
    tflite.convert(real.model, path, encoding="int8-full", calibration=real.calibration)
    rows = {n: a[:8] for n, a in real.rows.items()}
    assert _error(old_runtime.run(path, rows), _all(path, rows)) <= 0.05


def test_basic_pitch_beside_its_own_tflite(basic_pitch, tmp_path):
    """The authors' ONNX converted by us, and the authors' TFLite, on the same sound."""
    model = onnx.load(basic_pitch / "nmp.onnx")
    name = model.graph.input[0].name
    length = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    times = np.arange(length) / 22050
    sound = sum(np.sin(2 * np.pi * f * times) for f in (220.0, 277.2, 329.6)) / 3
    rows = {name: sound.astype(np.float32).reshape(1, length, 1)}
    made = tflite.convert(model, tmp_path / "m.tflite", feeds=rows)
    ours = tflite.run(made.path, rows)
    theirs = _their_answers(basic_pitch / "nmp.tflite", rows[name])
    assert sorted(a.shape for a in ours.values()) == sorted(a.shape for a in theirs)
    for answer in ours.values():
        nearest = min(np.linalg.norm(answer - t) / np.linalg.norm(t) for t in theirs if t.shape == answer.shape)
        assert nearest <= 1e-3


def _their_answers(path: Path, sound: np.ndarray) -> list[np.ndarray]:
    from edgemodel_compressor.formats.tflite.run import interpreter

    found = interpreter(path)
    detail = found.get_input_details()[0]
    found.resize_tensor_input(detail["index"], sound.shape)
    found.allocate_tensors()
    found.set_tensor(detail["index"], sound)
    found.invoke()
    return [found.get_tensor(d["index"]) for d in found.get_output_details()]


def test_others_files_can_be_read(basic_pitch):
    made = schema.parse((basic_pitch / "nmp.tflite").read_bytes())
    codes = {schema.name_of("BuiltinOperator", c.builtinCode) for c in made.operatorCodes}
    assert "CONV_2D" in codes
