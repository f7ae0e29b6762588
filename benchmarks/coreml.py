"""Core ML packages of real models: bytes and errors in every encoding, and the interpreter beside Apple's own conversion.

    python benchmarks/coreml.py [--only NAME] [--rows 8]

basic-pitch ships one network as ONNX and as the .mlpackage that coremltools made of TensorFlow. The interpreter runs that
package, which our converter has not touched, beside onnxruntime on the ONNX file: so interpreter and converter cannot share
a mistake. The package is fetched by its name from the registry that pip is set up for. Nothing here runs on Core ML.
Fails if the interpreter and onnxruntime differ by more than `MOST` on it, or a conversion by more than its own check allows.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgemodel_api.errors import EdgeModelError
from edgemodel_api.quantities import format_bytes
from edgemodel_compressor.evaluate.runner import Arrays, runner
from edgemodel_compressor.formats import coreml
from edgemodel_compressor.formats.onnx_model import open_session
from edgemodel_oci.artifact import packed_size
from edgemodel_oci.golden import run_cases

PITCH = "basic-pitch==0.4.0"
#: ‖interpreter − onnxruntime‖₂ / ‖onnxruntime‖₂ on noise and tones.
MOST = 1e-4
RATE, WINDOW = 22050, 43844


@dataclass(frozen=True)
class Source:
    name: str
    path: Path
    feeds: Arrays


def magika(rows: int) -> Source:
    import magika

    (path,) = Path(magika.__file__).parent.glob("models/*/model.onnx")
    name = onnx.load(path).graph.input[0].name
    return Source("magika", path, {name: np.random.default_rng(0).integers(0, 257, (rows, 2048)).astype(np.int32)})


def pitch(rows: int, folder: Path) -> tuple[Source, Path]:
    """The ONNX file and the package that came with it."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PITCH]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("basic_pitch-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    models = folder / "basic_pitch/saved_models/icassp_2022"
    rng, t = np.random.default_rng(0), np.arange(WINDOW) / RATE
    tones = [sum(np.sin(2 * np.pi * f * t) for f in rng.uniform(60, 2000, 3)) for _ in range(rows)]
    sound = 0.2 * np.stack(tones) + 0.01 * rng.standard_normal((rows, WINDOW))
    name = onnx.load(models / "nmp.onnx").graph.input[0].name
    feeds: Arrays = {name: sound[..., None].astype(np.float32)}
    return Source("basic-pitch", models / "nmp.onnx", feeds), models / "nmp.mlpackage"


def apple_error(source: Source, package: Path) -> float:
    """Largest error of the outputs, which the two files call otherwise: those of equal shape are matched by closeness."""
    wanted = run_cases(runner(open_session(source.path)), source.feeds)
    run = coreml.open_run(package)
    got = run_cases(lambda feeds: run({"input_2": next(iter(feeds.values()))}), source.feeds)

    def error(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.linalg.norm(a - b) / np.linalg.norm(b)) if a.shape == b.shape else np.inf

    return max(min(error(a, b) for a in got.values()) for b in wanted.values())


def rows_of(source: Source, folder: Path) -> Iterator[str]:
    model = onnx.load(source.path)
    yield f"| {source.name} | ONNX | {format_bytes(source.path.stat().st_size)} | {stored(source.path)} | | | |"
    for encoding in coreml.ENCODINGS:
        began = time.monotonic()
        path = folder / f"{source.name}-{encoding}.zip"
        try:
            done = coreml.convert(
                pruned(model) if encoding == "sparse" else model, path, encoding=encoding, feeds=source.feeds
            )
        except EdgeModelError as error:
            yield f"| {source.name} | {encoding} | {error} | | | | |"
            continue
        agreement = "" if done.check.agreement is None else f"{done.check.agreement:.1%}"
        cells = (
            source.name,
            encoding,
            format_bytes(done.size_bytes),
            stored(path),
            f"{done.check.max_error:.2g}",
            agreement,
        )
        yield f"| {' | '.join(cells)} | {time.monotonic() - began:.0f} s, {done.compute} |"


def stored(path: Path) -> str:
    return format_bytes(packed_size(path))


def pruned(model: Any) -> Any:
    """60 % of each large weight zero, the smallest, so that `sparse` has something to store."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.ndim >= 2 and array.dtype == np.float32 and array.size >= 256:
            small = np.abs(array) < np.quantile(np.abs(array), 0.6)
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.where(small, np.float32(0), array), tensor.name))
    return copy


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("magika", "basic-pitch"))
    parser.add_argument("--rows", type=int, default=8)
    arguments = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = [magika(arguments.rows)] if arguments.only != "basic-pitch" else []
        if arguments.only != "magika":
            source, package = pitch(arguments.rows, folder)
            error = apple_error(source, package)
            failed = not error <= MOST
            print(
                f"basic-pitch's own package in the interpreter beside its ONNX file: error {error:.2g}, allowed {MOST:g}\n"
            )
            sources.append(source)
        print("| model | encoding | file | stored | error | same arg max | |\n|---|---|---:|---:|---:|---:|---|")
        for source in sources:
            for row in rows_of(source, folder):
                print(row, flush=True)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
