"""One model's source and data, and what a file of any tool is beside it: bytes, quality, latency, and each kind of CPU.

ONNX files run as the agent serves them (all of onnxruntime's optimizations, one thread), TFLite files with LiteRT, Core ML packages
in our interpreter of MIL programs, never on Core ML. What is known of a file is kept by its content.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import environments
import numpy as np
import onnx
from contenders import COREML, ONNX, TFLITE
from models import BenchModel
from onnx import TensorProto

from edgemodel_api.edgemodel import ValidationData
from edgemodel_api.errors import EdgeModelError
from edgemodel_api.quantities import parse_percent
from edgemodel_compressor import verify
from edgemodel_compressor.data import Dataset, open_dataset
from edgemodel_compressor.evaluate.latency import compare_latency
from edgemodel_compressor.evaluate.quality import Evaluator, Quality
from edgemodel_compressor.evaluate.runner import Array, Arrays, Run, runner
from edgemodel_compressor.formats import coreml
from edgemodel_compressor.formats.onnx_model import SourceModel, load_model
from edgemodel_compressor.judge import serving_session
from edgemodel_oci.artifact import packed_size

#: Raised when something is measured otherwise.
LAYOUT = 3
#: A latency is the median of so many comparisons with the source, each of so many seconds.
REPEATS, SECONDS = 3, 1.0
#: The interpreter of Core ML packages is numpy: it judges about so many samples, spread over all.
INTERPRETED = 24
SAMPLES, EMULATED_SECONDS = 32, 120.0


class Yardstick:
    """One model."""

    def __init__(self, model: BenchModel, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.source: SourceModel = load_model(model.model, work_dir=folder, max_bytes=2**31, external_dir=model.folder)
        self.data: Dataset = open_dataset(
            model.validation,
            self.source.inputs,
            labels=model.labels,
            work_dir=folder,
            max_bytes=2**33,
            what="data.validation",
        )
        self.run = runner(serving_session(self.source.path, 1))
        wanted = {"uri": "file:validation.npz", "labels": model.labels, "metric": model.metric}
        self.evaluator = Evaluator(
            self.run,
            self.data,
            validation=ValidationData.model_validate(wanted),
            work_dir=folder,
            fixed_batch=self.source.fixed_batch,
        )
        self.feeds = [self.data.take(self.source.fixed_batch or 1, seed) for seed in range(8)]
        self.digest = model.digest()

    def about(self) -> dict[str, Any]:
        """The source, for the results."""
        model, basis = self.model, self.evaluator.basis
        timed = compare_latency(self.run, self.run, self.feeds, seconds=SECONDS).source
        return {
            "kind": model.kind,
            "origin": model.origin,
            "inputs": model.inputs,
            "metric": basis.metric,
            "against": str(basis.kind.value),
            "samples": basis.samples,
            "quality": self.evaluator.source_quality.value,
            "file_bytes": model.model.stat().st_size,
            "stored_bytes": packed_size(model.model),
            "latency_seconds": timed.median,
        }

    def file(self, path: Path, kind: str) -> dict[str, Any]:
        """Bytes, quality and latency of one file; `failure` where it does not run."""
        with _kept("file", LAYOUT, self.digest, kind, _digest(path), _runtime(kind)) as known:
            if not known:
                known.update(self._measured(path, kind))
            return {**known, "float": kind == ONNX and _is_float(path)}

    def classes(self, path: Path, kinds: tuple[str, ...], limit: float) -> list[dict[str, Any]]:
        """The file on each of some kinds of CPU, natively or under emulation: rows of `verify`."""
        found = []
        for kind in kinds:
            with _kept("class", 1, self.digest, _digest(path), kind, limit, _runtime(ONNX)) as known:
                if not known:
                    chosen = verify.samples(self.evaluator, limit=limit, wanted=SAMPLES)
                    (row,) = verify.verify(
                        path,
                        classes=[kind],
                        samples=chosen,
                        machines=verify.machines(),
                        work_dir=self.folder,
                        seconds=EMULATED_SECONDS,
                    )
                    known.update(row.to_json())
                found.append(dict(known))
                if known.get("how") == "No":
                    known.clear()  # a machine with more time may know it
        return found

    def _measured(self, path: Path, kind: str) -> dict[str, Any]:
        single = path if path.is_file() else _zipped(path, self.folder / "package.zip")
        found: dict[str, Any] = {"file_bytes": single.stat().st_size, "stored_bytes": packed_size(single)}
        try:
            run = _open(path, kind)
            quality = self._quality(run, kind)
        except EdgeModelError as error:
            return {**found, "failure": error.message}
        found["quality"] = {
            k: round(float(getattr(quality, k)), 6) for k in ("value", "low", "high", "drop", "drop_low", "drop_high")
        }
        if kind == COREML:
            return found
        timed = [compare_latency(run, self.run, self.feeds, seconds=SECONDS) for _ in range(REPEATS)]
        middle = sorted(timed, key=lambda t: t.slowdown.value)[REPEATS // 2]
        found["latency"] = {
            "ratio": round(1 + middle.slowdown.value, 4),
            "low": round(1 + middle.slowdown.low, 4),
            "high": round(1 + middle.slowdown.high, 4),
            "load": round(os.getloadavg()[0], 1),
        }
        return found

    def _quality(self, run: Run, kind: str) -> Quality:
        if kind != COREML:
            return self.evaluator.evaluate(run, one_by_one=True)
        some = np.zeros(self.evaluator.samples, dtype=bool)
        count, unit = self.evaluator.samples, self.evaluator.unit
        some[:: max(1, count // INTERPRETED)] = unit == 1
        some = some if some.any() else np.arange(count) < INTERPRETED
        return self.evaluator.apart(self.evaluator.judge_rows(run, some, one_by_one=True), some)


def _is_float(path: Path) -> bool:
    """Whether it computes in floats alone, and so the same everywhere: small weights, if any, are cast to floats first.

    A DequantizeLinear does not count as a cast: onnxruntime may put an integer kernel in the place of what follows it.
    """
    graph = onnx.load(path).graph
    kinds = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4)
    small = {t.name for t in graph.initializer if t.data_type in kinds}
    words = ("Quant", "Integer", "NBits", "QLinear")
    return not any(
        any(word in node.op_type for word in words) or (node.op_type != "Cast" and small & set(node.input))
        for node in graph.node
    )


def limit_of(max_drop: str) -> float:
    """A budget as a fraction."""
    return float(parse_percent(max_drop))


def cpu_name() -> str:
    """This machine's, for the line below a table."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), platform.machine())


