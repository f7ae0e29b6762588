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
        path: a file that has the signature `serving_default`, or its content.
        threads: of the kernels.
        delegates: whether XNNPACK may take parts of the graph.

    Raises:
        InputError: it has no such signature; while running: inputs are missing or do not fit.
    """
    found = interpreter(path, threads=threads, delegates=delegates)
    signatures = found.get_signature_list()
    if SIGNATURE not in signatures:
        raise InputError(
            f"the TFLite model has no signature {SIGNATURE!r}, so its inputs have no names: convert it again"
        )
    try:
        runner = found.get_signature_runner(SIGNATURE)
        details = runner.get_input_details()
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{runtime()} cannot prepare the model: {_words(error)}") from None
    return _run(runner, details)


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
    array = np.ascontiguousarray(value)
    if array.dtype != detail["dtype"]:
        raise InputError(f"input {name!r} is {array.dtype}, and the model takes {np.dtype(detail['dtype'])}")
    signature = [int(d) for d in detail["shape_signature"]]
    if array.ndim != len(signature) or any(w not in (-1, g) for w, g in zip(signature, array.shape, strict=False)):
        raise InputError(f"input {name!r} has shape {list(array.shape)}, and the model takes {signature} (-1: any)")
    return array


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:400]
