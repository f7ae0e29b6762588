"""What a Job refuses before it works: external data that nothing pins, and models that do not fit."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgemodel_api import reasons
from edgemodel_api.artifact import Golden
from edgemodel_api.errors import InputError
from edgemodel_api.job import JobSpec
from edgemodel_compressor import job, memory
from edgemodel_compressor.formats import datafile, kept
from edgemodel_compressor.job import bring_inputs
from edgemodel_compressor.memory import Limit
from edgemodel_oci.artifact import ArtifactWriter
from edgemodel_oci.layout import Layout
from edgemodel_oci.reference import Reference


@pytest.fixture
def claim(build: Any) -> Path:
    """A claim with a model and its external data."""
    folder = build.folder / "volumes" / "models"
    folder.mkdir(parents=True)
    weights = build.weights()
    (folder / "w.bin").write_bytes(weights.raw_data)
    (folder / "model.onnx").write_bytes(
        build.model(initializers=[build.external(weights, "w.bin")]).SerializeToString()
    )
    return folder


def bring(build: Any, uri: str, **source: Any) -> Any:
    work = build.folder / f"work{len(list(build.folder.iterdir()))}"
    work.mkdir()
    spec = JobSpec.model_validate(
        {
            "namespace": "default",
            "name": "m",
            "revision": "r",
            "source": {"uri": uri, **source},
            "platforms": ["linux/amd64"],
            "output": f"oci-layout://{build.folder}/out",
            "volumesDir": str(build.folder / "volumes"),
        }
    )
    return bring_inputs(spec, work, lambda _progress: None)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_claim_s_external_data(build: Any, claim: Path):
    uri, sha256, before = "pvc://models/model.onnx", digest(claim / "model.onnx"), digest(claim / "w.bin")
    bring(build, uri)
    with pytest.raises(InputError, match=f"source {uri}: sha256 in the manifest .* add dataSha256: {before}"):
        bring(build, uri, sha256=sha256)
    found = bring(build, uri, sha256=sha256, dataSha256=before)
    assert found.model.inputs[0].name == "x"
    (claim / "w.bin").write_bytes(np.zeros(12, np.float32).tobytes())
    with pytest.raises(InputError, match="find out who changed them") as caught:
        bring(build, uri, sha256=sha256, dataSha256=before)
    assert caught.value.reason == reasons.DIGEST_MISMATCH


def test_a_large_artifact_of_ours_is_a_source(build: Any, claim: Path, monkeypatch: pytest.MonkeyPatch):
    """By tag: the ONNX file's sha256 covers its data, which it names by their digest."""
    monkeypatch.setattr(kept, "LARGE_BYTES", 40)
    monkeypatch.setattr(kept, "SMALL_TENSOR_BYTES", 40)
    found = bring(build, "pvc://models/model.onnx").model
    layout = Layout(Reference.parse(f"oci-layout://{build.folder}/layout"), create=True)
    golden = build.folder / "golden"
    golden.write_bytes(b"cases")
    writer = ArtifactWriter(layout)
    writer.add_variant(
        platform="linux/amd64", name="source", model_file=found.path, golden_file=golden,
        golden=Golden(cases=1, max_error=0.1), classes=(), encoding="float32", source_name="m",
    )  # fmt: skip
    index = writer.finish(revision="r", tag="r")
    for target in (":r", f"@{index.digest}"):
        again = bring(build, f"oci-layout://{build.folder}/layout{target}", sha256=found.sha256).model
        assert again.sha256 == found.sha256
        assert datafile.read_saved(again.path).graph.initializer[0].name == "w"


def test_what_does_not_fit_is_refused_before_it_is_loaded(build: Any, monkeypatch: pytest.MonkeyPatch):
    path = build.save(build.model())
    monkeypatch.setattr(memory, "limit", lambda: Limit(2**20, "the memory limit of the Job's container", "raise it"))
    monkeypatch.setattr(job, "load_model", None)  # must not be reached
    with pytest.raises(
        InputError, match=r"source file:.*: compressing this model takes about .* raise it to"
    ) as caught:
        bring(build, path.as_uri())
    assert caught.value.reason == reasons.INSUFFICIENT_MEMORY
