"""ONNX's own node tests, for every operator that is claimed: converted and in agreement, or refused in words.

They are tried as they are, with all inputs fed, and where that is refused, with all but the first as constants.
"""

from __future__ import annotations

import collections
import re

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.onnx_nodes import node_tests

from edgemodel_api.errors import InputError
from edgemodel_compressor.evaluate.runner import runner
from edgemodel_compressor.formats import tflite
from edgemodel_compressor.formats.onnx_model import open_session
from edgemodel_compressor.formats.tflite.lower import STATIC
from edgemodel_compressor.formats.tflite.read import read_tflite

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

#: Why a case may be refused. Every other reason is a bug.
REASONS = (
        # what TFLite has no types or shapes for
        r"a TFLite model can have", r"TFLite's \w+ takes", r"TFLite has it for", r"TFLite divides", r"TFLite does not cast",
        r"which TFLite's kernels do not compute with", r"is a scalar", r"is empty", r"an empty tensor", r"are empty",
        r"the model has no inputs", r"dimensions; TFLite's", r"matrix product of \d dimensions", r"TFLite does not pad bool",
        # what is documented in the notes of the operators
        r"spatial dimensions; TFLite has 1 and 2", r"dilations \[", r"\(indices\)", r"select_last_index", r"batch_dims",
        r"reduction (add|mul|max|min)", r"tf_crop_and_resize", r"training.mode", r"weights and shapes alone",
        r"computed while the model runs", r"sequences of different lengths", r"lengths that differ", r"peepholes", r"clip",
        r"outputs besides the first", r"takes a diagonal", r"the equation", r"one sign only", r"an index is there twice",
        r"it reflects", r"no operator of ONNX's own", r"nothing to compute it with", r"negative pads", r"fmod of integers",
        r"\d dimensions, size \d", r"it is not computed", r"its result is empty", r"input_forget", r"activations \[",
        r"it wraps", r"p = \d",
        # negative indices that come in: TFLite's kernels say so
        r"index out of bounds",
        # onnxruntime itself cannot
        r"cannot load the model", r"the model fails on sample data", r"not a tensor", r"no tensor of numbers",
)  # fmt: skip
#: NaN and infinity, which TFLite's FLOOR_MOD treats otherwise: found by the check, and not written.
#: Their node tests are of float64 or ask for outputs that are refused; test_ops has them.
ELSEWHERE = {"Einsum", "LayerNormalization", "ReduceLogSumExp", "Upsample"}
DISAGREE = {"test_mod_float_edge_cases_fmod_0_float32"}


def _cases():
    claimed = set(tflite.OPS)
    for case in node_tests():
        model = case.model
        if not isinstance(model, onnx.ModelProto) or not case.data_sets or model.functions:
            continue
        ops = {n.op_type for n in model.graph.node}
        if not ops <= claimed or ops <= STATIC:
            continue
        inputs = [np.asarray(a) for a in case.data_sets[0][0] if isinstance(a, np.ndarray | np.generic)]
        if len(inputs) == len(model.graph.input):
            yield case.name, model, inputs


def _converted(model, inputs, dest, *, fed):
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    values = list(changed.graph.input)
    for value, array in list(zip(values, inputs, strict=True))[fed:]:
        changed.graph.initializer.append(numpy_helper.from_array(array, value.name))
    del changed.graph.input[fed:]
    changed.ir_version = max(4, changed.ir_version)
    feeds = {v.name: a for v, a in zip(values[:fed], inputs, strict=False)}
    tflite.convert(changed, dest, feeds=feeds)
    tflite.run(dest, feeds)
    return feeds


def _read_again(path, feeds):
    read = read_tflite(path)
    onnx.checker.check_model(read.model, full_check=True)
    return runner(open_session(read.model.SerializeToString()))(feeds)


def test_node_tests_of_onnx(tmp_path, old_runtime):
    count: collections.Counter[str] = collections.Counter()
    wrong, operators = [], set()
    for name, model, inputs in _cases():
        said = ""
        for fed in dict.fromkeys((len(inputs), 1)):
            try:
                feeds = _converted(model, inputs, tmp_path / f"{name}.tflite", fed=fed)
            except InputError as error:
                said = str(error)
            else:
                said = ""
                np.savez(tmp_path / f"{name}.in.npz", **feeds)
                operators.update(n.op_type for n in model.graph.node)
                break
        count["refused" if said else "converted"] += 1
        if said and not any(re.search(r, said) for r in REASONS) and name not in DISAGREE:
            wrong.append(f"{name}: {said}")
    assert wrong == []
    assert count["converted"] > 700
    assert set(tflite.OPS) - STATIC - operators <= ELSEWHERE
    # And every file gives the same answers under the old runtime, and when it is read again as ONNX.
    old_runtime.run_all(tmp_path)
    for path in sorted(tmp_path.glob("*.tflite")):
        feeds = dict(np.load(path.with_suffix(".in.npz")))
        ours = tflite.run(path, feeds)
        again = _read_again(path, feeds)
        for output, answer in ours.items():
            assert again[output].dtype == answer.dtype, path.name
            np.testing.assert_allclose(again[output], answer, rtol=1e-4, atol=1e-5, err_msg=f"{path.name} as ONNX")
        with np.load(path.with_suffix(".out.npz")) as theirs:
            for output, answer in ours.items():
                np.testing.assert_allclose(theirs[output], answer, rtol=1e-4, atol=1e-5, err_msg=path.name)
