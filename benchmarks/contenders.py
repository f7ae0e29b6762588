"""The tools that are compared, and how each makes its file: in a process of its own, whose time and memory are taken."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import environments
import memory
import onnx
import peers
from environments import Environment
from models import BenchModel

from edgemodel_api.errors import EdgeModelError
from edgemodel_compressor.formats import coreml, tflite
from edgemodel_compressor.package_digest import package_digest
from edgemodel_oci import artifact, pack, pull
from edgemodel_oci.reference import Reference
from edgemodel_oci.repository import open_repository

ONNX, TFLITE, COREML = "ONNX", "TFLite", "CoreML"
OURS, SOURCE = "EdgeModel", "source"
SUFFIX = {ONNX: ".onnx", TFLITE: ".tflite", COREML: ".mlpackage"}
#: Raised when files are made otherwise, by nobody's code.
LAYOUT = 1
LIMIT_BYTES, LIMIT_SECONDS = 8 * 2**30, 600.0
PLATFORMS = {"amd64": "linux/amd64", "arm64": "linux/arm64"}


@dataclass(frozen=True)
class Tool:
    """One way to make a model smaller.

    Attributes:
        name: unique.
        group: tools of one maker; the README has the best of each.
        title: for people.
        environment: of benchmarks/peers; empty: ours.
        format: of its files.
        max_drop: the budget that ours is given.
    """

    name: str
    group: str
    title: str
    environment: str = ""
    format: str = ONNX
    max_drop: str = ""


TOOLS: tuple[Tool, ...] = (
    Tool("onnxsim", "onnxsim", "onnxsim", "onnxsim"),
    Tool("ort-dynamic", "onnxruntime", "quantize_dynamic", "onnxruntime"),
    Tool("ort-static", "onnxruntime", "quantize_static, its defaults", "onnxruntime"),
    Tool("ort-static-u8", "onnxruntime", "quantize_static, U8S8 by channel, reduce_range", "onnxruntime"),
    Tool("ort-static-u8u8", "onnxruntime", "quantize_static, U8U8", "onnxruntime"),
    Tool("ort-int4", "onnxruntime", "MatMulNBitsQuantizer, int4", "onnxruntime"),
    Tool("nncf-weights", "NNCF", "compress_weights, int8", "nncf"),
    Tool("nncf", "NNCF", "quantize", "nncf"),
    Tool("nncf-accuracy", "NNCF", "quantize_with_accuracy_control, 0.5 %", "nncf"),
    Tool("olive-dynamic", "Olive", "OnnxDynamicQuantization", "olive"),
    Tool("olive-static", "Olive", "OnnxStaticQuantization", "olive"),
    Tool("aeq-weights", "ai-edge-quantizer", "weight_only_wi8_afp32", "ai-edge-quantizer", TFLITE),
    Tool("aeq-weights4", "ai-edge-quantizer", "weight_only_wi4_afp32", "ai-edge-quantizer", TFLITE),
    Tool("aeq-dynamic", "ai-edge-quantizer", "dynamic_wi8_afp32", "ai-edge-quantizer", TFLITE),
    Tool("aeq-static", "ai-edge-quantizer", "static_wi8_ai8", "ai-edge-quantizer", TFLITE),
    Tool("coreml-int8", "coremltools", "linear_quantize_weights, int8", "coremltools", COREML),
    Tool("coreml-palette6", "coremltools", "palettize_weights, 6 bits, k-means", "coremltools", COREML),
    Tool("coreml-palette4", "coremltools", "palettize_weights, 4 bits, k-means", "coremltools", COREML),
    Tool("edgemodel-0.5", OURS, "search, 0.5 %", max_drop="0.5%"),
)


@dataclass(frozen=True)
class Made:
    """What a tool gave.

    Attributes:
        files: for each hardware class (`""`: for all) the file's name in the folder.
        what: for each of them what it is, where the tool says so.
        seconds: wall time of the tool.
        peak_bytes: of its processes together, at most.
        versions: of what made it.
        failure: the tool's own last words.
        verified: what ours found on each of the hardware classes while it searched, as rows of `verify`.
    """

    files: dict[str, str]
    what: dict[str, str]
    seconds: float | None = None
    peak_bytes: int | None = None
    versions: tuple[str, ...] = ()
    failure: str = ""
    verified: list[dict[str, Any]] = field(default_factory=list)


def make(tool: Tool, model: BenchModel, classes: tuple[str, ...]) -> tuple[Made, Path]:
    """The tool's file or files and the folder where they are; from an earlier run where nothing has changed since."""
    home = environments.environment(tool.environment) if tool.environment else None
    folder = environments.cache() / "made" / f"{model.name}-{tool.name}-{_key(tool, model, home)}"
    known = folder / "made.json"
    if known.exists():
        found = json.loads(known.read_text())
        return Made(**{**found, "versions": tuple(found["versions"])}), folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if home is None:
        made = _ours(tool, model, folder, classes)
    elif home.failure:
        made = Made({}, {}, failure=f"cannot be installed: {home.failure}")
    else:
        made = _peer(tool, model, folder, home)
    known.write_text(json.dumps(asdict(made), indent=1))
    return made, folder


