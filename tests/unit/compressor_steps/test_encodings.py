"""Which encodings a step means on which CPUs, and names that a manifest may use."""

from __future__ import annotations

import re

import pytest

from edgemodel_api.edgemodel import Activations, Exclude, Include, Precision, PruneStep, QuantizeStep, Scope, Step
from edgemodel_api.errors import InputError
from edgemodel_api.hardware import HardwareClass
from edgemodel_compressor.steps.encodings import BY_NAME, DYNAMIC, STATIC, encodings_for
from edgemodel_compressor.steps.selection import check_names
from edgemodel_compressor.verify.saturation import SATURATING

AMD, ARM, V7 = "linux/amd64", "linux/arm64", "linux/arm/v7"
INT8 = QuantizeStep()


@pytest.mark.parametrize(
    ("step", "platforms", "names"),
    [
        pytest.param(INT8, [AMD], "u8s8 u8u8 s8s8 u8s7", id="static amd64"),
        pytest.param(INT8, [ARM], "s8s8", id="static arm64"),
        pytest.param(INT8, [ARM, AMD], "u8s8 u8u8 s8s8 u8s7", id="static both"),
        pytest.param(INT8, [V7], "", id="static arm/v7: no kernels"),
        pytest.param(INT8, ["linux/riscv64"], "u8u8 u8s7", id="static elsewhere"),
        pytest.param(INT8, [], "", id="no platforms"),
    ],
)
def test_static(step, platforms, names):
    assert [e.name.removeprefix("int8-static-") for e in encodings_for(step, platforms)] == names.split()


@pytest.mark.parametrize(
    ("step", "names"),
    [
        (INT8.replace(activations=Activations.NONE), ["int8-weights"]),
        (INT8.replace(activations=Activations.DYNAMIC), ["int8-dynamic-u8", "int8-dynamic-s8"]),
        (INT8.replace(precision=Precision.INT4), ["int4-weights"]),
        (INT8.replace(precision=Precision.FLOAT16), ["float16-weights"]),
    ],
)
def test_other_steps(step, names):
    assert [e.name for e in encodings_for(step, [AMD])] == names


def test_every_class_has_what_is_right_on_it():
    """Where sums may saturate, either they cannot by construction, or that class is one that `verify` counts them for."""
    unsafe = {HardwareClass.AMD64_AVX2, HardwareClass.UNKNOWN}
    for table in (STATIC, DYNAMIC):
        for kind in unsafe:
            meant = [e for e in table if kind in e.hardware_classes]
            safe = [e for e in meant if e.weight == "uint8" or e.reduce_range]
            assert safe, kind
            assert meant[0] == safe[0]  # it is tried first
            assert meant == safe or kind in SATURATING, kind
    for name, encoding in BY_NAME.items():
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", name)
        if encoding.weights_only:
            assert set(encoding.hardware_classes) == set(HardwareClass)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        pytest.param(
            INT8.replace(exclude=Exclude(nodes=("fc3",))),
            r"steps\[1\].quantize.exclude.nodes names 'fc3'.*'fc2'",
            id="node",
        ),
        pytest.param(INT8.replace(exclude=Exclude(ops=("Gem",))), "exclude.ops names 'Gem'.*'Gemm'", id="operator"),
        pytest.param(
            INT8.replace(scope=Scope.LOCAL, include=Include(nodes=("zzz",))), "include.nodes names 'zzz'", id="include"
        ),
    ],
)
def test_unknown_names_are_typing_errors(m, step, message):
    with pytest.raises(InputError, match=message):
        check_names([Step(prune=PruneStep(sparsity="50%")), Step(quantize=step)], m.mlp())


def test_known_names_pass(m):
    step = Step(quantize=INT8.replace(exclude=Exclude(nodes=("fc1",), ops=("Softmax",))))
    check_names([step], m.mlp())
    with pytest.raises(InputError, match="'Softmax'"):
        check_names([step], m.matmul())
    check_names([step], m.matmul(), m.mlp())
