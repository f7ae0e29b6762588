"""Normalisation layers and softmax."""

from __future__ import annotations

import numpy as np

from edgemodel_api.quantities import counted

from .lower import Array, Node, Value, lowers
from .ops_elementwise import scalar


def _per_channel(value: Array, rank: int) -> Array:
    return value.astype(np.float32).reshape(1, -1, *([1] * (rank - 2)))


@lowers("BatchNormalization", note="for inference")
def _batch_normalization(node: Node) -> Value:
    node.only(not node.attr("training_mode", 0) and not any(node.wants(i) for i in range(1, 5)), "training mode")
    epsilon = float(node.attr("epsilon", 1e-5))
    rank = node.rank(0)
    parameters = [node[i] for i in range(1, 5)]
    if all(isinstance(p, np.ndarray) for p in parameters):
        gamma, beta, mean, variance = parameters
        if 3 <= rank <= 5:
            return node.mb.batch_norm(
                x=node[0], mean=mean, variance=variance, gamma=gamma, beta=beta, epsilon=scalar(epsilon)
            )
        scale = gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
        shift = beta - mean * scale
        scaled = node.mb.mul(x=node[0], y=_per_channel(scale, rank))
        return node.mb.add(x=scaled, y=_per_channel(shift, rank))
    shape = [1, -1] + [1] * (rank - 2)
    gamma, beta, mean, variance = (node.mb.reshape(x=node.conversion.var(p), shape=shape) for p in parameters)
    deviation = node.mb.sqrt(x=node.mb.add(x=variance, y=scalar(epsilon)))
    scaled = node.mb.mul(x=node.mb.real_div(x=node.mb.sub(x=node[0], y=mean), y=deviation), y=gamma)
    return node.mb.add(x=scaled, y=beta)


def normalized(node: Node, x: Value, axes: list[int], epsilon: float) -> tuple[Value, Value, Value]:
    """(x - mean) / sqrt(variance + epsilon) over some axes; with the mean and 1 / deviation."""
    mean = node.mb.reduce_mean(x=x, axes=axes, keep_dims=True)
    centred = node.mb.sub(x=x, y=mean)
    variance = node.mb.reduce_mean(x=node.mb.mul(x=centred, y=centred), axes=axes, keep_dims=True)
    deviation = node.mb.sqrt(x=node.mb.add(x=variance, y=scalar(epsilon)))
    return node.mb.real_div(x=centred, y=deviation), mean, deviation


def _layer_norm(node: Node, x: Value, axes: list[int], scales: tuple[Value, Value], epsilon: float) -> Value:
    gamma, beta = scales
    shape = tuple(int(x.shape[i]) for i in axes)
    fits = all(p is None or (isinstance(p, np.ndarray) and p.size == int(np.prod(shape))) for p in (gamma, beta))
    if fits:
        return node.mb.layer_norm(
            x=x,
            axes=axes,
            gamma=None if gamma is None else gamma.reshape(shape),
            beta=None if beta is None else beta.reshape(shape),
            epsilon=scalar(epsilon),
        )
    y = node.mb.layer_norm(x=x, axes=axes, epsilon=scalar(epsilon))
    y = y if gamma is None else node.mb.mul(x=y, y=gamma)
    return y if beta is None else node.mb.add(x=y, y=beta)


@lowers("LayerNormalization")
def _layer_normalization(node: Node) -> list[Value]:
    rank = node.rank(0)
    axes = list(range(node.axis(int(node.attr("axis", -1)), rank), rank))
    epsilon = float(node.attr("epsilon", 1e-5))
    result = [_layer_norm(node, node[0], axes, (node.get(1), node.get(2)), epsilon)]
    if node.wants(1) or node.wants(2):
        _, mean, deviation = normalized(node, node[0], axes, epsilon)
        result += [mean, node.mb.real_div(x=scalar(1), y=deviation)]
    return result


@lowers("SkipLayerNormalization", note="without the outputs mean and inv_std_var")
def _skip_layer_normalization(node: Node) -> list[Value]:
    node.only(not node.wants(1) and not node.wants(2), "its outputs mean or inv_std_var are used")
    total = node.mb.add(x=node[0], y=node[1])
    if node.has(4):
        total = node.mb.add(x=total, y=node[4])
    epsilon = float(node.attr("epsilon", 1e-5))
    result = _layer_norm(node, total, [node.rank(0) - 1], (node[2], node.get(3)), epsilon)
    return [result, np.zeros(0), np.zeros(0), total] if node.wants(3) else [result]


@lowers("RMSNormalization", "SimplifiedLayerNormalization")
def _rms_normalization(node: Node) -> Value:
    rank = node.rank(0)
    axes = list(range(node.axis(int(node.attr("axis", -1)), rank), rank))
    x = node[0]
    square = node.mb.reduce_mean(x=node.mb.mul(x=x, y=x), axes=axes, keep_dims=True)
    deviation = node.mb.sqrt(x=node.mb.add(x=square, y=scalar(float(node.attr("epsilon", 1e-5)))))
    return node.mb.mul(x=node.mb.real_div(x=x, y=deviation), y=node[1])


