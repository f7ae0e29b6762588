"""The prediction: what a file says of its weights, what a Job takes, and what it may take."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgemodel_api import reasons
from edgemodel_api.edgemodel import Format, Step
from edgemodel_api.errors import InputError
from edgemodel_compressor.formats import walk
from edgemodel_compressor.memory import Limit, Sizes, check, limit, predict, sizes_of

GIB = 2**30
LARGE = Sizes(weights=3 * GIB, largest=GIB // 64, file=2**15)


def step(**fields: Any) -> Step:
    return Step.model_validate(fields)


PRUNE, GLOBAL = step(prune={"sparsity": "60%"}), step(prune={"sparsity": "60%", "granularity": "Global"})
INT8, STATIC = (step(quantize={"precision": "Int8", "activations": a}) for a in ("None", "Static"))
HALF = step(quantize={"precision": "Float16"})


@pytest.mark.parametrize("steps", [[PRUNE], [GLOBAL], [INT8], [HALF], [PRUNE, INT8], None])
def test_a_large_model_stays_under_one_and_a_half_times_its_size(steps: list[Step] | None):
    found = predict(LARGE, steps)
    assert LARGE.weights < found.peak < 1.5 * LARGE.weights


def test_integer_computing_and_huge_tensors_are_what_takes_more():
    static = predict(LARGE, [STATIC])
    assert static.peak > 4 * LARGE.weights
    assert "integer" in static.phase
    lumpy = Sizes(weights=GIB, largest=GIB, file=1000)
    assert predict(lumpy, [INT8]).peak > predict(lumpy, [HALF]).peak > predict(LARGE, [HALF]).peak * 0.5
    assert "int8" in predict(lumpy, [INT8]).phase


@pytest.mark.parametrize("sizes", [LARGE, Sizes(100 * 2**20, 2**20, 100 * 2**20)], ids=["large", "small"])
def test_other_formats_need_the_whole_model(sizes: Sizes):
    alone = predict(sizes, [INT8])
    assert predict(sizes, [INT8], [Format.ONNX]) == alone
    for wanted in (Format.TFLITE, Format.COREML):
        found = predict(sizes, [INT8], [Format.ONNX, wanted])
        assert found.peak > alone.peak + sizes.weights
        assert found.phase == f"converting to {wanted.value}, which needs the whole model in memory"
    assert predict(sizes, None, [Format.COREML, Format.TFLITE]).peak == max(
        predict(sizes, None, [f]).peak for f in (Format.COREML, Format.TFLITE)
    )


def test_a_conversion_that_does_not_fit_is_refused_with_the_format(build: Any):
    path = build.save(build.model(initializers=[build.weights("w", (3, 4)), build.weights("v", (2048, 2048))]))
    needed = predict(sizes_of(path), None, [Format.TFLITE]).peak
    with pytest.raises(InputError, match=r"converting to TFLite.*; or take TFLite out of spec\.formats$"):
        check(path, None, Limit(needed - 1, "free", "close programs"), formats=[Format.TFLITE])
    assert check(path, None, Limit(needed - 1, "free", "close programs")).peak < needed


def test_small_models_need_little():
    # A search of 106 KiB, which also tries integers, was killed at 300 MiB and not at 400.
    assert predict(Sizes(10**6, 10**5, 10**6), [PRUNE]).peak < GIB // 4 < predict(Sizes(10**6, 10**5, 10**6), None).peak
    assert predict(Sizes(10**6, 10**5, 10**6), None).peak < 380 * 2**20
    small = [predict(Sizes(10**6, 10**5, 10**6), [s]).peak for s in (PRUNE, INT8, HALF, STATIC)]
    assert small[0] == small[1] == small[2] < small[3]
    assert predict(Sizes(10**6, 10**5, 10**6), [PRUNE]).phase == predict(Sizes(0, 0, 5), None).phase


@pytest.mark.parametrize(
    ("files", "expected", "source"),
    [
        ({}, 4 * GIB, "free on this machine"),
        ({"sys/fs/cgroup/memory.max": "1073741824\n"}, GIB, "container"),
        ({"sys/fs/cgroup/memory.max": "max\n"}, 4 * GIB, "free"),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "2147483648"}, 2 * GIB, "container"),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}, 4 * GIB, "free"),
        ({"sys/fs/cgroup/memory.max": "rubbish"}, 4 * GIB, "free"),
    ],
)
def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int, source: str):
    monkeypatch.setattr(psutil, "virtual_memory", type("Memory", (), {"available": 4 * GIB}))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = limit(tmp_path)
    assert found.memory_bytes == expected
    assert source in found.source


def test_what_does_not_fit_is_refused_with_the_numbers(build: Any):
    path = build.folder / "model.onnx"
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[30_000, 30_000], data_location=1)
    tensor.external_data.add(key="location", value="w.data")
    path.write_bytes(build.model(initializers=[tensor]).SerializeToString())
    with (build.folder / "w.data").open("wb") as data:
        data.truncate(30_000 * 30_000 * 4)
    allowed = Limit(2 * GIB, "the memory limit of the Job's container", "raise job.memory of the chart")
    with pytest.raises(InputError) as caught:
        check(path, [PRUNE], allowed)
    assert caught.value.reason == reasons.INSUFFICIENT_MEMORY
    assert re.search(r"takes about 1[34]\.\d GiB .* weights are 3\.4 GiB", caught.value.message)
    assert "2.0 GiB are the memory limit of the Job's container: raise job.memory of the chart" in caught.value.message
    assert "to at least 13." in caught.value.message
    with pytest.raises(InputError, match=r"weights only \(activations: None\)"):
        check(path, [STATIC], Limit(10 * GIB, "free", "close programs"))
    assert check(path, [PRUNE], Limit(15 * GIB, "free", "")).peak < 15 * GIB


def test_a_small_job_needs_no_message(build: Any):
    assert check(build.save(build.model()), None).peak < GIB


def test_sizes_are_read_without_parsing(build: Any):
    tensors = [
        numpy_helper.from_array(np.zeros((100, 30), np.float32), "a"),
        numpy_helper.from_array(np.zeros((7,), np.int64), "b"),
        helper.make_tensor("c", TensorProto.FLOAT16, [50], np.zeros(50, np.float16).view(np.uint16).tolist()),
    ]
    path = build.save(build.model(initializers=[build.weights(), *tensors]))
    assert sizes_of(path) == Sizes(48 + 12_000 + 56 + 100, 12_000, path.stat().st_size)


def test_external_names_are_found_wherever_they_are(build: Any):
    inner = helper.make_graph(
        [], "then", [], [build.value("o", [3, 4])], [build.external(build.weights("o"), "in/branch.bin")]
    )
    nodes = [
        helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner),
        helper.make_node("Constant", [], ["k"], value=build.external(build.weights("k"), "constant.bin")),
    ]
    model = build.model(nodes, initializers=[build.external(build.weights(), "w.bin", offset=4)])
    path = build.save(model)
    with path.open("rb") as f:
        assert set(walk.external_names(f.fileno(), path.stat().st_size)) == {"in/branch.bin", "constant.bin", "w.bin"}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_hostile_bytes_end_the_walk(build: Any, data: Any):
    content = bytearray(build.model(initializers=[build.external(build.weights(), "w.bin")]).SerializeToString())
    if data.draw(st.booleans()):
        content = bytearray(data.draw(st.binary(max_size=60)))
    for _ in range(data.draw(st.integers(0, 4)) if content else 0):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = build.folder / "hostile.onnx"
    path.write_bytes(content)
    with path.open("rb") as f:
        names = walk.external_names(f.fileno(), len(content))
        total, largest = walk.weight_sizes(f.fileno(), len(content))
    assert all(len(n) <= 4096 for n in names)
    assert 0 <= largest <= total or total == 0


def test_a_bomb_of_fields_ends_the_walk(build: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(walk, "MAX_FIELDS", 5)
    path = build.save(build.model())
    with path.open("rb") as f:
        assert walk.external_names(f.fileno(), path.stat().st_size) == {}
