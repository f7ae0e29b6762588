"""What a student is taught by. Pure functions of JAX; rows are the first axis, classes the last.

- `soft_targets`: Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network" (arXiv:1503.02531), section
  2: both networks' logits are softened by the temperature T; the loss is scaled by T², so that its gradients keep
  their size when T changes. Written as Kullback-Leibler divergence (cross-entropy less the teacher's entropy): 0 is
  perfect.
- `soft_decisions`: the same for independent yes/no answers (a final Sigmoid).
- `matching`: squared error over the variance of the teacher's answers: 0 is perfect, 1 is as good as a constant. For
  numbers that are no scores of classes: regression, embeddings, boxes, hidden layers (hints: Romero et al. 2015,
  "FitNets", arXiv:1412.6550); for logits it is that of Ba and Caruana 2014 (arXiv:1312.6184).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

Array = Any


def soft_targets(student: Array, teacher: Array, temperature: float) -> Array:
    """T² · mean over rows of KL(softmax(teacher / T) ‖ softmax(student / T)).

    Args:
        student: logits [rows, …, classes].
        teacher: logits of the same shape.
        temperature: T > 0.
    """
    wanted = jax.nn.log_softmax(teacher / temperature, axis=-1)
    got = jax.nn.log_softmax(student / temperature, axis=-1)
    return temperature**2 * jnp.mean(jnp.sum(jnp.exp(wanted) * (wanted - got), axis=-1))


def soft_decisions(student: Array, teacher: Array, temperature: float) -> Array:
    """T² · mean over all numbers of KL(σ(teacher / T) ‖ σ(student / T)), of logits of the same shape."""
    s, t = student / temperature, teacher / temperature
    p = jax.nn.sigmoid(t)
    divergence = p * (jax.nn.log_sigmoid(t) - jax.nn.log_sigmoid(s))
    divergence += (1 - p) * (jax.nn.log_sigmoid(-t) - jax.nn.log_sigmoid(-s))
    return temperature**2 * jnp.mean(divergence)


def matching(student: Array, wanted: Array, variance: float) -> Array:
    """Mean squared error over `variance` (of the wanted numbers about their mean row), of arrays of the same shape."""
    return jnp.mean(jnp.square(student - wanted)) / variance


def class_entropy(student: Array, labels: Array) -> Array:
    """Mean cross-entropy of logits [rows, …, classes] with classes [rows, …]."""
    chosen = jnp.take_along_axis(jax.nn.log_softmax(student, axis=-1), labels[..., None], axis=-1)
    return -jnp.mean(chosen)


def decision_entropy(student: Array, labels: Array) -> Array:
    """Mean binary cross-entropy of logits with labels 0 … 1 of the same shape."""
    return -jnp.mean(labels * jax.nn.log_sigmoid(student) + (1 - labels) * jax.nn.log_sigmoid(-student))


def mixed(soft: Array, hard: Array, alpha: float) -> Array:
    """Alpha · soft + (1 − alpha) · hard. At 0 and 1 the other term has no part in it, not even as NaN."""
    if alpha >= 1:
        return soft
    return hard if alpha <= 0 else alpha * soft + (1 - alpha) * hard


def distance(parameters: dict[str, Array], start: dict[str, Array]) -> Array:
    """Squared L2 distance from the starting point, relative to its squared length, summed over the tensors of `start`.

    Li, Grandvalet, Davoine 2018, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks"
    (arXiv:1802.01483): the L2-SP penalty.
    """
    moved = sum(jnp.sum(jnp.square(parameters[name] - value)) for name, value in sorted(start.items()))
    length = sum(jnp.sum(jnp.square(value)) for _, value in sorted(start.items()))
    return moved / jnp.maximum(length, 1e-12)
