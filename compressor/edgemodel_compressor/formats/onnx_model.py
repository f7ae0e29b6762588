"""Loading ONNX models that may be damaged or hostile, and saving our own; the one place for session options.

The order matters: sizes, then the bytes (`wire`), then protobuf's parser, then structure, then tensors. Nothing native
but that parser sees the file before these have passed; `probe` lets the runtime see it first in a child process.

Models whose weights take `kept.LARGE_BYTES` or more are never in memory as a whole: their tensors are kept (`kept`),
their files are two (`datafile`), their sessions are lean (`lean`).
"""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted, format_bytes
from edgemodel_api.reasons import DISK_FULL
from edgemodel_compressor.reading import concise, open_to_read
from edgemodel_compressor.tensor_spec import TensorSpec
from edgemodel_oci.companion import companion
from edgemodel_oci.files import put, replacing

from . import datafile, kept, lean, signature, tensors, wire
from .external import ExternalRules, declared_total, fold_external, is_external, refuse_kept
from .kept import PROTOBUF_LIMIT
from .split import split
from .structure import check_structure
from .walk import NotProtobufError

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
        path: one self-contained file, or that of a large model with its external data beside it; not the given one where
            external data had to be folded in or the model is large.
        proto: the ModelProto; not to be changed. The weights of a large model are kept outside (`kept`).
        inputs: without those that have a default (initializers of the same name).
        outputs: rank and dimensions as declared; `()` also where nothing is declared.
        sha256: of the file at `path`, hex; of a large model it covers the external data, which the file names by digest.
        size_bytes: of that file, and its external data.
        fixed_batch: the first dimension of the inputs where it is a fixed number, else None.
    """

    path: Path
    proto: Any = field(repr=False)
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    sha256: str
    size_bytes: int
    fixed_batch: int | None


def load_model(
    path: Path,
    *,
    work_dir: Path,
    max_bytes: int,
    external_dir: Path | None = None,
    data_sha256: str | None = None,
    pinned: bool = True,
) -> SourceModel:
    """Read and judge.

    Args:
        path: an ONNX file.
        work_dir: for the folded file, where there is external data, and for the weights of a large model.
        max_bytes: of the file, and of the external data.
        external_dir: folder in which external data may lie; None: there may be none.
        data_sha256: of the external data, as `external.digest_of` says; None: not known.
        pinned: whether external data may do without that: nothing is pinned, or what pins the file pins them as well.

    Raises:
        InputError: whatever is wrong with the file, with the number and what to change.
    """
    with concise():
        return _load(path, work_dir, ExternalRules(external_dir, max_bytes, data_sha256, pinned))


def _load(path: Path, work_dir: Path, rules: ExternalRules) -> SourceModel:
    what = f"model {path.name}"
    limit = min(rules.max_bytes, PROTOBUF_LIMIT)
    mark = secrets.token_hex(16)
    taken = _taken_apart(path, what, limit, work_dir, mark)
    content, data = (_read(path, what, limit), None) if taken is None else taken
    # Parsed, a model takes about its size; 1 GiB more covers any honest number of nodes.
    wire.scan(content, onnx.ModelProto.DESCRIPTOR, what=what, max_memory=2 * len(content) + 2**30)
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise InputError(f"{what}: no ONNX model ({error}): export or copy it again") from None
    digest, size = hashlib.sha256(content).hexdigest(), len(content)
    del content, taken
    refuse_kept(model)
    if data is not None:
        _refer(model, data, mark)
    tensors.no_sparse(model)
    check_structure(model, what=what)
    inputs = signature.inputs_of(model.graph)
    outputs = signature.outputs_of(model.graph)
    changed, data = _gather(model, data, work_dir, path.stem, rules)
    weights = tensors.weight_names(model)
    for located in tensors.tensors(model):
        tensors.check_content(located)
        tensors.check_finite(located, weights)
    # A whole file that once was the small part of a large model does not say so any more.
    changed |= datafile.drop_property(model)
    if data is not None:
        path = work_dir / f"{path.stem}.large.onnx"
        digest, size = datafile.save_kept(model, path, data)
    elif changed:
        path = work_dir / f"{path.stem}.folded.onnx"
        digest, size = save_model(model, path)
    return SourceModel(path, model, inputs, outputs, digest, size, signature.fixed_batch(inputs))


def _taken_apart(
    path: Path, what: str, limit: int, work_dir: Path, mark: str
) -> tuple[bytes, datafile.DataFile] | None:
    """A large file's message without its weights, and these; None: it is small, or must be read as a whole."""
    with open_to_read(path, what) as file:
        size = file.seek(0, 2)
        if not kept.LARGE_BYTES <= size <= limit:
            return None
        _check_disk(work_dir, size, what)
        try:
            with datafile.data_file(work_dir, path.stem) as data:
                return split(file.fileno(), size, data, mark), data
        except NotProtobufError:
            return None


