"""Model formats that artifacts can be made in besides ONNX: what must be installed, and what cannot be converted."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

from edgemodel_api.edgemodel import Format
from edgemodel_api.errors import InputError
from edgemodel_api.reasons import NOT_SUPPORTED

from .writers import WRITERS, Arrays

__all__ = ["check_formats", "check_operators", "others", "plain"]

#: What each writer imports, and the extra that brings it.
_NEEDS = MappingProxyType(
    {Format.TFLITE: (("ai_edge_litert", "flatbuffers"), "tflite"), Format.COREML: (("coremltools",), "coreml")}
)
_NODE = re.compile(r"node (.*?) \(([\w.]+)\): (.*)", re.DOTALL)
_INTEGERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
#: Nodes that a message lists; more are counted.
MOST_LISTED = 20
_LONGEST = 300


def others(formats: Iterable[Format]) -> tuple[Format, ...]:
    """Those besides ONNX, in an order that does not depend on the manifest's.

    >>> [str(f) for f in others([Format.COREML, Format.ONNX, Format.TFLITE])]
    ['TFLite', 'CoreML']
    """
    wanted = set(formats)
    return tuple(f for f in Format if f in wanted and f is not Format.ONNX)


def check_formats(formats: Iterable[Format]) -> None:
    """Before any work.

    Raises:
        InputError: with reason NotSupported, for the first format whose libraries are not installed here.
    """
    for wanted in others(formats):
        libraries, extra = _NEEDS[wanted]
        missing = [name for name in libraries if find_spec(name) is None]
        if not missing:
            continue
        where = f"install the extra `edgemodel[{extra}]` where the Job runs"
        if wanted is Format.COREML and platform.system() == "Linux" and platform.machine() != "x86_64":
            where = f"coremltools has no package for Linux on {platform.machine()}: run the Job on amd64"
        raise InputError(
            f"formats: {wanted.value} needs {' and '.join(missing)}, not installed here: {where}, or take {wanted.value}"
            " out of spec.formats",
            reason=NOT_SUPPORTED,
        )


def check_operators(
    model: Any,
    formats: Iterable[Format],
    feeds: Arrays,
    *,
    what: str = "the model",
    origins: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """After the model is loaded, before anything is measured.

    Args:
        model: a prepared ModelProto, whole.
        formats: of the Job.
        feeds: some rows, for axes that the model leaves free.
        what: names the model in messages.
        origins: node → the operator of the user's file that it was made for, where that is no ONNX file.

    Raises:
        InputError: with reason NotSupported: nodes that cannot be converted, all formats' together.
    """
    found = []
    for wanted in others(formats):
        try:
            problems = WRITERS[wanted].unsupported(model, feeds)
        except InputError as error:
            raise InputError(f"formats: {wanted.value}: {error.message}", reason=error.reason) from None
        problems = _as_given(problems, origins)
        if problems:
            more = f"; and {len(problems) - MOST_LISTED} more" if len(problems) > MOST_LISTED else ""
            found.append(
                f"{what} cannot be converted to {wanted.value}: {'; '.join(map(plain, problems[:MOST_LISTED]))}{more}: take"
                f" {wanted.value} out of spec.formats, or export the model without {'this' if len(problems) == 1 else 'these'}"
            )
    if found:
        raise InputError(". ".join(found), reason=NOT_SUPPORTED)


def _as_given(problems: Iterable[str], origins: Mapping[str, str]) -> tuple[str, ...]:
    """Problems of nodes that were made while a file was read, as those of the file's operators, each once."""
    found: dict[str, str] = {}
    for problem in problems:
        node = _NODE.match(problem)
        place = origins.get(node[1]) if node else None
        if node is None or place is None:
            found.setdefault(problem, problem)
        elif node[2] in _INTEGERS:
            found.setdefault(place, f"{place} computes with integers: give the float model that the file was made of")
        else:
            found.setdefault(place, f"{place}, in ONNX {node[2]}: {node[3]}")
    return tuple(found.values())


def plain(text: str) -> str:
    """Of a message with names from a model: they may be megabytes long, or steer a terminal."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"
    return "".join(c if c.isprintable() else "?" for c in text)