@lowers("InstanceNormalization")
def _instance_normalization(node: Node) -> Value:
    epsilon = float(node.attr("epsilon", 1e-5))
    x, shape = node[0], node.shape(0)
    gamma, beta = node[1], node[2]
    if isinstance(gamma, np.ndarray) and isinstance(beta, np.ndarray) and 3 <= len(shape) <= 4:
        return node.mb.instance_norm(x=x, gamma=gamma, beta=beta, epsilon=scalar(epsilon))
    y, _, _ = normalized(node, x, list(range(2, len(shape))), epsilon)
    wide = [1, -1] + [1] * (len(shape) - 2)
    gamma, beta = (node.mb.reshape(x=node.conversion.var(p), shape=wide) for p in (gamma, beta))
    return node.mb.add(x=node.mb.mul(x=y, y=gamma), y=beta)


@lowers("GroupNormalization")
def _group_normalization(node: Node) -> Value:
    shape, groups = node.shape(0), int(node.attr("num_groups"))
    epsilon = float(node.attr("epsilon", 1e-5))
    grouped = node.mb.reshape(x=node[0], shape=[shape[0], groups, -1])
    y = node.mb.layer_norm(x=grouped, axes=[2], epsilon=scalar(epsilon))
    parameters = []
    for i in (1, 2):
        value = node.const(i, ("the scale", "the bias")[i - 1])
        # Before opset 21 there was one number a group.
        if value.size == groups != shape[1]:
            value = np.repeat(value, shape[1] // groups)
        parameters.append(_per_channel(value, len(shape)))
    y = node.mb.reshape(x=y, shape=list(shape))
    return node.mb.add(x=node.mb.mul(x=y, y=parameters[0]), y=parameters[1])


@lowers("MeanVarianceNormalization")
def _mean_variance_normalization(node: Node) -> Value:
    axes = node.ints("axes") or [0, 2, 3]
    mean = node.mb.reduce_mean(x=node[0], axes=axes, keep_dims=True)
    centred = node.mb.sub(x=node[0], y=mean)
    variance = node.mb.reduce_mean(x=node.mb.mul(x=centred, y=centred), axes=axes, keep_dims=True)
    return node.mb.real_div(x=centred, y=node.mb.add(x=node.mb.sqrt(x=variance), y=scalar(1e-9)))


@lowers("LpNormalization")
def _lp_normalization(node: Node) -> Value:
    axis, p = int(node.attr("axis", -1)), int(node.attr("p", 2))
    reduce = node.mb.reduce_l1_norm if p == 1 else node.mb.reduce_l2_norm
    norm = reduce(x=node[0], axes=[axis], keep_dims=True)
    # Zeros stay zeros.
    divisor = node.mb.select(cond=node.mb.equal(x=norm, y=scalar(0)), a=scalar(1), b=norm)
    return node.mb.real_div(x=node[0], y=divisor)


@lowers("LRN", note="odd sizes, three or four axes")
def _lrn(node: Node) -> Value:
    size = int(node.attr("size"))
    node.only(size % 2 == 1, f"the even size {size}, which frameworks place differently")
    node.only(3 <= node.rank(0) <= 4, counted(node.rank(0), "axis", "axes"))
    return node.mb.local_response_norm(
        x=node[0],
        size=size,
        alpha=scalar(node.attr("alpha", 1e-4)),
        beta=scalar(node.attr("beta", 0.75)),
        k=scalar(node.attr("bias", 1.0)),
    )


@lowers("Softmax", "LogSoftmax", "Hardmax")
def _softmax(node: Node) -> Value:
    rank, shape = node.rank(0), list(node.shape(0))
    axis = node.axis(int(node.attr("axis", -1 if node.opset >= 13 else 1)), rank)
    x = node[0]
    # Before opset 13 all axes from this one on are one.
    flat = node.opset < 13 and axis < rank - 1
    if flat:
        x = node.mb.reshape(x=x, shape=[int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))])
        axis = 1
    if node.op == "Softmax":
        y = node.mb.softmax(x=x, axis=axis)
    elif node.op == "LogSoftmax":
        y = node.mb.sub(x=x, y=node.mb.reduce_log_sum_exp(x=x, axes=[axis], keep_dims=True))
    else:
        best = node.mb.reduce_argmax(x=x, axis=axis, keep_dims=False)
        size = int(x.shape[axis])
        y = node.mb.one_hot(indices=best, one_hot_vector_size=size, axis=axis, on_value=scalar(1), off_value=scalar(0))
    return node.mb.reshape(x=y, shape=shape) if flat else y
