"""ONNX's own node tests: making them takes a quarter of a minute, so they are kept outside of the checkout."""

from __future__ import annotations

import contextlib
import functools
import pickle
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from tests.programs import CACHE


@functools.cache
def node_tests() -> tuple[Any, ...]:
    """All of them, as `onnx.backend.test` has them: name, model, data_sets."""
    path = CACHE / f"node-tests-{onnx.__version__}-{np.__version__}.pickle"
    with contextlib.suppress(Exception):  # not there, or damaged: made anew
        return tuple(pickle.loads(path.read_bytes()))
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cases overflow and divide by zero on purpose
        made = collect_testcases(None)
    with contextlib.suppress(OSError):
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            file = Path(folder) / path.name
            file.write_bytes(pickle.dumps(made, protocol=5))
            file.replace(path)
    return tuple(made)
