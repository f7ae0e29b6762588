"""Models whose weights stay outside: the same answers, the same refusals, never a byte that was not checked."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgemodel_api import reasons
from edgemodel_api.edgemodel import PruneStep, QuantizeStep
from edgemodel_api.errors import InputError
from edgemodel_compressor.evaluate import serving
from edgemodel_compressor.evaluate.latency import compare_latency
from edgemodel_compressor.evaluate.memory import peak_memory
from edgemodel_compressor.evaluate.runner import path_of, runner
from edgemodel_compressor.formats import datafile, kept
from edgemodel_compressor.formats.datafile import read_saved
from edgemodel_compressor.formats.external import digest_of
from edgemodel_compressor.formats.lean import LeanSession
from edgemodel_compressor.formats.onnx_model import load_model, open_session, save_model
from edgemodel_compressor.steps.calibrate import calibrate
from edgemodel_compressor.steps.encodings import STATIC, encodings_for
from edgemodel_compressor.steps.graph import array_of, copy_of
from edgemodel_compressor.steps.prepare import prepare
from edgemodel_compressor.steps.prune import prune
from edgemodel_compressor.steps.quantize import quantize
from edgemodel_compressor.steps.ranking import smallest
from edgemodel_compressor.steps.streamed import smallest_of
from edgemodel_oci.companion import companion, file_bytes

ROWS = np.random.default_rng(5).standard_normal((4, 64)).astype(np.float32)


@pytest.fixture(autouse=True)
def large_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "LARGE_BYTES", 20_000)
    monkeypatch.setattr(datafile, "_TINY_BYTES", 1000)


@pytest.fixture
def model(build: Any) -> Any:
    """Two layers, 64 → 80 → 32: 20 480 and 10 240 bytes of weights, and a bias that stays inside."""
    rng = np.random.default_rng(3)
    initializers = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in {"w1": (64, 80), "b": (80,), "w2": (80, 32)}.items()
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"], name="one"),
        helper.make_node("Add", ["h", "b"], ["hb"], name="bias"),
        helper.make_node("Relu", ["hb"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "w2"], ["y"], name="two"),
    ]
    return build.model(
        nodes, inputs=[build.value("x", ["N", 64])], outputs=[build.value("y", ["N", 32])], initializers=initializers
    )


def save_external(model: Any, folder: Path, name: str = "model.onnx") -> Path:
    folder.mkdir(exist_ok=True)
    saved = onnx.ModelProto.FromString(model.SerializeToString())
    onnx.save(saved, folder / name, save_as_external_data=True, location=f"{name}.data", size_threshold=1024)
    return folder / name


def load(path: Path, **fields: Any) -> Any:
    work = path.parent / f"work{len(list(path.parent.iterdir()))}"
    work.mkdir()
    return load_model(path, work_dir=work, **{"max_bytes": 2**24, "external_dir": path.parent, **fields})


def answer(path: Path) -> Any:
    return open_session(path).run(None, {"x": ROWS})[0]


def test_weights_stay_outside_and_answers_stay_the_same(build: Any, model: Any):
    found = load(save_external(model, build.folder / "in"))
    assert [kept.is_kept(t) for t in found.proto.graph.initializer] == [True, False, True]
    data = companion(found.path)
    assert data is not None
    assert data.digest == f"sha256:{hashlib.sha256(data.path.read_bytes()).hexdigest()}"
    assert data.path.name == f"{data.digest.removeprefix('sha256:')}.data"
    assert found.size_bytes == file_bytes(found.path) == found.path.stat().st_size + data.size
    assert found.sha256 == hashlib.sha256(found.path.read_bytes()).hexdigest()
    expected = onnx.reference.ReferenceEvaluator(model).run(None, {"x": ROWS})[0]
    np.testing.assert_allclose(answer(found.path), expected, rtol=1e-4, atol=1e-4)
    onnx.checker.check_model(str(found.path), full_check=True)
    whole = onnx.load(str(found.path))
    assert [t.raw_data for t in whole.graph.initializer] == [t.raw_data for t in model.graph.initializer]


def test_the_same_model_gives_the_same_bytes_however_it_came(build: Any, model: Any):
    outside = load(save_external(model, build.folder / "a"))
    (build.folder / "b").mkdir()
    inside = build.folder / "b" / "other.onnx"
    inside.write_bytes(model.SerializeToString())
    mixed = onnx.ModelProto.FromString(model.SerializeToString())
    (build.folder / "b" / "w2.bin").write_bytes(b"1234" + mixed.graph.initializer[2].raw_data)
    mixed.graph.initializer[2].CopyFrom(build.external(mixed.graph.initializer[2], "w2.bin", offset=4))
    half = build.folder / "b" / "half.onnx"
    half.write_bytes(mixed.SerializeToString())
    digests = {load(p).sha256 for p in (inside, half)} | {outside.sha256}
    assert len(digests) == 1
    again = load(outside.path)
    assert again.sha256 == outside.sha256, "a large model of ours is a source that loads as itself"


def test_the_digest_covers_the_data(build: Any, model: Any):
    before = load(save_external(model, build.folder / "a"))
    changed = onnx.ModelProto.FromString(model.SerializeToString())
    raw = bytearray(changed.graph.initializer[2].raw_data)
    raw[7] ^= 1
    changed.graph.initializer[2].raw_data = bytes(raw)
    paths = [save_external(m, build.folder / n) for m, n in ((model, "b"), (changed, "c"))]
    assert paths[0].read_bytes() == paths[1].read_bytes(), "the ONNX files themselves do not differ"
    assert load(paths[1]).sha256 != before.sha256 == load(paths[0]).sha256
    assert digest_of(paths[0]) != digest_of(paths[1])


def test_copies_share_and_what_is_put_is_released(build: Any, model: Any):
    found = load(save_external(model, build.folder / "in"))
    first, second = copy_of(found.proto), copy_of(found.proto)
    new = np.arange(80 * 32, dtype=np.float32).reshape(80, 32)
    kept.put(first.graph.initializer[2], new)
    third = copy_of(first)
    np.testing.assert_array_equal(array_of(third.graph.initializer[2]), new)
    np.testing.assert_array_equal(
        array_of(second.graph.initializer[2]), numpy_helper.to_array(model.graph.initializer[2])
    )
    assert kept.release(first, keep=[third]) == 0, "another model still needs them"
    assert kept.release(first) == new.nbytes
    with pytest.raises(InputError, match="was not checked"):
        kept.array_of(third.graph.initializer[2])
    assert kept.release(second) == 0, "the source's own file is never removed"
    array_of(second.graph.initializer[0])


@pytest.mark.parametrize("dtype", [np.float16, np.int8, np.int64, np.float64, np.bool_])
def test_tensors_of_many_types_come_back(build: Any, model: Any, dtype: Any):
    found = load(save_external(model, build.folder / "in"))
    values = (np.arange(6000).reshape(60, 100) % 7).astype(dtype)
    made = TensorProto(name="n")
    kept.put(made, values[:, ::-1], beside=found.proto.graph.initializer[0])
    assert kept.is_kept(made)
    np.testing.assert_array_equal(kept.array_of(made), values[:, ::-1])
    assert kept.array_of(made).dtype == dtype


STEPS = {
    "prune": lambda m: prune(m, PruneStep(sparsity="60%")).model,
    "prune-global": lambda m: prune(m, PruneStep(sparsity="35%", granularity="Global", method="MaxRelative")).model,
    "prune-channel": lambda m: prune(m, PruneStep(sparsity="50%", granularity="Channel")).model,
    "int8": lambda m: weights_only(m, "Int8"),
    "int4": lambda m: weights_only(m, "Int4"),
    "float16": lambda m: weights_only(m, "Float16"),
}


def weights_only(model: Any, precision: str) -> Any:
    step = QuantizeStep(precision=precision, activations="None")
    return quantize(model, step, encodings_for(step, ["linux/amd64"])[0], ranges=None).model


@pytest.mark.parametrize("name", STEPS)
def test_steps_give_what_they_give_in_memory(build: Any, model: Any, name: str):
    found = load(save_external(model, build.folder / "in"))
    outside, inside = (STEPS[name](prepare(m)) for m in (found.proto, model))
    assert any(map(kept.is_kept, outside.graph.initializer))
    assert not any(map(kept.is_kept, inside.graph.initializer))
    assert [t.name for t in outside.graph.initializer] == [t.name for t in inside.graph.initializer]
    for a, b in zip(outside.graph.initializer, inside.graph.initializer, strict=True):
        np.testing.assert_array_equal(array_of(a), array_of(b))
    folder = build.folder / "out"
    folder.mkdir()
    digest, size = save_model(outside, folder / "a.onnx")
    assert (digest, size) == (
        hashlib.sha256((folder / "a.onnx").read_bytes()).hexdigest(),
        file_bytes(folder / "a.onnx"),
    )
    expected = onnx.reference.ReferenceEvaluator(inside).run(None, {"x": ROWS})[0]
    np.testing.assert_allclose(answer(folder / "a.onnx"), expected, rtol=1e-3, atol=1e-3)
    read = read_saved(folder / "a.onnx")
    assert save_model(read, folder / "b.onnx") == (digest, size)


def test_integer_computing_takes_the_model_as_a_whole(build: Any, model: Any, monkeypatch: pytest.MonkeyPatch):
    found = load(save_external(model, build.folder / "in"))
    prepared = prepare(found.proto)
    path = build.folder / "calibrated.onnx"
    save_model(prepared, path)

    class Rows:
        samples, labels = len(ROWS), None

        def batches(self, size: int) -> Any:
            yield {"x": ROWS}

        def take(self, n: int, seed: int) -> Any:
            return {"x": ROWS[:n]}

    ranges = calibrate(path, Rows(), rows=4, samples=4, seed=0, progress=lambda _d, _t: None)
    step = QuantizeStep(precision="Int8", activations="Static")
    made = quantize(prepared, step, STATIC[0], ranges=ranges)
    save_model(made.model, build.folder / "static.onnx")
    assert np.isfinite(answer(build.folder / "static.onnx")).all()
    monkeypatch.setattr(kept, "PROTOBUF_LIMIT", 25_000)
    with pytest.raises(InputError, match="protobuf's limit is 2 GiB") as caught:
        quantize(prepared, step, STATIC[0], ranges=ranges)
    assert caught.value.reason == reasons.NOT_SUPPORTED


def test_a_model_that_came_apart_and_is_whole_again_says_so(build: Any, model: Any, monkeypatch: pytest.MonkeyPatch):
    found = load(save_external(model, build.folder / "in"))
    whole = onnx.load(str(found.path))
    folder = build.folder / "whole"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(whole.SerializeToString())
    monkeypatch.setattr(kept, "LARGE_BYTES", 2**30)
    with pytest.raises(InputError, match="needs its external data"):
        companion(folder / "model.onnx")
    again = load(folder / "model.onnx")
    assert companion(again.path) is None
    np.testing.assert_allclose(answer(again.path), answer(found.path), rtol=1e-4, atol=1e-4)


def test_sessions_of_large_models_share_the_memory_of_one(build: Any, model: Any):
    found = load(save_external(model, build.folder / "in"))
    save_model(STEPS["int8"](prepare(found.proto)), build.folder / "int8.onnx")
    first, second = (open_session(p) for p in (found.path, build.folder / "int8.onnx"))
    assert isinstance(first, LeanSession)
    assert [(i.name, list(i.shape)) for i in first.get_inputs()] == [("x", ["N", 64])]
    assert [o.name for o in second.get_outputs()] == ["y"]
    before = first.run(None, {"x": ROWS})[0]
    second.run(["y"], {"x": ROWS})
    assert LeanSession._open is not None
    assert LeanSession._open[0] is second
    np.testing.assert_array_equal(first.run(None, {"x": ROWS})[0], before)
    assert path_of(runner(first)) == found.path
    LeanSession.close_all()
    assert LeanSession._open is None
    np.testing.assert_array_equal(first.run(None, {"x": ROWS})[0], before)


def test_large_models_are_timed_as_served_where_that_fits(build: Any, model: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(serving, "CHILD_BYTES", 0)
    found = load(save_external(model, build.folder / "in"))
    pruned, small = build.folder / "pruned.onnx", build.folder / "int8.onnx"
    save_model(STEPS["prune"](prepare(found.proto)), pruned)
    save_model(STEPS["int8"](prepare(found.proto)), small)
    source = runner(open_session(found.path))
    compared = compare_latency(runner(open_session(pruned)), source, [{"x": ROWS}], seconds=0.01)
    assert compared.candidate.median > 0
    assert compared.slowdown.low <= compared.slowdown.value <= compared.slowdown.high
    assert peak_memory(pruned, {"x": ROWS}, work_dir=build.folder) > 10_000
    assert peak_memory(small, {"x": ROWS}, work_dir=build.folder) is None
    with pytest.raises(serving.NotMeasuredError, match=r"at most 1\.5 times"):
        compare_latency(runner(open_session(small)), source, [{"x": ROWS}], seconds=0.01)


def absolute(entry: Any, _folder: Path, found: Any) -> None:
    entry["location"] = str(companion(found.path).path)


def truncated(_entry: Any, folder: Path, _found: Any) -> None:
    os.truncate(folder / "model.onnx.data", 100)


def far(entry: Any, _folder: Path, _found: Any) -> None:
    entry["offset"] = str(2**62)


def long(entry: Any, _folder: Path, _found: Any) -> None:
    entry["length"] = str(20481)


def upwards(entry: Any, _folder: Path, _found: Any) -> None:
    entry["location"] = "../model.onnx.data"


def fifo(_entry: Any, folder: Path, _found: Any) -> None:
    (folder / "model.onnx.data").unlink()
    os.mkfifo(folder / "model.onnx.data")


def linked(_entry: Any, folder: Path, _found: Any) -> None:
    (folder / "model.onnx.data").rename(folder.parent / "elsewhere")
    (folder / "model.onnx.data").symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (absolute, "leaves the model's folder"),
        (truncated, "truncated"),
        (far, "are asked for"),
        (long, "needs 20480"),
        (upwards, "leaves the model's folder"),
        (fifo, "no regular file"),
        (linked, "is a link that leaves"),
    ],
)
def test_hostile_external_data(build: Any, model: Any, harm: Any, message: str):
    found = load(save_external(model, build.folder / "good"))
    path = save_external(model, build.folder / "bad")
    proto = onnx.load(str(path), load_external_data=False)
    entry = {e.key: e.value for e in proto.graph.initializer[0].external_data}
    harm(entry, path.parent, found)
    del proto.graph.initializer[0].external_data[:]
    for key, value in entry.items():
        proto.graph.initializer[0].external_data.add(key=key, value=value)
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(InputError, match=message):
        load(path)
    left = [p.name for p in path.parent.glob("work*/*")]
    assert left == [], "nothing stays of a model that was refused"


def test_a_sparse_file_of_terabytes_is_refused_by_its_shape(build: Any, model: Any):
    folder = build.folder / "sparse"
    folder.mkdir()
    with (folder / "w").open("wb") as f:
        f.truncate(2**41)
    proto = onnx.ModelProto.FromString(model.SerializeToString())
    tensor = proto.graph.initializer[0]
    del tensor.dims[:]
    tensor.dims.extend([2**20, 2**18])
    tensor.CopyFrom(build.external(tensor, "w"))
    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(InputError, match=r"a model may have 16\.0 MiB"):
        load(folder / "model.onnx")
    with pytest.raises(InputError, match="do not fit into") as caught:
        load(folder / "model.onnx", max_bytes=2**45)
    assert caught.value.reason == reasons.DISK_FULL


def test_data_that_change_while_they_are_read(build: Any, model: Any, monkeypatch: pytest.MonkeyPatch):
    path = save_external(model, build.folder / "in")
    add = datafile.DataFile.take

    def meanwhile(self: Any, tensor: Any, parts: Any) -> None:
        add(self, tensor, parts)
        data = path.with_name("model.onnx.data")
        content = data.read_bytes()
        data.write_bytes(content[:-1] + b"x")
        os.utime(data, ns=(1, 1))

    monkeypatch.setattr(datafile.DataFile, "take", meanwhile)
    with pytest.raises(InputError, match="changed while it was read"):
        load(path)


def test_data_that_are_not_what_their_name_says(build: Any, model: Any):
    found = load(save_external(model, build.folder / "in"))
    data = companion(found.path)
    content = bytearray(data.path.read_bytes())
    content[0] ^= 1
    data.path.write_bytes(content)
    with pytest.raises(InputError, match="not the one in their name") as caught:
        load(found.path)
    assert caught.value.reason == reasons.DIGEST_MISMATCH


@pytest.mark.parametrize("limit", [0, 2**30], ids=["large", "small"])
def test_a_pinned_model_has_pinned_data(build: Any, model: Any, monkeypatch: pytest.MonkeyPatch, limit: int):
    monkeypatch.setattr(kept, "LARGE_BYTES", limit or 20_000)
    path = save_external(model, build.folder / "in")
    digest = hashlib.sha256(path.with_name("model.onnx.data").read_bytes()).hexdigest()
    assert digest_of(path) == digest
    with pytest.raises(InputError, match=f"add dataSha256: {digest}"):
        load(path, pinned=False)
    load(path, pinned=False, data_sha256=digest)
    with pytest.raises(InputError, match="find out who changed them") as caught:
        load(path, data_sha256="0" * 64)
    assert caught.value.reason == reasons.DIGEST_MISMATCH
    plain = build.folder / "plain"
    plain.mkdir()
    (plain / "model.onnx").write_bytes(model.SerializeToString())
    assert digest_of(plain / "model.onnx") is None
    load(plain / "model.onnx", pinned=False)
    with pytest.raises(InputError, match="has no external data"):
        load(plain / "model.onnx", data_sha256=digest)


def test_a_large_model_of_ours_pins_its_own_data(build: Any, model: Any):
    load(load(save_external(model, build.folder / "in")).path, pinned=False)


def test_the_digest_of_several_files_is_what_sha256sum_makes(build: Any):
    a, b = build.weights("w"), build.weights("v", (4, 4))
    (build.folder / "b").write_bytes(a.raw_data)
    (build.folder / "a").write_bytes(b.raw_data)
    proto = build.model(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "v"], ["y"])],
        initializers=[build.external(a, "b"), build.external(b, "a")],
    )
    lines = "".join(f"{hashlib.sha256((build.folder / n).read_bytes()).hexdigest()}  {n}\n" for n in ("a", "b"))
    assert digest_of(build.save(proto)) == hashlib.sha256(lines.encode()).hexdigest()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_large_files_are_refused_as_small_ones_are(
    build: Any, model: Any, monkeypatch: pytest.MonkeyPatch, data: Any
):
    content = bytearray(model.SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(21_000, len(content)))]
    path = build.folder / "damaged.onnx"
    path.write_bytes(content)

    def outcome(limit: int) -> str:
        monkeypatch.setattr(kept, "LARGE_BYTES", limit)
        try:
            with_weights = kept.inlined(load(path, external_dir=None).proto)
            return hashlib.sha256(with_weights.SerializeToString(deterministic=True)).hexdigest()
        except InputError as error:
            return "refused" if error.message else "no words"

    assert outcome(20_000) == outcome(2**30)


@settings(max_examples=200, deadline=None)
@given(
    parts=st.lists(st.lists(st.sampled_from([0.0, 5e-324, 1e-300, 0.5, 1.0, np.pi, 1e10]), max_size=12), max_size=5),
    share=st.floats(0, 1),
)
def test_the_smallest_of_streamed_scores(parts: list[list[float]], share: float):
    arrays = [np.array(p, dtype=np.float64) for p in parts]
    whole = np.concatenate([*arrays, np.zeros(0)])
    count = round(share * whole.size)
    masks = [*smallest_of(lambda: iter(arrays), count), np.zeros(0, dtype=bool)]
    np.testing.assert_array_equal(np.concatenate(masks), smallest(whole, count))
