"""What a model declares of one input or output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class TensorSpec:
    """An input or output as the model declares it.

    Attributes:
        name: of the tensor.
        dtype: element type; `numpy.str_` for text.
        shape: None where a dimension is free.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    @property
    def shape_text(self) -> str:
        """`[N, 3, 224, 224]`."""
        return "[" + ", ".join("N" if d is None else str(d) for d in self.shape) + "]"


def batch_of(inputs: Sequence[TensorSpec]) -> int:
    """Rows that one run takes: the model's fixed batch, or 1."""
    return next((s.shape[0] for s in inputs if s.shape[0] is not None), 1)