def _refer(model: Any, data: datafile.DataFile, mark: str) -> None:
    for tensor in model.graph.initializer:
        entries = {e.key: e.value for e in tensor.external_data}
        if entries.get("location") == mark:
            kept.refer(tensor, data.path, int(entries["offset"]), int(entries["length"]))


def _gather(
    model: Any,
    data: datafile.DataFile | None,
    work_dir: Path,
    stem: str,
    rules: ExternalRules,
) -> tuple[bool, datafile.DataFile | None]:
    """External data: into the model, or into a data file where it is large. Whether there were any, and the one data file."""
    external = [t for t in tensors.tensors(model) if is_external(t.tensor)]
    total = declared_total(external, max_bytes=rules.max_bytes)
    if total < kept.LARGE_BYTES and data is None:
        return bool(fold_external(model, rules)), None
    if not external:
        fold_external(model, rules)
        return True, data
    _check_disk(work_dir, total, f"external data of {stem}")
    with datafile.data_file(work_dir, stem) as found:
        if data is not None:
            # Some weights were inside, others beside: one file takes them all.
            for tensor in list(kept.kept_tensors(model)):
                found.take(tensor, kept.chunks_of(tensor))
        fold_external(model, rules, into=found)
    if data is not None and data.path != found.path:
        data.path.unlink(missing_ok=True)
    return True, found


def _check_disk(folder: Path, size: int, what: str) -> None:
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return  # the write will say it better
    if size > free:
        raise InputError(
            f"{what}: its {format_bytes(size)} of weights do not fit into {folder}, where {format_bytes(free)} are free: free"
            " some space there, or name a work folder on another disk",
            reason=DISK_FULL,
        )


def open_session(path: Path | bytes, *, threads: int = 1, level: Any = BASIC, profile: Path | None = None) -> Any:
    """A CPU session with the options that everything of ours uses; for a large model of ours, a lean one (`lean`).

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
        if not isinstance(path, bytes) and companion(path) is not None:
            return lean.LeanSession(path, options)
        return ort.InferenceSession(
            path if isinstance(path, bytes) else str(path), options, providers=["CPUExecutionProvider"]
        )
    except InputError:
        raise
    except Exception as error:  # onnxruntime raises many types of its own
        name = "the model" if isinstance(path, bytes) else path.name
        raise InputError(
            f"onnxruntime {ort.__version__} cannot load {name}: {runtime_message(error)}: export the model with"
            " operators and types that this version has"
        ) from None


def save_model(proto: Any, path: Path) -> tuple[str, int]:
    """Write a model: the same model gives the same bytes, and the file appears whole.

    Weights of `kept.LARGE_BYTES` or more, and whatever was made of such a model, go into a second file beside it, which is
    named by its content: it is then never in memory as a whole, and sessions of it are lean.

    Returns:
        sha256 (hex) of the file, which covers the second one; size in bytes of both.

    Raises:
        InputError: beyond protobuf's limit of 2 GiB, or the disk refuses.
    """
    if datafile.goes_outside(proto):
        return datafile.save_large(proto, path)
    proto = kept.inlined(proto)
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
        raise InputError(f"{what}: changed while it was read ({counted(size, 'byte')} before): try again")
    return content