def _open(path: Path, kind: str) -> Run:
    if kind == ONNX:
        return runner(serving_session(path, 1))
    return _litert(path) if kind == TFLITE else coreml.open_run(path)


def _litert(path: Path) -> Run:
    """A TFLite file of any tool, fed with floats and answering with floats: fully quantized ones take and give integers."""
    from ai_edge_litert.interpreter import Interpreter

    try:
        call = Interpreter(model_path=str(path), num_threads=1).get_signature_runner()
        ends = {**call.get_input_details(), **call.get_output_details()}
    except (ValueError, RuntimeError) as error:
        raise EdgeModelError(f"LiteRT cannot load it: {error}") from None
    inputs = list(call.get_input_details())

    def run(feeds: Arrays) -> Arrays:
        try:
            found = call(**{name: _integers(feeds[name], ends[name]) for name in inputs})
        except (ValueError, RuntimeError) as error:
            raise EdgeModelError(f"LiteRT fails on the data: {error}") from None
        return {name: _floats(np.array(value), ends[name]) for name, value in found.items()}

    return run


def _integers(value: Array, end: Any) -> Array:
    scale, zero = end["quantization"]
    if not scale or value.dtype.kind != "f":
        return value
    bounds = np.iinfo(end["dtype"])
    return np.clip(np.round(value / scale) + zero, bounds.min, bounds.max).astype(end["dtype"])


def _floats(value: Array, end: Any) -> Array:
    scale, zero = end["quantization"]
    return (value.astype(np.float32) - zero) * np.float32(scale) if scale and value.dtype.kind in "iu" else value


def _runtime(kind: str) -> str:
    name = {ONNX: "onnxruntime", TFLITE: "ai-edge-litert", COREML: "coremltools"}[kind]
    few = f" {INTERPRETED} samples" if kind == COREML else ""
    return f"{name} {version(name)} {cpu_name()}{few}"


def _zipped(folder: Path, out: Path) -> Path:
    """A package as one file, as our own are: entries sorted, undated, not compressed."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.writestr(
                zipfile.ZipInfo(path.relative_to(folder.parent).as_posix(), (1980, 1, 1, 0, 0, 0)), path.read_bytes()
            )
    return out


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    for part in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        # coremltools writes random identifiers into its Manifest.
        if part.name != "Manifest.json":
            found.update(hashlib.sha256(part.read_bytes()).digest())
    return found.hexdigest()


@contextmanager
def _kept(*parts: Any) -> Iterator[dict[str, Any]]:
    """What is known by these parts; what is put in is kept, unless something fails."""
    key = hashlib.sha256(repr(parts).encode()).hexdigest()
    path = environments.cache() / "measured" / f"{parts[0]}-{key[:24]}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    had = bool(found)
    yield found
    if found and not had:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump(found, file)
        os.replace(file.name, path)
