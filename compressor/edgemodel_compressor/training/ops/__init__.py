"""Operators of ONNX as JAX functions; importing this package imports JAX."""

from __future__ import annotations

from collections.abc import Mapping

from . import (
    attention,
    control,
    convolution,
    elementwise,
    indexing,
    linear,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduction,
    resize,
    sampling,
    shaping,
    signal,
)
from .base import REGISTRY

#: Operator (`domain:Op` outside ONNX's own domain) → note on what of it is converted; empty: all of it.
OPS: Mapping[str, str] = {
    (f"{domain}:{name}" if domain else name): conversion.note for (domain, name), conversion in sorted(REGISTRY.items())
}

__all__ = [
    "OPS", "REGISTRY", "attention", "control", "convolution", "elementwise", "indexing", "linear", "normalization",
    "pooling", "quantization", "recurrent", "reduction", "resize", "sampling", "shaping", "signal",
]  # fmt: skip
