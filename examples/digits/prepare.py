"""Writes `data/{model.onnx,calibration.npz,validation.npz}`: a classifier of handwritten digits, trained here.

`python examples/digits/prepare.py`. scikit-learn's 8 × 8 digits, a perceptron with two hidden layers, written as ONNX
by hand. A third of the digits is kept from the training, to validate with.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

DATA = Path(__file__).parent / "data"
#: Pixels are 0…16.
BRIGHTEST = 16.0


def trained(pixels: np.ndarray, digits: np.ndarray) -> MLPClassifier:
    """64 → 256 → 128 → 10 with ReLU, the same weights on every run."""
    # Strong weight decay: what the model does not need becomes small, and can be pruned later.
    model = MLPClassifier((256, 128), alpha=0.3, max_iter=100, random_state=0)
    # One thread: matrices this small only wait for more. And the rounds are enough, though they could be more.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(pixels / BRIGHTEST, digits)


def to_onnx(model: MLPClassifier) -> onnx.ModelProto:
    """`pixels` float32 (N, 64) of 0…16 → `probabilities` float32 (N, 10)."""
    nodes = [helper.make_node("Div", ["pixels", "brightest"], ["scaled"], name="scale")]
    tensors = [numpy_helper.from_array(np.array(BRIGHTEST, np.float32), "brightest")]
    last = len(model.coefs_) - 1
    value = "scaled"
    for i, (weight, bias) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
        tensors.append(numpy_helper.from_array(weight.astype(np.float32), f"dense{i}.weight"))
        tensors.append(numpy_helper.from_array(bias.astype(np.float32), f"dense{i}.bias"))
        dense = [value, f"dense{i}.weight", f"dense{i}.bias"]
        nodes.append(helper.make_node("Gemm", dense, [f"dense{i}.out"], name=f"dense{i}"))
        value = "probabilities" if i == last else f"relu{i}.out"
        op = ("Softmax", "softmax") if i == last else ("Relu", f"relu{i}")
        nodes.append(helper.make_node(op[0], [f"dense{i}.out"], [value], name=op[1]))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 10])],
        tensors,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made, full_check=True)
    return made


def write(path: Path, fill: Callable[[Path], object]) -> None:
    """Whole or not at all: a broken-off run leaves no half file behind."""
    part = path.with_name(f".{path.name}")
    fill(part)
    os.replace(part, path)


def save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """An `.npz`; same arrays, same bytes."""
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def main() -> int:
    pixels, digits = load_digits(return_X_y=True)
    seen, unseen, seen_digits, unseen_digits = train_test_split(
        pixels.astype(np.float32), digits.astype(np.int64), test_size=1 / 3, random_state=0, stratify=digits
    )
    model = trained(seen, seen_digits)
    made = to_onnx(model).SerializeToString(deterministic=True)
    DATA.mkdir(exist_ok=True)
    write(DATA / "model.onnx", lambda part: part.write_bytes(made))
    # What the model was trained on shows the ranges; what it has never seen says how good it is.
    write(DATA / "calibration.npz", lambda part: save(part, {"pixels": seen[:256]}))
    write(DATA / "validation.npz", lambda part: save(part, {"pixels": unseen, "digit": unseen_digits}))
    print(f"{DATA}: model.onnx ({len(made) / 2**10:.0f} KiB), 256 digits to calibrate, {len(unseen)} to validate")
    print(f"The source knows {model.score(unseen / BRIGHTEST, unseen_digits):.2%} of them.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
