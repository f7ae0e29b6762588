"""Recurrent operators over whole sequences. Their states begin at zero with each request."""

from __future__ import annotations

import numpy as np

from edgemodel_api.quantities import counted

from .layout import Perm
from .read_build import RefusedError
from .read_site import ReadSite, reads
from .schema import name_of

#: (time, batch, features): ONNX's order.
_TIME_FIRST: Perm = (1, 0, 2)
_PLAIN: Perm = (0, 1, 2)
_ACTIVATIONS = {"TANH": "Tanh", "RELU": "Relu", "SIGN_BIT": "", "NONE": "Affine", "RELU6": ""}


def _sequence(site: ReadSite) -> tuple[Perm, int]:
    """The layout to ask for, and the number of steps."""
    if site.rank() != 3:
        raise RefusedError(f"an input of {counted(site.rank(), 'dimension')}")
    major = bool(site.option("timeMajor", False))
    time = 0 if major else 1
    site.closed([time, 2])
    return (_PLAIN if major else _TIME_FIRST), int(site.shape()[time])


def _matrix(site: ReadSite, i: int) -> np.ndarray:
    return site.value(i).numbers()


def _state_is_zero(site: ReadSite, i: int) -> None:
    value = site.value(i)
    if value.held or value.stored or (value.data is not None and value.data.any()):
        raise RefusedError("its first state is computed")


@reads(
    "UNIDIRECTIONAL_SEQUENCE_LSTM", note="states that begin at zero; peepholes; no projection, no layer normalisation"
)
def _lstm(site: ReadSite) -> None:
    for i, what in ((16, "a projection"), (17, "a projection"), *((j, "layer normalisation") for j in range(20, 24))):
        if site.has(i):
            raise RefusedError(what)
    if not site.has(1) or not site.has(5):
        raise RefusedError("one gate for input and forgetting")
    if any(float(site.option(n, 0.0)) for n in ("cellClip", "projClip")) or bool(
        site.option("diagonalRecurrentTensors")
    ):
        raise RefusedError("a limit of its cells, or diagonal weights")
    if name_of("ActivationFunctionType", int(site.option("fusedActivationFunction", 0))) != "TANH":
        raise RefusedError("another activation than tanh")
    _state_is_zero(site, 18)
    _state_is_zero(site, 19)
    perm, _ = _sequence(site)
    # TFLite: input, forget, cell, output; ONNX: input, output, forget, cell.
    order = (0, 3, 1, 2)
    weights = np.concatenate([_matrix(site, 1 + g) for g in order])[None]
    recurrent = np.concatenate([_matrix(site, 5 + g) for g in order])[None]
    hidden = recurrent.shape[-1]
    if recurrent.shape[1] != 4 * hidden or weights.shape[1] != 4 * hidden:
        raise RefusedError("its gates differ in size")
    biases = [_matrix(site, 12 + g) if site.has(12 + g) else np.zeros(hidden, np.float32) for g in order]
    offsets = np.concatenate([*biases, np.zeros(4 * hidden, np.float32)])[None]
    inputs = [site.get(0, perm), site.const(weights), site.const(recurrent), site.const(offsets)]
    if any(site.has(i) for i in (9, 10, 11)):
        peepholes = [_matrix(site, i) if site.has(i) else np.zeros(hidden, np.float32) for i in (9, 11, 10)]
        inputs += ["", "", "", site.const(np.concatenate(peepholes)[None])]
    name = site.emit("LSTM", inputs, hidden_size=hidden)
    _give_sequence(site, name, perm, hidden)


def _give_sequence(site: ReadSite, name: str, perm: Perm, hidden: int) -> None:
    """(time, directions, batch, hidden)."""
    squeezed = site.emit("Squeeze", [name, site.build.ints([1])])
    site.give(squeezed, (*site.shape()[:2], hidden), perm)


@reads("UNIDIRECTIONAL_SEQUENCE_RNN", note="states that begin at zero")
def _rnn(site: ReadSite) -> None:
    kind = name_of("ActivationFunctionType", int(site.option("fusedActivationFunction", 0)))
    activation = _ACTIVATIONS.get(kind, "")
    if not activation or activation == "Affine":
        raise RefusedError(f"the activation {kind}")
    _state_is_zero(site, 4)
    perm, _ = _sequence(site)
    weights, recurrent = _matrix(site, 1)[None], _matrix(site, 2)[None]
    hidden = recurrent.shape[-1]
    offsets = np.concatenate([_matrix(site, 3), np.zeros(hidden, np.float32)])[None]
    name = site.emit(
        "RNN", [site.get(0, perm), site.const(weights), site.const(recurrent), site.const(offsets)], hidden_size=hidden,
        activations=[activation],
    )  # fmt: skip
    _give_sequence(site, name, perm, hidden)
