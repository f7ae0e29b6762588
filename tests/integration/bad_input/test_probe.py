"""The probe's child may do anything: its parent always has a sentence for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgemodel_api.errors import InputError
from edgemodel_compressor.data import TensorSpec
from edgemodel_compressor.formats import probe as module
from edgemodel_compressor.formats.onnx_model import load_model
from edgemodel_compressor.formats.probe import Probed, probe

X = TensorSpec("x", np.dtype(np.float32), (None, 3))


def saved(folder: Path, *nodes: Any, shape: tuple[Any, ...] = ("N", 3), out: Any = ("N", 4)) -> Path:
    weights = numpy_helper.from_array(np.ones((3, 4), np.float32), "w")
    graph = helper.make_graph(
        list(nodes) or [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def run(folder: Path, path: Path, *, spec: TensorSpec = X, timeout: float = 60, **more: Any) -> Probed:
    work = folder / "work"
    work.mkdir(exist_ok=True)
    try:
        return probe(path, (spec,), work_dir=work, memory_bytes=2**29, timeout=timeout, **more)
    finally:
        assert list(work.iterdir()) == []


def test_a_good_model(tmp_path: Path) -> None:
    found = run(tmp_path, saved(tmp_path))
    assert found.outputs == {"y": (1, 4)}
    assert found.note is None
    assert run(tmp_path, saved(tmp_path), feeds={"x": np.ones((5, 3), np.float32)}).outputs == {"y": (5, 4)}


def test_the_runtime_has_the_last_word(tmp_path: Path) -> None:
    found = run(tmp_path, saved(tmp_path, out=None))
    assert found.outputs == {"y": (1, 4)}
    assert found.note is not None
    assert "Field 'shape'" in found.note


def test_made_up_lengths_are_no_verdict(tmp_path: Path) -> None:
    path, spec = saved(tmp_path, shape=("N", "M")), TensorSpec("x", np.dtype(np.float32), (None, None))
    found = run(tmp_path, path, spec=spec)
    assert found.outputs == {}
    assert "made-up" in (found.note or "")
    with pytest.raises(InputError, match="give data like"):
        run(tmp_path, path, spec=spec, feeds={"x": np.ones((1, 7), np.float32)})


CHILDREN = {
    "segmentation fault": ("import os; os.kill(os.getpid(), 11)", "the runtime crashed (SIGSEGV)"),
    "abort at load": ("import os; print('{\"stage\": \"load\"}', flush=True); os.abort()", "crashed (SIGABRT) while it did this: loading it"),
    "silent exit": ("raise SystemExit(7)", "crashed (exit code 7)"),
    "killed for memory": ("import os; os.kill(os.getpid(), 9)", "takes more than 512.0 MiB of memory"),
    "hang": ("import time; print('{\"stage\": \"run\"}', flush=True); time.sleep(60)", "its first run did not end within 2 s"),
    "own limit of time": ("import os; os.kill(os.getpid(), 24)", "did not end within 2 s"),
    "nonsense": ("print('[1]'); print('\\x00{'); raise SystemExit(1)", "crashed (exit code 1)"),
    "std::bad_alloc": ("print('{\"stage\": \"load\", \"error\": \"RuntimeError: std::bad_alloc\"}'); raise SystemExit(3)", "loading it takes more than 512.0 MiB"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHILDREN)
def test_children_that_die(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, words = CHILDREN[name]
    monkeypatch.setattr(module, "CHILD", code)
    with pytest.raises(InputError) as caught:
        run(tmp_path, saved(tmp_path), timeout=2 if "within 2 s" in words else 60)
    assert words in caught.value.message


def test_a_request_that_is_too_large(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"one request of model\.onnx takes"):
        run(tmp_path, saved(tmp_path), feeds={"x": np.broadcast_to(np.float32(0), (2**28, 3))})


@settings(max_examples=15, deadline=None)
@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=2))
def test_flipped_bytes_are_run_or_refused(
    flips: list[tuple[float, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("flips")
    path = saved(folder)
    content = bytearray(path.read_bytes())
    for place, value in flips:
        content[int(place * len(content))] = value
    path.write_bytes(content)
    try:
        model = load_model(path, work_dir=folder, max_bytes=2**20)
        probe(path, model.inputs, work_dir=folder, memory_bytes=2**29, timeout=60)
    except InputError as error:
        said = error.message
    else:
        said = "taken"
    assert "Traceback" not in said
