"""Real models: the same answers as onnxruntime, and gradients for everything that learns."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import magika
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from sklearn.datasets import load_digits

from edgemodel_compressor.training.convert import differentiable, unsupported

ROOT = Path(__file__).parents[3]
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def file_type():
    path = next((Path(magika.__file__).parent / "models").glob("*/model.onnx"))
    return onnx.load(path), {"bytes": np.random.default_rng(0).integers(0, 257, (2, 2048)).astype(np.int32)}


def digits():
    spec = importlib.util.spec_from_file_location("prepare_digits", ROOT / "examples" / "digits" / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    prepare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    pixels, labels = load_digits(return_X_y=True)
    model = prepare.to_onnx(prepare.trained(pixels[:300], labels[:300]))
    return model, {"pixels": pixels[300:316].astype(np.float32)}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("load", [file_type, digits], ids=lambda f: f.__name__)
def test_a_real_model_answers_as_onnxruntime_does(load):
    import jax

    model, feeds = load()
    assert unsupported(model) == ()
    f = differentiable(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    want = session.run(list(f.outputs), feeds)

    def loss(parameters):
        answers = f.apply(parameters, feeds)
        return sum((answers[o] ** 2).sum() for o in f.outputs), answers

    (_, answers), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(f.parameters)
    for name, expected in zip(f.outputs, want, strict=True):
        np.testing.assert_allclose(answers[name], expected, atol=1e-5)
    assert all(np.isfinite(g).all() and np.abs(g).max() > 0 for g in gradients.values())


@pytest.mark.parametrize(
    "name", ["resnet50", "shufflenet", "inception_v1", "inception_v2", "densenet121", "squeezenet"]
)
def test_all_operators_of_well_known_networks_have_conversions(name):
    assert unsupported(onnx.load(LIGHT / f"light_{name}.onnx")) == ()
