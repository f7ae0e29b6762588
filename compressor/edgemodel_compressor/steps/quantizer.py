"""Running onnxruntime's quantizers: quiet, deterministic, and with messages instead of tracebacks."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from edgemodel_api.errors import InputError, TransientError

from .encodings import Encoding, Number
from .graph import copy_of, names_in, sort_nodes, uses_of

#: Endings of the names that they give to tensors.
_MADE_UP = (
    "_scale", "_zero_point", "_quantized", "_QuantizeLinear_Input", "_QuantizeLinear_Output",
    "_DequantizeLinear_Output", "_output_quantized",
)  # fmt: skip


def run_quantizer(
    model: Any,
    nodes: list[Any],
    encoding: Encoding,
    *,
    per_channel: bool,
    options: dict[str, Any],
    data: dict[str, Any] | None,
) -> Any:
    """Quantize some nodes, in place.

    Args:
        model: that may be changed.
        nodes: these and no others.
        encoding: number types.
        per_channel: one scale per output channel of weights.
        options: the quantizer's `extra_options`.
        data: TensorData by tensor name; None for dynamic encodings.

    Raises:
        InputError: it cannot take one of the nodes; the message names it where that can be told.
        TransientError: no room for its temporary files, or no memory.
    """
    from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import QuantizationMode, QuantType

    kind = {Number.INT8: QuantType.QInt8, Number.UINT8: QuantType.QUInt8}
    activation = kind[encoding.activation or Number.UINT8]
    _check_names(model, nodes)
    names = [n.name for n in nodes]
    ops = sorted({n.op_type for n in nodes})
    common: tuple[Any, ...] = (names, [], ops, options)
    try:
        with _quiet():
            if encoding.dynamic:
                quantizer = ONNXQuantizer(
                    model, per_channel, encoding.reduce_range, QuantizationMode.IntegerOps, False,
                    kind[encoding.weight], activation, None, *common,
                )  # fmt: skip
            else:
                quantizer = QDQQuantizer(
                    model, per_channel, encoding.reduce_range, kind[encoding.weight], activation, data, *common
                )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
    except (OSError, MemoryError) as error:
        raise TransientError(
            f"onnxruntime's quantizer ran out of memory or room for temporary files: {error}; give it more"
        ) from None
    except Exception as error:  # the quantizer raises and asserts whatever it meets
        text = (str(error).strip() or type(error).__name__).splitlines()[-1][:200]
        guilty = next((n.name for n in nodes if any(_mentions(text, i) for i in (n.name, *n.input, *n.output))), None)
        where = f"node {guilty!r}" if guilty else f"one of its {len(nodes)} nodes ({', '.join(ops)})"
        raise InputError(
            f"onnxruntime's quantizer cannot take {where} as {encoding.name}: {text}; exclude it, or use activations:"
            " None (weights only)"
        ) from None
    made = quantizer.model.model
    sort_nodes(made.graph)
    return made


def _mentions(text: str, name: str) -> bool:
    return bool(name) and re.search(rf"(?<![\w/.:;]){re.escape(name)}(?![\w/.:;])", text) is not None


def _check_names(model: Any, nodes: list[Any]) -> None:
    """The quantizer makes names up and does not look whether they are taken."""
    taken = names_in(model.graph)
    touched = dict.fromkeys(n for node in nodes for n in (*node.input, *node.output) if n)
    clash = next((name + s for name in touched for s in _MADE_UP if name + s in taken), None)
    if clash is not None:
        raise InputError(
            f"onnxruntime's quantizer would make a tensor named {clash!r}, which the model has already: rename it, or use"
            " activations: None (weights only)"
        )


def tidy(made: Any, model: Any) -> Any:
    """Take away what the quantizer leaves: its signature, unread constants, metadata of temporary files."""
    made.producer_name, made.producer_version = model.producer_name, model.producer_version
    del made.metadata_props[:]
    made.metadata_props.extend(model.metadata_props)
    read = uses_of(made.graph)
    tensors = [copy_of(t) for t in made.graph.initializer if read.get(t.name)]
    del made.graph.initializer[:]
    made.graph.initializer.extend(tensors)
    # Shapes that the quantizer inferred only make the file larger; the model's own annotations stay.
    declared = {v.name for v in model.graph.value_info}
    shapes = [copy_of(v) for v in made.graph.value_info if v.name in declared]
    del made.graph.value_info[:]
    made.graph.value_info.extend(shapes)
    return made


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantizer logs advice to the root logger; what matters is in our notes."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
