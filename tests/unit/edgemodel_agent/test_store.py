"""A file is used only if its digest is right at that moment; garbage goes, what is needed stays."""

import hashlib
import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgemodel_agent.files import read_json, write_atomic, write_json
from edgemodel_agent.files_mode import lay_down
from edgemodel_agent.store import Blob, DamagedError, Store, VariantRecord
from edgemodel_api.artifact import Golden
from edgemodel_api.edgenode import ArtifactTarget


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def put(store: Store, name: str, *, shared: str = "") -> str:
    """A complete variant; `shared` names the golden file that several variants may have in common."""
    weight, model, golden = f"layer {name}".encode(), f"model {name}".encode(), f"golden {shared or name}".encode()
    record = VariantRecord(
        digest=digest(f"manifest {name}".encode()), variant=name, revision="r",
        weight=Blob(digest=digest(weight), size=len(weight)),
        golden=Blob(digest=digest(golden), size=len(golden)),
        golden_spec=Golden(cases=1, max_error=0.1),
        file_digest=digest(model), file_size=len(model),
    )  # fmt: skip
    store.save_record(record)
    store.blob_path(digest(weight)).write_bytes(weight)
    store.blob_path(digest(golden)).write_bytes(golden)
    store.file_path(digest(model)).write_bytes(model)
    return record.digest


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path)


def test_complete_variant_loads(store):
    variant = put(store, "a")
    assert store.complete(variant)
    assert store.load(variant).model.read_bytes() == b"model a"
    assert store.load(variant).golden.read_bytes() == b"golden a"


def test_a_new_store_on_the_same_folder_knows_everything(store):
    variant = put(store, "a")
    assert Store(store.root).load(variant).golden_spec.max_error == 0.1


def spoil_model(store, r):
    store.file_path(r.file_digest).write_bytes(b"model A")  # the same length


def spoil_golden(store, r):
    store.blob_path(r.golden.digest).write_bytes(b"golden A")


def cut_model(store, r):
    os.truncate(store.file_path(r.file_digest), 3)


def lose_model(store, r):
    store.file_path(r.file_digest).unlink()


@pytest.mark.parametrize("harm", [spoil_model, spoil_golden, cut_model, lose_model])
def test_damage_is_never_loaded_and_is_removed(store, harm):
    variant = put(store, "a")
    harm(store, store.record(variant))
    with pytest.raises(DamagedError):
        store.load(variant)
    assert not store.complete(variant), "what is wrong must be fetched again, not found again"


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"digest": "sha256:00"}', b"\xff\xfe"],
    ids=["empty", "cut", "list", "short", "binary"],
)
def test_a_damaged_record_counts_as_absent(store, content):
    variant = put(store, "a")
    (store.variants / f"{variant[7:]}.json").write_bytes(content)
    assert Store(store.root).record(variant) is None


def test_a_record_under_a_wrong_name_counts_as_absent(store):
    a, b = put(store, "a"), put(store, "b")
    os.replace(store.variants / f"{b[7:]}.json", store.variants / f"{a[7:]}.json")
    assert Store(store.root).record(a) is None


@pytest.mark.parametrize("bad", ["../../etc/passwd", "sha256:../x", "md5:" + "0" * 64, "sha256:" + "Z" * 64, ""])
def test_digests_never_become_paths_elsewhere(store, bad):
    with pytest.raises(ValueError, match="not a sha256 digest"):
        store.blob_path(bad)


def test_missing_bytes_count_parts_that_are_here_already(store):
    variant = put(store, "a")
    record = store.record(variant)
    assert store.missing_bytes(record) == (0, 0)
    layer = store.blob_path(record.weight.digest)
    layer.with_name(layer.name + ".part").write_bytes(layer.read_bytes()[:3])
    layer.unlink()
    store.file_path(record.file_digest).unlink()
    assert store.missing_bytes(record) == (record.weight.size - 3, record.file_size)


names = st.sets(st.sampled_from("abcdef"))


@given(have=names, keep=names)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_collect_keeps_what_is_needed_and_nothing_else(tmp_path_factory, have, keep):
    store = Store(tmp_path_factory.mktemp("store"))
    # Neighbours share their golden file, as the variants of a revision do.
    variants = {n: put(store, n, shared="abc" if n in "abc" else "def") for n in have}
    (store.files / ".rubbish.tmp").write_bytes(b"left by a killed writer")
    (store.blobs / ("0" * 64 + ".part")).write_bytes(b"of a variant that nobody wants")
    store.collect({variants[n] for n in have & keep} | {digest(b"unknown")})
    for n in have & keep:
        assert store.load(variants[n])
    left = {p for folder in (store.blobs, store.files, store.variants) for p in folder.iterdir()}
    kept = have & keep
    goldens = {"abc" if n in "abc" else "def" for n in kept}
    assert len(left) == 3 * len(kept) + len(goldens)


def test_collect_leaves_the_unfinished_part_of_a_wanted_blob(store):
    variant = put(store, "a")
    part = store.blob_path(store.record(variant).weight.digest)
    part = part.with_name(part.name + ".part")
    part.write_bytes(b"lay")
    store.collect({variant})
    assert part.exists()
    store.collect(set())
    assert not part.exists()


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})

    def full(_fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new")
    assert json.loads(path.read_bytes()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_read_json_of_what_is_not(tmp_path):
    (tmp_path / "cut.json").write_text('{"a": ')
    assert read_json(tmp_path / "cut.json") is None
    assert read_json(tmp_path / "absent.json") is None


DATA = b"external data"


@pytest.fixture
def large(store) -> VariantRecord:
    """A variant whose model has external data."""
    record = store.record(put(store, "large")).replace(data_digest=digest(DATA), data_size=len(DATA))
    store.save_record(record)
    store.data_path(record.data_digest).write_bytes(DATA)
    return record


def test_a_model_with_external_data_loads_with_them_beside_it(store, large):
    assert store.complete(large.digest)
    loaded = store.load(large.digest)
    assert loaded.data.read_bytes() == DATA
    assert loaded.data.parent == loaded.model.parent
    assert loaded.data.name == f"{hashlib.sha256(DATA).hexdigest()}.data"
    assert Store(store.root).load(large.digest).data == loaded.data
    assert store.load(put(store, "small")).data is None


@pytest.mark.parametrize("content", [None, DATA[:-1], DATA[:-1] + b"A"])
def test_damaged_external_data_are_never_loaded(store, large, content):
    path = store.data_path(large.data_digest)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert store.complete(large.digest) == (content is not None and len(content) == len(DATA))
    assert store.missing_bytes(large) == (0, 0 if store.complete(large.digest) else len(DATA))
    with pytest.raises(DamagedError):
        store.load(large.digest)
    assert not path.exists()
    assert not store.expanded(large)


def test_collect_keeps_external_data_as_long_as_their_model(store, large):
    store.collect({large.digest})
    assert store.load(large.digest).data.read_bytes() == DATA
    store.collect(set())
    assert list(store.files.iterdir()) == []


def test_files_mode_lays_external_data_beside_the_model(tmp_path, store, large):
    target = ArtifactTarget(reference="oci://r/m", digest=large.digest, variant="v", revision="r")
    loaded = store.load(large.digest)
    path = lay_down(tmp_path / "files", target, loaded.model, loaded.data)
    assert path.read_bytes() == b"model large"
    assert path.with_name(loaded.data.name).read_bytes() == DATA
    assert sorted(p.name for p in path.parent.iterdir()) == sorted([loaded.data.name, "model.onnx", "variant.json"])
