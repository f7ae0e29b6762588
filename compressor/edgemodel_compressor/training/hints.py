"""Hints: hidden layers of the student that are held to the teacher's (Romero et al. 2015, "FitNets", arXiv:1412.6550).

A derived student keeps the names of the tensors that it shares with its teacher, and it is known which of the
teacher's channels it still has: so no regressor between the two is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemodel_compressor.evaluate.runner import Array, Arrays
from edgemodel_compressor.steps.graph import constant_values, is_standard

from .answers import model_runner
from .heads import with_outputs

#: Hidden layers at most, spread over the depth.
MOST_HINTS = 4
#: Of one row of one hint.
MOST_NUMBERS = 2**20
_LAYERS = {"Conv": 1, "ConvTranspose": 1, "Gemm": -1, "MatMul": -1}


@dataclass(frozen=True)
class Hint:
    """One hidden tensor, of the same name in both networks.

    Attributes:
        tensor: its name.
        axis: of the channels.
        kept: the teacher's channels that the student has; None: all.
    """

    tensor: str
    axis: int
    kept: npt.NDArray[np.int64] | None

    def read(self, values: Array) -> npt.NDArray[np.float32]:
        """The teacher's numbers for the student's channels."""
        found = values if self.kept is None else np.take(values, self.kept, axis=self.axis)
        return np.asarray(found, dtype=np.float32)


def hints(
    teacher: Any,
    student: Any,
    kept: Mapping[str, npt.NDArray[np.int64]],
    *,
    teacher_rows: Arrays,
    student_rows: Arrays,
    read: frozenset[str],
) -> tuple[Hint, ...]:
    """Layers whose outputs can be compared.

    Args:
        teacher: ModelProto.
        student: ModelProto, derived from it.
        kept: see `students.Derived`.
        teacher_rows: a few rows of the inputs.
        student_rows: as many as the student takes.
        read: tensors that the outputs are taught by already.
    """
    fixed = constant_values(student.graph)
    theirs = {o for n in teacher.graph.node for o in n.output}
    layers = {
        n.output[0]: _LAYERS[n.op_type]
        for n in student.graph.node
        if n.op_type in _LAYERS
        and is_standard(n)
        and n.output[0] in theirs - read - fixed
        and any(i in fixed for i in n.input)
    }
    if not layers:
        return ()
    names = list(layers)
    got = model_runner(with_outputs(student, names))(student_rows)
    wanted = model_runner(with_outputs(teacher, names))(teacher_rows)
    found = []
    for name, axis in layers.items():
        hint = Hint(name, axis, kept.get(name))
        if got[name].ndim == 0 or got[name].size > MOST_NUMBERS * max(len(got[name]), 1):
            continue
        if hint.kept is not None and (wanted[name].ndim < 2 or hint.kept[-1] >= wanted[name].shape[axis]):
            continue
        if hint.read(wanted[name]).shape[1:] == got[name].shape[1:] and wanted[name].ndim == got[name].ndim:
            found.append(hint)
    # The last are nearest to the outputs, which are taught anyway.
    places = [(i + 1) * len(found) // (MOST_HINTS + 1) for i in range(MOST_HINTS)] if len(found) > MOST_HINTS else None
    return tuple(found if places is None else [found[i] for i in dict.fromkeys(places)])
