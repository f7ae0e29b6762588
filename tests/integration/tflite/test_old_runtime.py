"""The agent's own runtime on tflite-runtime, which is what nodes of arm/v7 have: the answers are LiteRT's, the words are its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemodel_agent import runtimes
from edgemodel_compressor.formats import tflite

ROOT = Path(__file__).parents[3]
ROWS = (1, 3, 1, 8)
#: Runs in the environment that has tflite-runtime and numpy alone; prints one object.
PROGRAM = """
import concurrent.futures, json, pathlib, sys
import numpy as np
from edgemodel_agent import runtimes
from edgemodel_api.errors import InputError

folder, found = pathlib.Path(sys.argv[1]), {}
feeds = np.load(folder / "feeds.npz")
batches = [{"x": feeds[name]} for name in feeds.files]
for path in sorted(folder.glob("*.tflite")):
    model = runtimes.load(path, threads=2, copies=3)
    np.savez(path.with_suffix(".npz"), *[model.run(batch)["y"] for batch in batches])
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        same = [np.allclose(a["y"], model.run(batches[i % 4])["y"], atol=1e-5) for i, a in enumerate(pool.map(model.run, batches * 5))]
    found[path.stem] = [model.platform, model.version, [vars(s) for s in (*model.inputs, *model.outputs)], all(same)]

def words(call):
    try:
        call()
    except InputError as error:
        return error.message
    return ""

model = runtimes.load(folder / "float32.tflite")
found["wrong"] = words(lambda: model.run({"x": np.zeros((1, 5), np.float32)}))
damaged = folder / "damaged"
damaged.write_bytes(b"\\0" * 4 + b"TFL3")
found["damaged"] = words(lambda: runtimes.load(damaged))
print(json.dumps(found))
"""


def classifier() -> onnx.ModelProto:
    rng = np.random.default_rng(5)
    weights = {"c": (4, 1, 3, 3), "v": (256, 10)}
    nodes = [
        helper.make_node("Conv", ["x", "c"], ["h"], pads=[1, 1, 1, 1], name="h"),
        helper.make_node("Relu", ["h"], ["r"], name="r"),
        helper.make_node("Flatten", ["r"], ["f"], name="f"),
        helper.make_node("MatMul", ["f", "v"], ["m"], name="m"),
        helper.make_node("Softmax", ["m"], ["y"], axis=1, name="y"),
    ]
    tensors = [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32) / 4, n) for n, s in weights.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_agents_runtime_on_tflite_runtime(tmp_path, old_runtime):
    rng = np.random.default_rng(6)
    batches = [rng.standard_normal((rows, 1, 8, 8)).astype(np.float32) for rows in ROWS]
    np.savez(tmp_path / "feeds.npz", *batches)
    calibration = {"x": rng.standard_normal((64, 1, 8, 8)).astype(np.float32)}
    for encoding in tflite.ENCODINGS:
        given = calibration if encoding == tflite.INT8_FULL else None
        tflite.convert(classifier(), tmp_path / f"{encoding}.tflite", encoding=encoding, calibration=given)
    done = subprocess.run(
        [old_runtime.python, "-c", PROGRAM, tmp_path],
        capture_output=True, text=True, check=False, env={"PYTHONPATH": f"{ROOT / 'agent'}:{ROOT / 'api'}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.strip().splitlines()[-1])
    for encoding in tflite.ENCODINGS:
        path = tmp_path / f"{encoding}.tflite"
        ours = runtimes.load(path)
        platform, version, tensors, same = said[encoding]
        assert (platform, version, same) == ("tflite_runtime_tflite", "2.14.0", True)
        assert [(t["name"], t["datatype"], tuple(t["shape"])) for t in tensors] == [
            (s.name, s.datatype, s.shape) for s in (*ours.inputs, *ours.outputs)
        ]
        with np.load(path.with_suffix(".npz")) as theirs:
            for name, batch in zip(theirs.files, batches, strict=True):
                # Dynamic quantization of activations, and integers, are each runtime's own.
                near = 1e-5 if encoding.startswith("float") else 0.05
                np.testing.assert_allclose(theirs[name], ours.run({"x": batch})["y"], atol=near, err_msg=encoding)
    assert "'x' has shape [1, 5], and it takes [-1, 1, 8, 8]" in said["wrong"]
    assert said["damaged"].startswith("tflite-runtime 2.14.0 cannot load it: "), said["damaged"]
