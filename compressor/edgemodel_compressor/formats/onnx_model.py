"""Loading ONNX models that may be damaged or hostile, and saving our own; the one place for session options.

The order matters: sizes, then the bytes (`wire`), then protobuf's parser, then structure, then tensors. Nothing native
but that parser sees the file before these have passed; `probe` lets the runtime see it first in a child process.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from edgemodel_api.errors import InputError
from edgemodel_api.quantities import format_bytes
from edgemodel_compressor.reading import concise, open_to_read
from edgemodel_compressor.tensor_spec import TensorSpec
from edgemodel_oci.files import put, replacing

from . import signature, tensors, wire
from .external import fold_external
from .structure import check_structure

#: protobuf's own: no message can be serialized beyond it.
PROTOBUF_LIMIT = 2**31 - 1
#: Of onnxruntime's messages: kind and code, the path, the place in its own source.
_NOISE = (
    re.compile(r"^(\w+: )?\[ONNXRuntimeError\] : \d+ : \w+ : "),
    re.compile(r"Load model from .{1,4096}? failed: ?"),
    re.compile(r"/\S+\.(cc|h|hpp):\d+ \S+\([^()]*(\([^()]*\)[^()]*)*\)( const)? "),
)
BASIC = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC


@dataclass(frozen=True)
class SourceModel:
    """A model that has passed every check that needs no run.

    Attributes:
        path: one self-contained file; not the given one where external data had to be folded in.
        proto: the ModelProto; not to be changed.
        inputs: without those that have a default (initializers of the same name).
        outputs: rank and dimensions as declared; `()` also where nothing is declared.
        sha256: of the file at `path`, hex.
        size_bytes: of that file.
        fixed_batch: the first dimension of the inputs where it is a fixed number, else None.
    """

    path: Path
    proto: Any = field(repr=False)
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    sha256: str
    size_bytes: int
    fixed_batch: int | None


def load_model(path: Path, *, work_dir: Path, max_bytes: int, external_dir: Path | None = None) -> SourceModel:
    """Read and judge.

    Args:
        path: an ONNX file.
        work_dir: for the folded file, where there is external data.
        max_bytes: of the file, and of the external data.
        external_dir: folder in which external data may lie; None: there may be none.

    Raises:
        InputError: whatever is wrong with the file, with the number and what to change.
    """
    with concise():
        return _load(path, work_dir, max_bytes, external_dir)


def _load(path: Path, work_dir: Path, max_bytes: int, external_dir: Path | None) -> SourceModel:
    what = f"model {path.name}"
    content = _read(path, what, min(max_bytes, PROTOBUF_LIMIT))
    # Parsed, a model takes about its size; 1 GiB more covers any honest number of nodes.
    wire.scan(content, onnx.ModelProto.DESCRIPTOR, what=what, max_memory=2 * len(content) + 2**30)
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise InputError(f"{what}: no ONNX model ({error}): export or copy it again") from None
    tensors.no_sparse(model)
    check_structure(model, what=what)
    inputs = signature.inputs_of(model.graph)
    outputs = signature.outputs_of(model.graph)
    folded = fold_external(model, external_dir, max_bytes=max_bytes)
    weights = tensors.weight_names(model)
    for located in tensors.tensors(model):
        tensors.check_content(located)
        tensors.check_finite(located, weights)
    digest, size = hashlib.sha256(content).hexdigest(), len(content)
    if folded:
        path = work_dir / f"{path.stem}.folded.onnx"
        digest, size = save_model(model, path)
    return SourceModel(path, model, inputs, outputs, digest, size, signature.fixed_batch(inputs))


def open_session(
    path: Path | bytes, *, threads: int = 1, level: Any = BASIC, profile: Path | None = None
) -> ort.InferenceSession:
    """A CPU session with the options that everything of ours uses.

    Args:
        path: a file, or a serialized model.
        threads: within an operator; one operator runs at a time.
        level: of onnxruntime's graph optimizations. Basic keeps to standard operators and the given numbers.
        profile: prefix of a profile file to write, where one is wanted.

    Raises:
        InputError: the runtime cannot load the model.
    """
    ort.set_default_logger_severity(4)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = level
    options.log_severity_level = 4
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    try:
        return ort.InferenceSession(
            path if isinstance(path, bytes) else str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime raises many types of its own
        name = "the model" if isinstance(path, bytes) else path.name
        raise InputError(
            f"onnxruntime {ort.__version__} cannot load {name}: {runtime_message(error)}: export the model with"
            " operators and types that this version has"
        ) from None


def save_model(proto: Any, path: Path) -> tuple[str, int]:
    """Write a model: the same model gives the same bytes, and the file appears whole.

    Returns:
        sha256 (hex) and size in bytes.

    Raises:
        InputError: beyond protobuf's limit of 2 GiB, or the disk refuses.
    """
    try:
        content: bytes = proto.SerializeToString(deterministic=True)
    except Exception as error:  # upb: EncodeError or ValueError, by version
        raise InputError(
            f"the model is larger than protobuf's limit of 2 GiB and cannot be one file ({error}): give a smaller model"
        ) from None
    with replacing(path) as file:
        put(file, content, path)
    return hashlib.sha256(content).hexdigest(), len(content)


def runtime_message(error: BaseException | str) -> str:
    """The part of onnxruntime's message that is about the model: without code paths and line breaks."""
    text = " ".join(str(error).split())
    for noise in _NOISE:
        text = noise.sub("", text, count=1)
    return "".join(c if c.isprintable() else "?" for c in text).rstrip(". ")[:400]


def _read(path: Path, what: str, limit: int) -> bytearray:
    with open_to_read(path, what) as file:
        size = file.seek(0, 2)
        if size == 0:
            raise InputError(f"{what}: empty (0 bytes): export or copy it again")
        if size > limit:
            raise InputError(
                f"{what}: {format_bytes(size)} ({size} bytes), but at most {format_bytes(limit)} ({limit} bytes) are"
                " possible: give a smaller model"
            )
        file.seek(0)
        content = bytearray(size)
        view, done = memoryview(content), 0
        # One read gives at most 2 GiB less a page.
        while done < size and (count := file.readinto(view[done:])):
            done += count
        changed = done < size or bool(file.read(1))
    if changed:
        raise InputError(f"{what}: changed while it was read ({size} bytes before): try again")
    return content
