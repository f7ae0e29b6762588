"""Smaller weights in an ML program, by coremltools: INT8, palettes and sparse storage.

Only weights of layers are compressed: constants of arithmetic, norms and resizing stay. The k-means of palettes is
coremltools' exact one in one dimension (kmeans1d), on the weights' half-precision values and their counts, so that
the same weights give the same palette; coremltools' own choice would be scikit-learn's for small weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .lower import Array

#: Operations whose constants are weights.
LAYERS = ("conv", "conv_transpose", "linear", "matmul", "gather", "lstm", "rnn")
_LEAST = 256
#: A sparse weight costs one bit an element for the mask; below this share of zeros it is not worth it.
_LEAST_SPARSITY = 0.2
#: A palette must be smaller than the weights that use it.
_PALETTE_SHARE = 4


def _optimize() -> Any:
    import coremltools.optimize.coreml  # type: ignore[import-untyped]

    return coremltools.optimize.coreml


def int8_weights(model: Any, exact: Sequence[str]) -> Any:
    """Signed, symmetric, one scale an output channel; weights become `scale · q`."""
    cto = _optimize()

    config = cto.OpLinearQuantizerConfig(
        mode="linear_symmetric", dtype=np.int8, granularity="per_channel", weight_threshold=_LEAST
    )
    return cto.linear_quantize_weights(model, _for_layers(model, config, exact))


def palettized(model: Any, exact: Sequence[str], bits: int) -> Any:
    """Each weight is one of 2^bits values of its tensor."""
    cto = _optimize()

    config = cto.OpPalettizerConfig(
        mode="custom", lut_function=_palette(bits), weight_threshold=max(_LEAST, _PALETTE_SHARE << bits)
    )
    return cto.palettize_weights(model, _for_layers(model, config, exact))


def sparse(model: Any, exact: Sequence[str]) -> Any:
    """Zeros are stored as one bit; no weight is changed."""
    cto = _optimize()

    config = cto.OpThresholdPrunerConfig(
        threshold=0.0, minimum_sparsity_percentile=_LEAST_SPARSITY, weight_threshold=_LEAST
    )
    return cto.prune_weights(model, _for_layers(model, config, exact))


def _for_layers(model: Any, config: Any, exact: Sequence[str]) -> Any:
    cto = _optimize()

    result = cto.OptimizationConfig(op_type_configs=dict.fromkeys(LAYERS, config))
    for function in model._mil_program.functions.values():
        for operation in function.operations:
            if operation.op_type == "const" and operation.name.startswith(tuple(exact) or ("\0",)):
                result.set_op_name(operation.name, None)
    return result


def _palette(bits: int) -> Callable[[Array], tuple[Array, Array]]:
    from coremltools._deps import kmeans1d  # type: ignore[import-untyped]

    def lut_function(weight: Array) -> tuple[Array, Array]:
        """The palette, 2^bits long, and each weight's place in it (flat)."""
        values, places, counts = np.unique(weight.astype(np.float16), return_inverse=True, return_counts=True)
        clusters = min(len(values), 1 << bits)
        found = kmeans1d.cluster(values.astype(np.float64), clusters, weights=counts.astype(np.float64))
        palette = np.zeros(1 << bits, weight.dtype)
        palette[:clusters] = found.centroids
        return palette, np.asarray(found.clusters, np.uint8)[places.reshape(-1)]

    return lut_function
