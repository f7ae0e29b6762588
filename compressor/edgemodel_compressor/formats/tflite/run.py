"""Running a TFLite file with LiteRT: names, shapes and types as the ONNX model has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from edgemodel_api.errors import InputError
from edgemodel_compressor.evaluate.runner import Arrays, Run

from .schema import SIGNATURE


def runtime() -> str:
    """Such as `LiteRT 2.3.0`."""
    try:
        return f"LiteRT {version('ai-edge-litert')}"
    except PackageNotFoundError:
        return "LiteRT"


def interpreter(path: Path | bytes, *, threads: int = 1, delegates: bool = True, keep_all: bool = False) -> Any:
    """LiteRT's interpreter.

    Args:
        path: a file, or its content.
        threads: of the kernels.
        delegates: whether XNNPACK may take parts of the graph.
        keep_all: whether every intermediate tensor can be read after a run.

    Raises:
        InputError: the package is missing, or LiteRT cannot read the file.
    """
    try:
        from ai_edge_litert.interpreter import (  # type: ignore[import-untyped]
            Interpreter,
            OpResolverType,
        )
    except ImportError:
        raise InputError("TFLite models are run by LiteRT: install the extra `edgemodel[tflite]`") from None
    source = {"model_content": path} if isinstance(path, bytes) else {"model_path": str(path)}
    resolver = OpResolverType.AUTO if delegates else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    try:
        return Interpreter(
            **source,
            num_threads=threads,
            experimental_preserve_all_tensors=keep_all,
            experimental_op_resolver_type=resolver,
        )
    except (ValueError, RuntimeError, OSError) as error:
        name = "the model" if isinstance(path, bytes) else path.name
        raise InputError(f"{runtime()} cannot read {name}: {_words(error)}") from None


def open_run(path: Path | bytes, *, threads: int = 1, delegates: bool = True) -> Run:
    """A function that runs the model; tensors are allocated once for each batch.

    Args:
        path: a file, or its content. Inputs and outputs go by the names of the signature `serving_default`, or of the only
            signature; where there is none, by those of their tensors.
        threads: of the kernels.
        delegates: whether XNNPACK may take parts of the graph.

    Raises:
        InputError: it has several other signatures; while running: inputs are missing or do not fit.
    """
    found = interpreter(path, threads=threads, delegates=delegates)
    signatures = list(found.get_signature_list())
    if SIGNATURE not in signatures and len(signatures) > 1:
        raise InputError(
            f"the TFLite model has the signatures {', '.join(map(repr, signatures))}, and none is {SIGNATURE!r}: convert it"
            " with one of them"
        )
    try:
        if not signatures:
            return _run(*_by_tensors(found))
        runner = found.get_signature_runner(SIGNATURE if SIGNATURE in signatures else signatures[0])
        return _run(runner, runner.get_input_details())
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{runtime()} cannot prepare the model: {_words(error)}") from None


def _by_tensors(found: Any) -> tuple[Callable[..., Mapping[str, Any]], Mapping[str, Any]]:
    """As a signature's runner and its inputs, by the names of tensors."""
    inputs = {d["name"]: d for d in found.get_input_details()}
    outputs = {d["name"]: d["index"] for d in found.get_output_details()}
    if len(inputs) < len(found.get_input_details()) or len(outputs) < len(found.get_output_details()):
        raise InputError("the TFLite model has no signature, and tensors of one name: convert it again")

    def runner(**feeds: Any) -> Mapping[str, Any]:
        for name, array in feeds.items():
            found.resize_tensor_input(inputs[name]["index"], array.shape)
        found.allocate_tensors()
        for name, array in feeds.items():
            found.set_tensor(inputs[name]["index"], array)
        found.invoke()
        return {name: found.get_tensor(index) for name, index in outputs.items()}

    return runner, inputs


def _run(runner: Callable[..., Mapping[str, Any]], details: Mapping[str, Any]) -> Run:
    def run(feeds: Arrays) -> Arrays:
        given = {}
        for name, detail in details.items():
            if name not in feeds:
                raise InputError(f"the model's input {name!r} is missing; it has {', '.join(details)}")
            given[name] = _checked(name, feeds[name], detail)
        try:
            return {name: np.array(value) for name, value in runner(**given).items()}
        except (ValueError, RuntimeError) as error:
            raise InputError(f"{runtime()} fails on the data: {_words(error)}") from None

    return run


def run(path: Path, feeds: Arrays, *, threads: int = 1) -> Arrays:
    """Run once.

    Args:
        path: the file.
        feeds: inputs by the ONNX model's names, in its layouts.
        threads: of the kernels.

    Returns:
        outputs by the ONNX model's names, in its layouts.

    Raises:
        InputError: the file or the feeds do not fit.
    """
    return open_run(path, threads=threads)(feeds)


def _checked(name: str, value: Any, detail: Mapping[str, Any]) -> Any:
    array, wanted = np.ascontiguousarray(value), np.dtype(detail["dtype"])
    if array.dtype != wanted:
        array = _converted(name, array, wanted, detail)
    signature = [int(d) for d in detail["shape_signature"]]
    if array.ndim != len(signature) or any(w not in (-1, g) for w, g in zip(signature, array.shape, strict=False)):
        raise InputError(f"input {name!r} has shape {list(array.shape)}, and the model takes {signature} (-1: any)")
    return array


def _converted(name: str, array: Any, wanted: np.dtype[Any], detail: Mapping[str, Any]) -> Any:
    """Whole numbers of another width, where all of them fit."""
    message = f"input {name!r} is {array.dtype}, and the model takes {wanted}"
    if array.dtype.kind in "iu" and wanted.kind in "iu":
        limits = np.iinfo(wanted)
        if not array.size or (int(array.min()) >= limits.min and int(array.max()) <= limits.max):
            return array.astype(wanted)
        message += f", from {limits.min} to {limits.max}"
    scale, zero = detail.get("quantization", (0.0, 0))
    if array.dtype.kind == "f" and scale:
        message += f" that stand for floats: give round(x / {scale:.6g}) + {zero}, as {wanted}"
    raise InputError(message)


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:400]
