"""Quantizing: one step in one encoding. The techniques are in `weight_only` and `integer`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgemodel_api.edgemodel import QuantizeStep
from edgemodel_api.errors import InputError
from edgemodel_compressor.memory import whole

from .calibrate import Ranges
from .encodings import Encoding
from .graph import copy_of
from .integer import quantize_dynamic, quantize_static
from .nodes import quantizable
from .selection import allowed, unknown_excludes, weight_allowed
from .weight_only import MIN_ELEMENTS, Encode, plainly, store_weights
from .weights import weights

__all__ = ["QuantizeResult", "quantizable", "quantize"]


@dataclass(frozen=True)
class QuantizeResult:
    """What came out.

    Attributes:
        model: the quantized copy.
        quantized_nodes: names of the nodes that read small numbers or compute with them.
        notes: what a user should know.
    """

    model: Any
    quantized_nodes: tuple[str, ...]
    notes: tuple[str, ...]


def quantize(
    model: Any,
    step: QuantizeStep,
    encoding: Encoding,
    *,
    ranges: Ranges | None,
    nodes: frozenset[str] | None = None,
    how: Encode = plainly,
) -> QuantizeResult:
    """Quantize a copy.

    Args:
        model: a ModelProto as `prepare` left it, or what an earlier step made of it.
        step: which nodes: scope, include, exclude.
        encoding: number types, one of `encodings_for(step, …)`.
        ranges: of activations, for static encodings.
        nodes: names that a search narrows the step down to; None: all that the step means.
        how: weights are stored, where nothing computes with whole numbers.

    Raises:
        InputError: nothing to quantize, ranges are missing, a weight holds NaN, or onnxruntime's quantizer cannot take
            the model (the message says which node, and what to do).
    """
    notes = list(unknown_excludes(model, step.exclude))
    if not encoding.weights_only:
        model = whole(model, encoding.name)
        if encoding.dynamic:
            made = quantize_dynamic(model, step, encoding, nodes=nodes)
        elif ranges is None:
            raise InputError(f"{encoding.name} needs ranges of activations: give data.calibration")
        else:
            made = quantize_static(model, step, encoding, ranges=ranges, nodes=nodes)
        return QuantizeResult(made.model, made.nodes, (*notes, *made.notes))
    result = copy_of(model)
    chosen = [w for w in weights(result) if w.size >= MIN_ELEMENTS and weight_allowed(w, step, nodes)]
    if not chosen:
        raise InputError(nothing_to_do(encoding, f"float weights of at least {MIN_ELEMENTS} elements"))
    done, more = store_weights(result, chosen, encoding, how)
    if not done:
        raise InputError(nothing_to_do(encoding, "weights that it would make smaller"))
    names = dict.fromkeys(u.node for w in done for u in w.uses if allowed(u, step, nodes))
    return QuantizeResult(result, tuple(names), (*notes, *more))


def nothing_to_do(encoding: Encoding, what: str) -> str:
    """The sentence for a step without nodes."""
    return (
        f"{encoding.name} finds nothing to quantize: the model has no {what} among the nodes that include and exclude"
        " leave; change them, or use another precision"
    )
