"""Real models of every datatype through the service, rehearsed faults, limits."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgemodel_agent import runtimes
from edgemodel_agent.faults import Rehearsal
from edgemodel_agent.runtimes.base import DATATYPES, TensorSpec
from edgemodel_agent.server import misbehave
from edgemodel_agent.server.metrics import ServerMetrics
from edgemodel_agent.server.misbehave import Misbehaviour, spoilt
from edgemodel_agent.server.service import DEFAULT_REQUEST_BYTES, Service, request_limit
from edgemodel_api.errors import InputError

ONNX_TYPES = {
    "BOOL": TensorProto.BOOL, "UINT8": TensorProto.UINT8, "UINT16": TensorProto.UINT16, "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64, "INT8": TensorProto.INT8, "INT16": TensorProto.INT16, "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64, "FP16": TensorProto.FLOAT16, "FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}  # fmt: skip
SAMPLES = {"BOOL": [True, False], "BYTES": ["é", ""]}


def save(path, nodes, inputs, outputs):
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture
def identity(tmp_path):
    def build(onnx_type: int, shape=("n",)):
        x, y = (helper.make_tensor_value_info(n, onnx_type, shape) for n in "xy")
        return save(tmp_path / "m.onnx", [helper.make_node("Identity", ["x"], ["y"])], [x], [y])

    return build


def service_of(path, **options) -> Service:
    runtime = runtimes.load(path)
    metrics = ServerMetrics(
        model="m", version="r1", runtime=runtime.platform, runtime_version=runtime.version, file="f"
    )
    return Service(runtime, name="m", version="r1", metrics=metrics, **options)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_goes_through(identity, datatype):
    service = service_of(identity(ONNX_TYPES[datatype]))
    data = SAMPLES.get(datatype, [1, 2])
    tensor = {"name": "x", "shape": [2], "datatype": datatype, "data": data}
    for parameters in ({}, {"binary_data_output": True}):
        body = service.infer(json.dumps({"inputs": [tensor], "parameters": parameters}).encode(), None)
        (output,) = json.loads(body.content[: body.header_length])["outputs"]
        assert (output["datatype"], output["shape"]) == (datatype, [2])
        if not parameters:
            assert output["data"] == data
            continue
        tail = body.content[body.header_length :]
        described = {k: v for k, v in tensor.items() if k != "data"} | {"parameters": {"binary_data_size": len(tail)}}
        head = json.dumps({"inputs": [described]}).encode()
        again = service.infer(head + tail, str(len(head)))
        assert json.loads(again.content)["outputs"][0]["data"] == data
    assert "edgemodel_server_inference_seconds_count" in service.metrics.text().decode()


def test_what_cannot_be_served_is_refused_at_load(tmp_path, identity):
    with pytest.raises(InputError, match=r"input 'x' is a tensor\(bfloat16\), which cannot be served"):
        runtimes.load(identity(TensorProto.BFLOAT16))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    path = save(tmp_path / "s.onnx", [helper.make_node("SequenceConstruct", ["x"], ["y"])], [x], [y])
    with pytest.raises(InputError, match="zipmap"):
        runtimes.load(path)
    with pytest.raises(InputError, match="cannot load it"):
        runtimes.load(tmp_path / "missing")


def test_the_models_own_complaint_is_an_input_error(tmp_path):
    a, b, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n"]) for n in "aby")
    service = service_of(save(tmp_path / "m.onnx", [helper.make_node("Add", ["a", "b"], ["y"])], [a, b], [y]))
    feeds = {"a": np.zeros(2, np.float32), "b": np.zeros(3, np.float32)}
    with pytest.raises(InputError, match="does not accept these inputs"):
        service.run(feeds)


def test_requests_are_counted_in_and_out(identity):
    service = service_of(identity(TensorProto.FLOAT))
    assert [service.enter(2) for _ in range(3)] == [True, True, False]
    service.leave()
    assert service.in_flight == 1
    assert service.enter(2)
    assert 'in_flight_requests{name="m",revision="r1"} 2.0' in service.metrics.text().decode()


def test_the_limit_grows_with_the_models_own_input():
    class Model:
        def __init__(self, *shape):
            self.inputs = (TensorSpec("x", "FP32", shape),)

    assert request_limit(Model(None, 4)) == DEFAULT_REQUEST_BYTES
    assert request_limit(Model(1, 3, 1024, 1024)) > 3 * 2**20 * 20


FAULTY = [(fault, at) for fault in ("WrongOutput", "Slow", "Crash") for at in ("Check", "Serving")]


@pytest.mark.parametrize(("fault", "at"), FAULTY)
def test_faults_at_their_stage_only(identity, monkeypatch, fault, at):
    crashes, slept = [], []
    monkeypatch.setattr(misbehave, "crash", lambda: crashes.append(1))
    monkeypatch.setattr(misbehave.time, "sleep", slept.append)
    bad = Misbehaviour(Rehearsal.parse(json.dumps({"fault": fault, "at": at})))
    service = service_of(identity(TensorProto.FLOAT), misbehaviour=bad)
    feeds = {"x": np.array([1.0, 2.0], np.float32)}
    for serving in (False, True):
        bad.serving = serving
        crashes.clear()
        slept.clear()
        right = service.run(feeds)["y"].tolist() == [1.0, 2.0]
        active = serving == (at == "Serving")
        assert right == (not (active and fault == "WrongOutput"))
        assert bool(slept) == (active and fault == "Slow")
        assert bool(crashes) == (active and fault == "Crash")


@pytest.mark.parametrize("datatype", DATATYPES)
def test_spoilt_is_wrong_in_every_element_and_keeps_the_type(datatype):
    array = np.array([SAMPLES.get(datatype, [0, 3])] * 2, DATATYPES[datatype])
    wrong = spoilt(array)
    assert (wrong.dtype, wrong.shape) == (array.dtype, array.shape)
    assert (wrong != array).all()
