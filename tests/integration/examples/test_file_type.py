"""magika's features as magika computes them, files of known type, and the data made of them."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from magika import Magika
from magika.types import Seekable

from edgemodel_api import manifest
from edgemodel_api.revision import revision_of
from edgemodel_cli.nodes_file import load_nodes


@pytest.fixture
def features(example):
    return example("file-type", "features")


@pytest.fixture
def prepare(example, monkeypatch, tmp_path):
    module = example("file-type", "prepare")
    monkeypatch.setattr(module, "DATA", tmp_path / "data")
    monkeypatch.setattr(module, "VALIDATION_PER_TYPE", 2)
    monkeypatch.setattr(module, "CALIBRATION_PER_TYPE", 1)
    return module


def of_magika(content: bytes) -> list[int]:
    found = Magika._extract_features_from_seekable(Seekable(io.BytesIO(content)), 1024, 0, 1024, 256, 4096, False)
    return [*found.beg, *found.end]


WHITESPACE = st.text(" \t\r\n\v\f", max_size=30).map(str.encode)
CONTENT = st.builds(
    lambda before, body, times, after: before + body * times + after,
    WHITESPACE, st.binary(max_size=300), st.integers(0, 40), WHITESPACE,
)  # fmt: skip


@given(content=CONTENT)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
def test_features_are_magikas(features, content):
    assert features.features(content).tolist() == of_magika(content)


@pytest.mark.parametrize("size", [0, 1, 8, 1023, 1024, 1025, 2048, 4095, 4096, 4097, 8192, 100_000])
def test_features_of_every_length(features, size):
    content = bytes(range(1, 252)) * (size // 251 + 1)
    assert features.features(content[:size]).tolist() == of_magika(content[:size])


def test_constants_are_the_models(features, prepare):
    config = json.loads((prepare.magika_folder() / "config.min.json").read_bytes())
    assert (config["beg_size"], config["mid_size"], config["end_size"]) == (features.BEGINNING, 0, features.END)
    assert (config["block_size"], config["padding_token"]) == (features.BLOCK, features.PADDING)
    assert config["min_file_size_for_dl"] == features.SMALLEST
    assert not config["use_inputs_at_offsets"]


def test_samples_are_of_types_that_the_model_knows_and_enough(example, prepare):
    kinds = [kind for kind, content in example("file-type", "samples").samples(1) if len(content) >= 8]
    assert set(kinds) <= set(prepare.type_names())
    assert len(set(kinds)) >= 70
    assert len(kinds) == len(set(kinds))


def test_the_same_files_in_another_process(example):
    """Hash seeds, clocks and process ids must not show."""
    samples = example("file-type", "samples")
    code = (
        "import hashlib, samples; h = hashlib.sha256();"
        "[h.update(k.encode() + c) for k, c in samples.samples(2)]; print(h.hexdigest())"
    )
    folder = samples.__file__.rpartition("/")[0]
    digests = {
        subprocess.run(
            [sys.executable, "-c", code], cwd=folder, env={"PYTHONHASHSEED": seed}, check=True, capture_output=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_data_is_labelled_right_and_kept_apart(prepare):
    calibration, validation = prepare.datasets()
    assert set(calibration) == {"bytes"}
    assert set(validation) == {"bytes", "type"}
    for data in (calibration, validation):
        assert data["bytes"].dtype == np.int32
        assert data["bytes"].shape[1:] == (2048,)
        assert data["bytes"].min() >= 0
        assert data["bytes"].max() <= 256
    assert len(validation["bytes"]) == len(validation["type"]) > 2 * 65
    rows = {row.tobytes() for row in validation["bytes"]}
    assert not any(row.tobytes() in rows for row in calibration["bytes"])


def test_prepare_writes_whole_files_the_same_each_time(prepare, capsys, monkeypatch):
    monkeypatch.setattr(prepare, "VALIDATION_PER_TYPE", 1)
    assert prepare.main() == 0
    said = capsys.readouterr().out
    first = {path.name: path.read_bytes() for path in prepare.DATA.iterdir()}
    assert set(first) == {"model.onnx", "calibration.npz", "validation.npz"}
    assert " of 72 types to validate" in said
    assert int(said.split("names the type of ")[1].split(".")[0]) > 90
    monkeypatch.setattr(prepare, "accuracy", lambda model, data: 0.5)
    prepare.main()
    assert {path.name: path.read_bytes() for path in prepare.DATA.iterdir()} == first


def test_without_magika_it_says_what_to_install(prepare, monkeypatch):
    monkeypatch.setattr(prepare.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="make setup"):
        prepare.main()


def test_manifest_names_what_prepare_writes(examples):
    model = manifest.load((examples / "file-type" / "edgemodel.yaml").read_bytes())
    data = model.spec.data
    uris = [model.spec.source.uri, data.calibration.uri, data.validation.uri]
    assert uris == ["file:data/model.onnx", "file:data/calibration.npz", "file:data/validation.npz"]
    assert data.validation.labels == "type"
    assert model.spec.compression.steps is None


def test_the_second_act_is_another_revision_of_the_same_model(prepare, example, examples):
    demo = example("file-type", "demo")
    prepare.DATA.mkdir()
    first = manifest.load((examples / "file-type" / "edgemodel.yaml").read_bytes())
    second = manifest.load(demo.changed_manifest().read_bytes())
    assert second.key == first.key
    assert revision_of(second.spec, ["linux/amd64"]) != revision_of(first.spec, ["linux/amd64"])
    assert second.spec.source.uri == f"file:{examples.resolve() / 'file-type' / 'data' / 'model.onnx'}"


def test_one_node_rehearses_in_the_second_act_only(prepare, example):
    demo = example("file-type", "demo")
    prepare.DATA.mkdir()
    for rehearse in (False, True):
        path = demo.nodes_file(rehearse=rehearse)
        nodes = load_nodes(path.read_bytes(), file=path.name)
        assert tuple(node.name for node in nodes) == demo.NODES
        assert [node.rehearse is not None for node in nodes] == [False, False, rehearse]
