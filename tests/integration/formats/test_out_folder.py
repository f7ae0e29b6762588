"""`edgemodel compress` with formats, as a user runs it: what it prints, and what lies in the folder."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from edgemodel_compressor.formats import coreml, tflite

#: A conversion takes a second, and there are a dozen.
pytestmark = pytest.mark.timeout(400)
MANIFEST = """\
apiVersion: edgemodel.dev/v1alpha1
kind: EdgeModel
metadata: {{name: digits}}
spec:
  source: {{uri: "file:{folder}/model.onnx"}}
  data:
    calibration: {{uri: "file:{folder}/calibration.npz"}}
    validation: {{uri: "file:{folder}/validation.npz", labels: "y"}}
  compression:
    budget: {{maxQualityDrop: 2%, {budget}}}
    steps: [{{quantize: {{precision: Int8, activations: "None"}}}}]
  formats: [{formats}]
"""


@pytest.fixture
def compress(digits, tmp_path):
    """Run it; (the JSON that it prints, its folder)."""

    def run(formats, out, seed="0", budget="maxSlowdown: 100%"):
        manifest = tmp_path / f"{out}.yaml"
        manifest.write_text(MANIFEST.format(folder=digits, formats=formats, budget=budget))
        # Not the test's PATH: it has nothing in it.
        done = subprocess.run(
            [sys.executable, "-m", "edgemodel_cli", "compress", "-f", manifest, "--out", tmp_path / out, "-o", "json"],
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
            env={**os.environ, "PYTHONHASHSEED": seed, "EDGEMODEL_CANDIDATES": "off"},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout) | {"stderr": done.stderr}, tmp_path / out

    return run


def test_a_file_of_each_format_lies_beside_the_artifact(compress, digits):
    said, out = compress("ONNX, TFLite, CoreML", "all")
    names = {p.name for p in out.iterdir()}
    assert {"digits.onnx", "digits.tflite", "digits.mlpackage.zip", "report.html", "report.json"} <= names
    assert said["modelFiles"].keys() == {"linux/amd64", "darwin/arm64"}
    assert said["modelFiles"]["darwin/arm64"] == str(out / "digits.mlpackage.zip")
    formats = {(v["format"], v["platform"]) for v in said["variants"] if v["digest"]}
    assert formats == {("ONNX", "linux/amd64"), ("TFLite", "linux/amd64"), ("CoreML", "darwin/arm64")}
    with np.load(digits / "validation.npz") as data:
        x, y = data["x"], data["y"]
    assert (tflite.run(out / "digits.tflite", {"x": x})["y"].argmax(-1) == y).mean() > 0.85
    assert coreml.run(out / "digits.mlpackage.zip", {"x": x[:4]})["y"].shape == (4, 10)
    page = (out / "report.html").read_text()
    assert "Other formats" in page
    assert "not run on Core ML" in page
    # Names are hashed anew in each process: nothing may follow from their order.
    again, _ = compress("ONNX, TFLite, CoreML", "again", seed="7")
    assert again["digest"] == said["digest"]


def test_tflite_alone(compress):
    said, out = compress("TFLite", "alone")
    assert said["modelFiles"] == {"linux/amd64": str(out / "digits.tflite")}
    assert not list(out.glob("*.onnx"))
    assert {v["format"] for v in said["variants"]} == {"TFLite"}


def test_where_no_onnx_file_is_fast_enough_here_the_others_are_laid_out(compress):
    """As they are where no ONNX is wanted: only ONNX files are timed on this machine. It is said, and nothing too slow lies there."""
    said, out = compress("ONNX, TFLite", "slow", budget="maxLatency: 0.001ms")
    assert said["ready"]
    assert said["reason"].startswith(
        "no ONNX file: none of 1 candidate keeps the budget on this machine; the nearest is int8"
    )
    assert said["reason"] in said["stderr"]
    assert said["formatFiles"] == {"linux/amd64": {"TFLite": str(out / "digits.tflite")}}
    assert not list(out.glob("*.onnx"))
    refused = [v for v in said["variants"] if v["format"] == "ONNX" and v["name"] != "source"]
    assert refused
    assert not any(v["accepted"] for v in refused)
