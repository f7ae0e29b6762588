"""Matrix products: Gemm, MatMul, Einsum."""

from __future__ import annotations

import numpy as np

from edgemodel_api.quantities import counted

from .lower import Node, Unsupported, Value, kind_of, lowers, shape_of
from .ops_elementwise import scalar

#: `linear` takes at most this many axes.
_LINEAR_RANK = 3


@lowers("Gemm")
def _gemm(node: Node) -> Value:
    a, b = node[0], node[1]
    alpha, beta = float(node.attr("alpha", 1.0)), float(node.attr("beta", 1.0))
    if node.attr("transA", 0):
        a = a.T if isinstance(a, np.ndarray) else node.mb.transpose(x=a, perm=[1, 0])
    bias = node.get(2)
    if isinstance(b, np.ndarray) and not isinstance(a, np.ndarray):
        weight = (b if node.attr("transB", 0) else b.T) * np.float32(alpha)
        columns = weight.shape[0]
        if bias is None or beta == 0:
            return node.mb.linear(x=a, weight=weight)
        if isinstance(bias, np.ndarray) and bias.size in (1, columns) and (bias.ndim < 2 or bias.shape[0] == 1):
            flat = np.broadcast_to(bias.reshape(-1), (columns,)) * np.float32(beta)
            return node.mb.linear(x=a, weight=weight, bias=flat)
        product = node.mb.linear(x=a, weight=weight)
    else:
        product = node.mb.matmul(x=a, y=b, transpose_y=bool(node.attr("transB", 0)))
        if alpha != 1:
            product = node.mb.mul(x=product, y=scalar(alpha))
    if bias is None or beta == 0:
        return product
    if beta != 1:
        bias = bias * np.float32(beta) if isinstance(bias, np.ndarray) else node.mb.mul(x=bias, y=scalar(beta))
    return node.mb.add(x=product, y=bias)


@lowers("MatMul")
def _matmul(node: Node) -> Value:
    return matmul(node, node[0], node[1])


def matmul(node: Node, x: Value, y: Value) -> Value:
    """With numpy's rules for one axis and for broadcasting."""
    rank_x, rank_y = len(shape_of(x)), len(shape_of(y))
    if isinstance(y, np.ndarray) and y.ndim == 2 and 2 <= rank_x <= _LINEAR_RANK and kind_of(y) == "f":
        return node.mb.linear(x=x, weight=np.ascontiguousarray(y.T))
    # Vectors become matrices, and the axis is taken away again.
    if rank_x == 1:
        x = x[None] if isinstance(x, np.ndarray) else node.mb.expand_dims(x=x, axes=[0])
    if rank_y == 1:
        y = y[:, None] if isinstance(y, np.ndarray) else node.mb.expand_dims(x=y, axes=[1])
    product = node.mb.matmul(x=x, y=y)
    axes = ([-2] if rank_x == 1 else []) + ([-1] if rank_y == 1 else [])
    return node.mb.squeeze(x=product, axes=axes) if axes else product


@lowers("FusedMatMul", note="without transBatchA and transBatchB")
def _fused_matmul(node: Node) -> Value:
    node.only(not node.attr("transBatchA", 0) and not node.attr("transBatchB", 0), "transBatchA or transBatchB")
    x, y = node[0], node[1]
    product = node.mb.matmul(
        x=x, y=y, transpose_x=bool(node.attr("transA", 0)), transpose_y=bool(node.attr("transB", 0))
    )
    alpha = float(node.attr("alpha", 1.0))
    return product if alpha == 1 else node.mb.mul(x=product, y=scalar(alpha))


@lowers("Einsum", note="without repeated letters in one operand (diagonals)")
def _einsum(node: Node) -> Value:
    equation = node.attr("equation").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    values = [node[i] for i in range(node.count())]
    if "." in equation:
        terms, right = _without_ellipsis(terms, right, values, given=bool(arrow))
    for term, value in zip(terms, values, strict=True):
        node.only(len(set(term)) == len(term), f"a diagonal in {equation!r}")
        node.only(
            len(term) == len(shape_of(value)),
            f"{equation!r} for a value with {counted(len(shape_of(value)), 'axis', 'axes')}",
        )
    if not arrow:
        letters = "".join(terms)
        right = "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
        if "." in equation:
            right = _without_ellipsis(left.split(","), "...", values, given=True)[1] + right.replace(".", "")
    term, value = terms[0], values[0]
    for i in range(1, len(terms)):
        later = set("".join(terms[i + 1 :])) | set(right)
        term, value = _pair(node, (term, value), (terms[i], values[i]), later)
    term, value = _summed(node, term, value, set(right))
    if term != right:
        value = node.mb.transpose(x=node.conversion.var(value), perm=[term.index(c) for c in right])
    return value if not isinstance(value, np.ndarray) and len(terms) + len(right) else node.conversion.var(value)


def _without_ellipsis(terms: list[str], right: str, values: list[Value], *, given: bool) -> tuple[list[str], str]:
    """`...` as capital letters that the equation does not use, aligned at the end."""
    used = set("".join(terms)) | set(right)
    free = [chr(c) for c in range(ord("A"), ord("Z") + 1) if chr(c) not in used]
    extra = [
        len(shape_of(v)) - len(t.replace("...", "")) if "..." in t else 0 for t, v in zip(terms, values, strict=True)
    ]
    most = max(extra)
    if most > len(free) or min(extra) < 0:
        raise Unsupported("more letters than the alphabet has")
    letters = "".join(free[:most])
    filled = [t.replace("...", letters[most - e :]) for t, e in zip(terms, extra, strict=True)]
    return filled, right.replace("...", letters) if given else right


def _summed(node: Node, term: str, value: Value, keep: set[str]) -> tuple[str, Value]:
    axes = [i for i, c in enumerate(term) if c not in keep]
    if not axes:
        return term, value
    value = node.mb.reduce_sum(x=node.conversion.var(value), axes=axes, keep_dims=False)
    return "".join(c for c in term if c in keep), value


def _pair(node: Node, first: tuple[str, Value], second: tuple[str, Value], later: set[str]) -> tuple[str, Value]:
    """Two operands as one batched matrix product: [batch, kept of a, summed] × [batch, summed, kept of b]."""
    a, x = _summed(node, *first, later | set(second[0]))
    b, y = _summed(node, *second, later | set(a))
    batch = [c for c in a if c in b and c in later]
    inner = [c for c in a if c in b and c not in later]
    rows, columns = [c for c in a if c not in b], [c for c in b if c not in a]
    sizes = dict(zip(a, shape_of(x), strict=True))
    for c, size in zip(b, shape_of(y), strict=True):
        node.only(sizes.get(c, size) == size, f"broadcasting along {c!r}")
        sizes[c] = size

    def matrix(term: str, value: Value, groups: list[list[str]]) -> Value:
        order = [term.index(c) for group in groups for c in group]
        value = node.conversion.var(value)
        if order != sorted(order):
            value = node.mb.transpose(x=value, perm=order)
        shape = [int(np.prod([sizes[c] for c in group])) for group in groups]
        return node.mb.reshape(x=value, shape=shape)

    product = node.mb.matmul(x=matrix(a, x, [batch, rows, inner]), y=matrix(b, y, [batch, inner, columns]))
    letters = batch + rows + columns
    node.only(len(letters) <= 5, "more than five axes on the way")
    shape = [sizes[c] for c in letters]
    return "".join(letters), node.mb.reshape(x=product, shape=shape or [1]) if shape else node.mb.squeeze(x=product)
