"""The digits classifier: the ONNX file says what scikit-learn says, and its manifest names what is written."""

from __future__ import annotations

import warnings

import numpy as np
import onnxruntime as ort
import pytest
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from edgemodel_api import manifest


@pytest.fixture
def prepare(example, monkeypatch, tmp_path):
    module = example("digits", "prepare")
    monkeypatch.setattr(module, "DATA", tmp_path / "data")

    def quickly(pixels, digits):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return MLPClassifier((16, 12), max_iter=6, random_state=0).fit(pixels / 16, digits)

    monkeypatch.setattr(module, "trained", quickly)
    return module


@pytest.mark.parametrize("rows", [1, 7])
def test_onnx_says_what_the_classifier_says(prepare, rows):
    pixels, digits = load_digits(return_X_y=True)
    model = prepare.trained(pixels, digits)
    session = ort.InferenceSession(prepare.to_onnx(model).SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"pixels": pixels[:rows].astype(np.float32)})
    np.testing.assert_allclose(found, model.predict_proba(pixels[:rows] / 16), atol=1e-5)


def test_prepare_writes_the_same_each_time(prepare, capsys):
    assert prepare.main() == 0
    first = {path.name: path.read_bytes() for path in prepare.DATA.iterdir()}
    assert set(first) == {"model.onnx", "calibration.npz", "validation.npz"}
    with np.load(prepare.DATA / "validation.npz") as data:
        assert data["pixels"].shape == (599, 64)
        assert data["pixels"].dtype == np.float32
        assert sorted(set(data["digit"].tolist())) == list(range(10))
    prepare.main()
    assert {path.name: path.read_bytes() for path in prepare.DATA.iterdir()} == first
    assert "599 to validate" in capsys.readouterr().out


def test_manifest_names_its_steps_and_data(examples):
    model = manifest.load((examples / "digits" / "edgemodel.yaml").read_bytes())
    assert model.spec.source.uri == "file:data/model.onnx"
    assert model.spec.data.validation.labels == "digit"
    prune, quantize = model.spec.compression.steps
    assert (prune.prune.method, prune.prune.sparsity) == ("MinAbsolute", "60%")
    assert quantize.quantize.precision == "Int8"
