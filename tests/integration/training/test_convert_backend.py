"""ONNX's own backend node tests, for every operator that the converter claims.

Each case converts and gives the reference's numbers, or is refused before any work with the reason that is expected
here. Inputs that ONNX lets depend on the data, and the converter does not (shapes, axes, depths), are given as
initializers where the case is refused otherwise.
"""

from __future__ import annotations

import fnmatch
import re

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.onnx_nodes import node_tests

from edgemodel_api.errors import InputError
from edgemodel_compressor.training.convert import OPS, differentiable

#: Pattern of the case's name → part of the message; the first that fits counts.
REFUSED = {
    "test_batchnorm_*_training_mode": "training mode has no conversion",
    "test_training_dropout*": "training mode has no conversion",
    "test_cast_*_to_*FLOAT8*": "a cast to",
    "test_cast_*_to_FLOAT4*": "a cast to",
    "test_cast_*FLOAT*_to_*INT[24]": "a cast to",
    "test_castlike_*_to_FLOAT8*": "a cast to",
    "test_castlike_*_to_FLOAT4*": "a cast to",
    "test_castlike_*FLOAT*_to_*INT[24]": "a cast to",
    "test_dft_irfft*": "one-sided",
    "test_equal_string*": "values of type STRING",
    "test_gridsample_*bicubic*": "the mode 'cubic'",
    "test_gridsample_bicubic*": "the mode 'cubic'",
    "test_identity_sequence": "is no tensor",
    "test_identity_opt": "is no tensor",
    "test_if_seq": "SequenceConstruct",
    "test_if_opt": "Optional",
    "test_loop1*_seq*": "SequenceInsert",
    "test_maxpool_with_argmax_*": "Indices",
    "test_quantizelinear_e*": "quantization to float8",
    "test_quantizelinear_float4e2m1": "quantization to float4",
    "test_scan_sum": "before opset 9",
    # Dimensions of 0 are taken for unknown ones.
    "test_reshape_allowzero_reordered": "cannot reshape",
    "test_split_zero_size_splits_opset1*": "of an axis of",
}
#: Inputs that may depend on the data in ONNX, and are given as initializers in a second try.
KNOWN_FLOATS = frozenset(
    {"scales", "roi", "start", "limit", "delta", "depth", "trip_count", "lower_edge_hertz", "upper_edge_hertz"}
)


def load():
    cases = {}
    for case in node_tests():
        ops = {f"{n.domain}:{n.op_type}" if n.domain else n.op_type for n in case.model.graph.node}
        # What ends in _expanded is the operator's function body: other operators, which have cases of their own.
        if ops <= set(OPS) and "_expanded" not in case.name:
            cases[case.name] = case
    return cases


CASES = load()


def array(value):
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def with_known(model, feeds):
    """The model with everything that may be a shape as an initializer, and the other feeds."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    rest = {}
    for name, value in feeds.items():
        small = value.dtype.name.startswith(("float8", "float4"))
        floats = not small and (value.dtype.kind == "f" or "float" in value.dtype.name)
        if floats and name not in KNOWN_FLOATS and "zero_point" not in name:
            rest[name] = value
        else:
            changed.graph.initializer.append(numpy_helper.from_array(value, name))
    return changed, rest


def converted(model, feeds):
    try:
        return differentiable(model), feeds
    except InputError as error:
        if not any(part in str(error) for part in ("must be known", "zero point", "inputs of type")):
            raise
    model, feeds = with_known(model, feeds)
    return differentiable(model), feeds


def expected(name):
    return next((part for pattern, part in REFUSED.items() if fnmatch.fnmatch(name, pattern)), None)


@pytest.mark.parametrize("name", sorted(CASES))
def test_node(name):
    import jax

    case, why = CASES[name], expected(name)
    for inputs, outputs in case.data_sets:
        names = [i.name for i in case.model.graph.input]
        feeds = {n: array(v) for n, v in zip(names, inputs, strict=False) if not isinstance(v, list) and v is not None}
        if why is not None:
            with pytest.raises(InputError, match=re.escape(why)):
                converted(case.model, feeds)
            continue
        function, feeds = converted(case.model, feeds)
        # A case's batch is no batch: many have none, or several inputs of other sizes.
        # (What XLA makes of it is compiled once and run once: that need not be fast code.)
        got = jax.jit(function.apply, compiler_options={"xla_backend_optimization_level": 0})({}, feeds)
        for output, value in zip(case.model.graph.output, outputs, strict=True):
            want, ours = array(value), np.asarray(got[output.name])
            assert ours.shape == want.shape
            if want.dtype.kind == "f" or "float" in want.dtype.name:
                # bfloat16 and float16 are computed in float32 here, in their own precision there.
                rough = want.dtype.name in ("bfloat16", "float16")
                np.testing.assert_allclose(
                    ours.astype(np.float64),
                    want.astype(np.float64),
                    rtol=1e-2 if rough else 1e-3,
                    atol=1e-3 if rough else 2e-5,
                )
            else:
                np.testing.assert_array_equal(ours.astype(want.dtype), want)
    jax.clear_caches()


def test_most_cases_are_converted():
    assert len(CASES) > 1000
    assert sum(expected(name) is None for name in CASES) > 1000


def test_every_operator_has_a_case():
    covered = {n.op_type for case in CASES.values() for n in case.model.graph.node if not n.domain}
    # Older forms, onnxruntime's, and one that ONNX has no case for: test_convert_ops.py has them.
    assert {o for o in OPS if ":" not in o} - covered <= {
        "GlobalLpPool",
        "Scatter",
        "SimplifiedLayerNormalization",
        "Upsample",
    }
