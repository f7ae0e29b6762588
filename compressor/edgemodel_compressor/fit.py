"""Do the arrays that a user gave fit the model? Judged by their headers. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgemodel_api.complaints import nearest
from edgemodel_api.errors import InputError
from edgemodel_api.quantities import counted

from .npz import ArrayHeader
from .tensor_spec import TensorSpec, batch_of


def check_names(present: Sequence[str], wanted: Sequence[str], labels: str | None, what: str) -> None:
    """Every input has an array of its name, and the labels too.

    Raises:
        InputError: with the names that are there, and the one that may have been meant.
    """
    listed = ", ".join(repr(n[:100]) for n in present[:10]) + (" …" if len(present) > 10 else "")
    if not present:
        raise InputError(f"{what}: the file holds no arrays: write numpy.savez(FILE, {wanted[0]}=array)")
    for name in wanted:
        if name not in present:
            # What another input has taken cannot have been meant.
            meant = nearest(name, [n for n in present if n not in wanted and n != labels])
            hint = f"did you mean {meant!r}? Rename it" if meant else f"name the arrays as the model's inputs, {wanted}"
            raise InputError(f"{what}: there is no array for the model's input {name!r}, only {listed}: {hint}")
    if labels is not None and labels not in present:
        meant = nearest(labels, [n for n in present if n not in wanted])
        hint = f"did you mean {meant!r}?" if meant else "correct the name, or leave labels out to measure agreement"
        raise InputError(f"{what}.labels is {labels!r}, but the file's arrays are {listed}: {hint}")


def check_shape(header: ArrayHeader, spec: TensorSpec, what: str) -> None:
    """The array has the input's rank and fixed dimensions; its first axis is free: samples.

    Raises:
        InputError: with both shapes.
    """
    given = list(header.shape)
    row = "[samples" + "".join(f", {'any' if d is None else d}" for d in spec.shape[1:]) + "]"
    if not header.shape:
        raise InputError(
            f"{what}: array {spec.name!r} is a single number (0-d); the model takes {row}: add a first axis"
        )
    if len(header.shape) != len(spec.shape):
        hint = (
            "add a first axis for samples (array[None])"
            if len(header.shape) == len(spec.shape) - 1
            else "reshape it, first axis = samples"
        )
        raise InputError(
            f"{what}: array {spec.name!r} has {counted(len(header.shape), 'axis', 'axes')} ({given}), but the model"
            f" takes {len(spec.shape)}, {row}: {hint}"
        )
    for axis, (have, need) in enumerate(zip(header.shape[1:], spec.shape[1:], strict=True), 1):
        if need is not None and have != need:
            raise InputError(
                f"{what}: array {spec.name!r} has shape {given}, but the model takes {row}: axis {axis} is {have} and"
                f" must be {need}; prepare the data as for the model's training"
            )
        if have == 0:
            raise InputError(f"{what}: array {spec.name!r} has shape {given}: axis {axis} is empty")


def check_type(header: ArrayHeader, spec: TensorSpec, what: str) -> None:
    """Every number of the array is one of the input's type; among floats, precision may go (not range: see the data).

    Raises:
        InputError: with both types.
    """
    have, need = header.dtype, spec.dtype
    if need.kind == "U":
        if have.kind == "U":
            return
    elif have.kind in "biuf" and (np.can_cast(have, need, "safe") or have.kind == need.kind == "f"):
        return
    name = "str" if need.kind == "U" else need.name
    raise InputError(
        f"{what}: array {spec.name!r} is of {have.name}, but the model takes {name}, and not every {have.name} is one:"
        f" convert it, array.astype({name!r}), where you know the values"
    )


def check_counts(inputs: Sequence[ArrayHeader], labels: ArrayHeader | None, what: str) -> int:
    """The number of samples, which is the same in all arrays.

    Raises:
        InputError: with the numbers.
    """
    samples = inputs[0].shape[0]
    if any(h.shape[0] != samples for h in inputs):
        counts = ", ".join(f"{h.name} {h.shape[0]}" for h in inputs)
        raise InputError(
            f"{what}: the arrays have different numbers of samples ({counts}): give one row each per sample"
        )
    if samples == 0:
        raise InputError(f"{what}: the arrays hold no samples (0 rows): give at least one, better 1000")
    if labels is not None and (not labels.shape or labels.shape[0] != samples):
        have = counted(labels.shape[0], "row") if labels.shape else "a single number"
        raise InputError(
            f"{what}.labels: array {labels.name!r} has {have} for {counted(samples, 'sample')}: give one row per sample"
        )
    return samples


def whole_batches(inputs: tuple[TensorSpec, ...], samples: int, what: str) -> tuple[int, str | None]:
    """Samples that fill whole batches of a model whose batch is fixed, and a note where that leaves some out.

    Raises:
        InputError: not even one batch.
    """
    batch = batch_of(inputs)
    rows = samples // batch * batch
    if rows == 0:
        raise InputError(
            f"{what}: {counted(samples, 'sample')}, but the model takes {batch} at a time: give at least {batch}, or"
            " export the model with a free batch dimension"
        )
    if rows == samples:
        return rows, None
    of = f"of {samples} samples"
    out = counted(samples - rows, f"{of} is", f"{of} are")
    return rows, f"{what}: the last {out} left out: the model takes {batch} at a time"