def _key(tool: Tool, model: BenchModel, home: Environment | None) -> str:
    """Of all that the result depends on."""
    code = package_digest() if home is None else inspect.getsource(peers.TECHNIQUES[tool.name])
    parts = (LAYOUT, model.digest(), tool, code, home.versions if home else (), home.failure if home else "")
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _peer(tool: Tool, model: BenchModel, folder: Path, home: Environment) -> Made:
    out = folder / f"model{SUFFIX[tool.format]}"
    try:
        source = _source(tool.format, model)
    except EdgeModelError as error:
        return Made({}, {}, versions=home.versions, failure=f"no {tool.format} file to begin with: {error.message}")
    task = {
        "technique": tool.name,
        "model": str(source),
        "calibration": str(model.calibration),
        "validation": str(model.validation),
        "labels": model.labels,
        "metric": model.metric,
        "drop": float(model.max_drop.rstrip("%")) / 100,
        "out": str(out),
    }
    (folder / "task.json").write_text(json.dumps(task))
    command = [str(home.python), peers.__file__, str(folder / "task.json")]
    spent = _run(command, folder)
    failure = spent.ending or ("" if out.exists() else "it wrote no file")
    files = {} if failure else {"": out.name}
    return Made(files, {}, round(spent.seconds, 2), spent.peak, home.versions, failure)


def _run(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> memory.Measured:
    quiet = {"NNCF_CI": "1", "DO_NOT_TRACK": "1", "OLIVE_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    return memory.measure(
        command,
        limit=LIMIT_BYTES,
        log=folder / "log",
        cwd=folder,
        seconds=LIMIT_SECONDS,
        environment={**os.environ, **quiet, **(environment or {})},
    )


def _source(wanted: str, model: BenchModel) -> Path:
    """The float model in the tool's format, written by our converter: peers of that format have nothing that reads ONNX."""
    if wanted == ONNX:
        return model.model
    folder = environments.cache() / "made" / f"{model.name}-{wanted}-{_converter(wanted, model)}"
    path, failed = folder / f"model{SUFFIX[wanted]}", folder / "failed"
    if failed.exists():
        raise EdgeModelError(failed.read_text())
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        proto = onnx.load(model.model)
        try:
            feeds = first_rows(model, 8)
            if wanted == TFLITE:
                tflite.convert(proto, path, encoding=tflite.FLOAT32, feeds=feeds)
                _name_tensors(path)
            else:
                packed = folder / "model.zip"
                coreml.convert(proto, packed, encoding="float32", feeds=feeds)
                shutil.unpack_archive(packed, folder)
        except EdgeModelError as error:
            failed.write_text(error.message)
            raise
    return path


def _name_tensors(path: Path) -> None:
    """Names for all tensors: our writer leaves out those that nobody reads, and ai-edge-quantizer goes by them."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    for s, graph in enumerate(model.subgraphs):
        for i, tensor in enumerate(graph.tensors):
            tensor.name = tensor.name or f"{s}/{i}"
    builder = flatbuffers.Builder(path.stat().st_size)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())


def _converter(wanted: str, model: BenchModel) -> str:
    return hashlib.sha256(f"{LAYOUT} {package_digest()} {wanted} {model.digest()}".encode()).hexdigest()[:16]


def first_rows(model: BenchModel, count: int) -> dict[str, Any]:
    """Of the calibration data."""
    import numpy as np

    with np.load(model.calibration, allow_pickle=False) as arrays:
        return {name: arrays[name][:count] for name in arrays.files}


def _ours(tool: Tool, model: BenchModel, folder: Path, classes: tuple[str, ...]) -> Made:
    """`edgemodel compress`, as a user would type it; then the file that each kind of CPU gets."""
    work = folder / "manifest"
    work.mkdir()
    for name in ("model.onnx", "calibration.npz", "validation.npz"):
        os.link(model.folder / name, work / name)
    (work / "edgemodel.yaml").write_text(model.manifest(tool.max_drop))
    out = folder / "out"
    command = [sys.executable, "-m", "edgemodel_cli", "compress", "-f", str(work / "edgemodel.yaml")]
    # What an earlier run has measured must not make this one look fast.
    for platform in PLATFORMS.values():
        command += ["--platform", platform]
    spent = _run([*command, "--out", str(out), "-o", "json"], folder, {"EDGEMODEL_CANDIDATES": "off"})
    shutil.rmtree(work)
    versions = (f"edgemodel {package_digest()[:12]}",)
    if spent.ending:
        return Made({}, {}, round(spent.seconds, 2), spent.peak, versions, spent.ending)
    files, what, verified = _variants(out, folder, classes)
    failure = "" if files else "nothing that it accepted"
    return Made(files, what, round(spent.seconds, 2), spent.peak, versions, failure, verified)


def _variants(
    out: Path, folder: Path, classes: tuple[str, ...]
) -> tuple[dict[str, str], dict[str, str], list[dict[str, Any]]]:
    """For each hardware class the smallest accepted ONNX variant that is for it: file, name, and how it did there."""
    files: dict[str, str] = {}
    what: dict[str, str] = {}
    verified: list[dict[str, Any]] = []
    report = json.loads((out / "report.json").read_text())
    repository = open_repository(Reference.parse(f"oci-layout://{out}"))
    for kind in classes:
        platform = PLATFORMS[kind.partition("-")[0]]
        fitting = [
            c
            for c in report["candidates"]
            if c.get("accepted")
            and c.get("digest")
            and platform in c.get("platforms", ())
            and kind in (c.get("hardwareClasses") or classes)
        ]
        if not fitting:
            continue
        best = min(fitting, key=lambda c: c["measurement"]["sizeBytes"])
        variant = artifact.read_variant(repository, best["digest"])
        name = f"{best['name']}.onnx"
        if not (folder / name).exists():
            blob = folder / ".layer"
            pull.fetch_blob(repository, variant.weight, blob)
            pack.unpack_file(blob, folder / name, file_digest=variant.file_digest, file_size=variant.file_size)
            blob.unlink()
        files[kind], what[kind] = name, best["name"]
        verified += [v for v in best.get("verified", ()) if v["hardwareClass"] == kind]
    return files, what, verified
