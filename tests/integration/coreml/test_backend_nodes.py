"""ONNX's own node tests for every operator that is converted: what is not refused gives the expected answers.

Inputs that Core ML needs as constants (shapes, axes, pads) are inputs of these models: where the model as it is has
such a node, all inputs but the first become constants.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.onnx_nodes import node_tests

from edgemodel_api.errors import InputError
from edgemodel_compressor.formats import coreml
from edgemodel_compressor.formats.onnx_model import open_session
from edgemodel_oci.golden import case_errors

pytestmark = pytest.mark.slow

#: What may be refused, by a part of the message. Everything else must be converted.
REFUSED = {
    "dilated windows",
    "its output Indices is used",
    "training mode",
    "a diagonal in",
    "tf_crop_and_resize",
    "its condition depends on the model's input",
    "its inputs depend on the model's input, so that shapes would",
    "Core ML's arrays hold numbers",
    "Core ML's arrays have at most 5",
    "it gives an empty array",
    "empty parts",
    "a type that Core ML does not compute in",
    "ceil_mode with count_include_pad",
    "is free, and Core ML is given fixed shapes",
    "as a constant",
    "k = 0",
    "of 6 steps",
    "clip",
    # onnx cannot write some of its own functions out as operators.
    "cannot be written out",
    "No corresponding Numpy type for Tensor Type. bfloat16",
    # Empty inputs.
    "but the model takes",
    "cannot become [3, 4, 0]",
    "no conversion to Core ML is known",
    # onnxruntime, whose answers a conversion is held to, cannot run them.
    "onnxruntime 1.32.0 cannot load the model",
    "the model fails on the data",
}
#: onnxruntime answers otherwise than ONNX's reference, and a conversion follows the runtime.
AS_ONNXRUNTIME = {
    "test_resize_downsample_scales_linear_align_corners",
    "test_resize_downsample_scales_cubic_align_corners",
}


def cases() -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for case in node_tests():
        nodes = case.model.graph.node
        known = all(n.op_type in coreml.OPS for n in nodes) and not any(n.domain for n in nodes)
        plain = all(isinstance(x, (np.ndarray, np.generic)) for ins, _ in case.data_sets for x in ins)
        if known and plain and not case.name.endswith("_expanded"):
            found.setdefault(nodes[0].op_type, []).append(case)
    return found


CASES = cases()


def variants(model: Any, inputs: list[Any]) -> Iterator[tuple[Any, dict[str, np.ndarray]]]:
    names = [i.name for i in model.graph.input]
    values = {n: np.asarray(v) for n, v in zip(names, inputs, strict=True)}
    yield model, values
    if len(names) > 1:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        for name in names[1:]:
            copy.graph.initializer.append(numpy_helper.from_array(values[name], name))
        del copy.graph.input[1:]
        yield copy, {names[0]: values[names[0]]}


def answers(model: Any, inputs: list[Any], path: Path) -> dict[str, np.ndarray] | list[str]:
    """Of the package, or why there is none."""
    why: list[str] = []
    for variant, feeds in variants(model, inputs):
        try:
            problems = coreml.unsupported(variant)
            if not problems:
                coreml.convert(variant, path, encoding="float32", feeds=feeds, tolerance=float("inf"))
                return coreml.run(path, feeds)
            why += problems
        except InputError as error:
            why.append(str(error))
    return why


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", sorted(CASES))
def test_node(kind: str, tmp_path: Path) -> None:
    wrong: dict[str, Any] = {}
    for case in CASES[kind]:
        for inputs, outputs in case.data_sets:
            got = answers(case.model, inputs, tmp_path / "node.zip")
            if isinstance(got, list):
                if not any(part in got[-1] for part in REFUSED):
                    wrong[case.name] = got
                continue
            wanted = dict(zip([o.name for o in case.model.graph.output], outputs, strict=True))
            if case.name in AS_ONNXRUNTIME:
                feeds = dict(zip([i.name for i in case.model.graph.input], inputs, strict=True))
                session = open_session(case.model.SerializeToString())
                wanted = dict(zip(wanted, session.run(list(wanted), feeds), strict=True))
            for name, value in wanted.items():
                want = np.asarray(value)
                # ONNX's own limit is 1e-3.
                limit = 1e-2 if want.dtype == np.float16 else 1e-3
                error = float(case_errors(got[name][None], want[None], 1).max())
                if not error <= limit:
                    wrong[case.name] = name, error
    assert not wrong


def test_most_operators_have_cases() -> None:
    assert len(CASES) > 110
    assert sum(len(c) for c in CASES.values()) > 750
