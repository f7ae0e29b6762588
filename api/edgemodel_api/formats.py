"""File formats, and the runtimes that load them: what decides whether a node can run a variant. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType


class Format(StrEnum):
    """File formats that edge frameworks load."""

    ONNX = "ONNX"
    TFLITE = "TFLite"
    COREML = "CoreML"


#: Names as `EdgeNode.status.runtimes` gives them; any one of them will do. Core ML runs on Apple's systems only.
RUNTIMES_OF: Mapping[Format, tuple[str, ...]] = MappingProxyType(
    {Format.ONNX: ("onnxruntime",), Format.TFLITE: ("ai-edge-litert", "tflite-runtime"), Format.COREML: ()}
)


def loadable(runtimes: Iterable[str]) -> frozenset[Format]:
    """The formats that one of these runtimes loads."""
    there = set(runtimes)
    return frozenset(f for f, names in RUNTIMES_OF.items() if there.intersection(names))
