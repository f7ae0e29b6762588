"""Real models from packages: magika (files' types) and the digits of the examples, in every encoding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemodel_compressor.formats import coreml

pytestmark = pytest.mark.slow

ENCODINGS = {
    # Largest relative error, and largest share of the ONNX file's size.
    "float32": (1e-5, 1.03),
    "float16": (5e-3, 0.54),
    "int8-weights": (0.02, 0.31),
    "palettized-6": (0.05, 0.25),
    "palettized-4": (0.2, 0.19),
}


@pytest.fixture(scope="module")
def magika() -> tuple[Any, int, dict[str, np.ndarray]]:
    """The model, its size and files of this repository as it takes them: the first 1024 and the last 1024 bytes."""
    import magika

    (path,) = Path(magika.__file__).parent.glob("models/*/model.onnx")
    model = onnx.load(path)
    root = Path(__file__).parents[3]
    names = ("pyproject.toml", "README.md", "Makefile", "LICENSE", "tests/integration/coreml/test_real_models.py")
    contents = [(root / n).read_bytes().strip() for n in names]
    rows = [np.frombuffer(c[:1024].ljust(1024, b"\0") + c[-1024:].rjust(1024, b"\0"), np.uint8) for c in contents]
    return model, path.stat().st_size, {model.graph.input[0].name: np.stack(rows).astype(np.int32)}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("encoding", ["float32", "float16", "int8-weights", "palettized-4"])
def test_magika(magika: Any, encoding: str, tmp_path: Path) -> None:
    model, size, feeds = magika
    assert coreml.unsupported(model) == ()
    done = coreml.convert(model, tmp_path / "m.zip", encoding=encoding, feeds=feeds)
    error, share = ENCODINGS[encoding]
    assert done.check.max_error < error
    assert done.check.agreement == 1
    assert done.size_bytes < share * size


@pytest.fixture(scope="module")
def digits() -> tuple[Any, dict[str, np.ndarray], np.ndarray]:
    """scikit-learn's perceptron, as examples/digits has it; a smaller one, so that training is quick."""
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier

    pixels, labels = load_digits(return_X_y=True)
    pixels = (pixels / 16).astype(np.float32)
    network = MLPClassifier((128, 64), random_state=0, max_iter=60, tol=1e-2).fit(pixels[600:], labels[600:])
    nodes, tensors, x = [], [], "image"
    for i, (weight, bias) in enumerate(zip(network.coefs_, network.intercepts_, strict=True)):
        tensors += [
            numpy_helper.from_array(weight.astype("f"), f"w{i}"),
            numpy_helper.from_array(bias.astype("f"), f"b{i}"),
        ]
        nodes.append(helper.make_node("Gemm", [x, f"w{i}", f"b{i}"], [f"h{i}"]))
        x = f"h{i}"
        if i < len(network.coefs_) - 1:
            nodes.append(helper.make_node("Relu", [x], [f"r{i}"]))
            x = f"r{i}"
    nodes.append(helper.make_node("Softmax", [x], ["scores"]))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 10])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, {"image": pixels[:200]}, labels[:200]


@pytest.mark.parametrize("encoding", ["float16", "int8-weights", "palettized-6", "palettized-4"])
def test_digits_keep_their_quality(digits: Any, encoding: str, tmp_path: Path) -> None:
    model, feeds, labels = digits
    coreml.convert(model, tmp_path / "f.zip", encoding="float32", feeds=feeds)
    done = coreml.convert(model, tmp_path / "m.zip", encoding=encoding, feeds=feeds)
    known = [float((coreml.run(tmp_path / n, feeds)["scores"].argmax(1) == labels).mean()) for n in ("f.zip", "m.zip")]
    assert known[0] > 0.9
    assert known[1] >= known[0] - (0.03 if encoding == "palettized-4" else 0.01)
    assert done.check.max_error < ENCODINGS[encoding][0]
