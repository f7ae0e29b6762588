"""Low rank: a matrix or convolution as two smaller ones, by the singular value decomposition.

W ≈ (U·√Σ)·(√Σ·Vᵀ) with the r largest singular values is the nearest matrix of rank r (Eckart and Young 1936). For
convolutions the weight is seen as a matrix [outputs, inputs · kernel]: r filters of the original shape, then a 1×1
convolution (scheme 2 of Zhang et al. 2015, "Accelerating Very Deep Convolutional Networks", arXiv:1505.06798).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import helper, numpy_helper

from edgemodel_compressor.steps.graph import FLOATS, array_of, attribute, copy_of, fresh, is_standard, names_in, uses_of

Array = npt.NDArray[Any]


def low_rank(model: Any, share: float) -> tuple[Any, int]:
    """A copy in which each MatMul, Gemm and Conv with a weight of its own has two weights of lower rank.

    Weights for which that would save no numbers stay, as do grouped convolutions and weights with several readers.

    Args:
        model: ModelProto.
        share: of the full rank, 0 … 1; at least rank 1 is kept.

    Returns:
        The copy, and how many weights were factorised.
    """
    result = copy_of(model)
    graph = result.graph
    own = {t.name: t for t in graph.initializer if t.data_type in FLOATS}
    uses, taken = uses_of(graph), names_in(graph)
    taken |= {n.name for n in graph.node}
    nodes, dropped = [], set[str]()
    for node in graph.node:
        weight = node.input[1] if len(node.input) > 1 else ""
        if weight not in own or uses.get(weight) != 1 or not is_standard(node):
            nodes.append(node)
            continue
        pair = _factorised(node, array_of(own[weight]), share, taken, graph)
        nodes += [node] if pair is None else pair
        if pair is not None:
            dropped.add(weight)
    if dropped:
        copies = [copy_of(n) for n in nodes]
        del graph.node[:]
        graph.node.extend(copies)
        kept = [copy_of(t) for t in graph.initializer if t.name not in dropped]
        del graph.initializer[:]
        graph.initializer.extend(kept)
    return result, len(dropped)


def _factorised(node: Any, values: Array, share: float, taken: set[str], graph: Any) -> list[Any] | None:
    """The two nodes, their weights put into the graph; None: it stays."""
    if node.op_type == "MatMul" and values.ndim == 2:
        matrix = values
    elif node.op_type == "Gemm" and values.ndim == 2 and not attribute(node, "transA", 0):
        matrix = values.T if attribute(node, "transB", 0) else values
    elif node.op_type == "Conv" and values.ndim >= 3 and int(attribute(node, "group", 1)) == 1:
        # [inputs · kernel, outputs]
        matrix = values.reshape(len(values), -1).T
    else:
        return None
    rank = max(1, round(share * min(matrix.shape)))
    if rank * sum(matrix.shape) >= matrix.size:
        return None
    first, second = factors(matrix, rank)
    if node.op_type == "Conv":
        first = first.T.reshape(rank, *values.shape[1:])
        second = second.T.reshape(len(values), rank, *(1,) * (values.ndim - 2))
    names = [fresh(f"{node.input[1]}/rank_{i}", taken) for i in (1, 2)]
    for name, factor in zip(names, (first, second), strict=True):
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(factor, dtype=values.dtype), name))
    middle = fresh(f"{node.output[0]}/rank", taken)
    before, after = copy_of(node), copy_of(node)
    before.name = fresh(f"{node.name}/rank", taken)
    del before.input[:]
    before.input.extend([node.input[0], names[0]])
    before.output[0] = middle
    after.input[0], after.input[1] = middle, names[1]
    if node.op_type == "Gemm":
        # y = (x·A)·B·alpha + bias·beta, both factors untransposed. Before opset 11 a Gemm needs a bias; a MatMul never.
        before.op_type = "MatMul"
        _replace_attributes(before, {})
        kept = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name in ("alpha", "beta")}
        _replace_attributes(after, kept)
    if node.op_type == "Conv":
        _replace_attributes(after, {"kernel_shape": [1] * (values.ndim - 2)})
    return [before, after]


def factors(matrix: Array, rank: int) -> tuple[Array, Array]:
    """[m, n] → [m, rank], [rank, n], whose product is the nearest of that rank; float64.

    >>> a, b = factors(np.outer([1.0, 2.0], [3.0, 4.0]), 1)
    >>> np.allclose(a @ b, [[3, 4], [6, 8]])
    True
    """
    u, s, v = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    root = np.sqrt(s[:rank])
    left, right = u[:, :rank] * root, root[:, None] * v[:rank]
    # The signs of singular vectors are free: the largest number of each column is made positive.
    signs = np.sign(left[np.argmax(np.abs(left), axis=0), np.arange(rank)])
    signs[signs == 0] = 1.0
    return left * signs, right * signs[:, None]


def _replace_attributes(node: Any, wanted: dict[str, Any]) -> None:
    del node.attribute[:]
    node.attribute.extend(helper.make_attribute(k, v) for k, v in wanted.items())
