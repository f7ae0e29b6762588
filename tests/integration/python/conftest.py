"""A model and data as Python has them, and what a compression came to."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemodel_api.edgemodel import EdgeModel
from edgemodel_api.formats import Format
from edgemodel_api.hardware import Hardware, HardwareClass
from edgemodel_api.job import JobResult, Outcome, SourceSummary, VariantSummary
from edgemodel_api.report import (
    Candidate,
    CompressionReport,
    Conversion,
    Measurement,
    QualityBasis,
    QualityKind,
    Refusal,
)
from edgemodel_cli.compression import Compression
from edgemodel_cli.embedded.out_folder import ModelFile
from edgemodel_cli.manifest_file import ManifestFile

HOST = Hardware(platform="linux/amd64", hardware_class=HardwareClass.AMD64_AVX2)
SOURCE = Measurement(size_bytes=4000, file_bytes=4100, quality=0.8, latency_median_seconds=0.002)


@pytest.fixture
def make_model() -> Callable[..., onnx.ModelProto]:
    """Names of inputs → their sum times a weight, as `y`."""

    def make(*inputs: str, name: str = "tiny") -> onnx.ModelProto:
        nodes = [helper.make_node("Sum", list(inputs), ["s"]), helper.make_node("MatMul", ["s", "w"], ["y"])]
        graph = helper.make_graph(
            nodes,
            name,
            [helper.make_tensor_value_info(i, TensorProto.FLOAT, ["n", 3]) for i in inputs],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
            [numpy_helper.from_array(np.ones((3, 2), np.float32), "w")],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)

    return make


@pytest.fixture
def make_done(tmp_path) -> Callable[..., Compression]:
    """A compression with three candidates, of which one is good, in a folder; or a refused one."""

    def make(*, accepted: bool = True, report: bool = True) -> Compression:
        good = Candidate(
            name="int8",
            encoding="int8-weights",
            recipe=("prune 60%", "quantize Int8"),
            platforms=("linux/amd64",),
            measurement=SOURCE.replace(size_bytes=1000, quality=0.796, quality_drop=0.005, sparsity=0.6),
            accepted=True,
            chosen=True,
        )
        slow = good.replace(
            name="slow",
            chosen=False,
            measurement=SOURCE.replace(size_bytes=900, slowdown=2.0),
            refusals=(Refusal(gate="maxSlowdown", value=2.0, limit=0.0, message="3.00x as long"),),
        )
        bad = slow.replace(
            name="<b>int4</b>",
            accepted=False,
            measurement=None,
            refusals=(Refusal(gate="maxQualityDrop", value=0.4, limit=0.01, message="quality drops by 40%"),),
        )
        conversion = Conversion(
            format="TFLite", candidate="source", name="tflite-int8", size_bytes=800, accepted=True, quality=0.79
        )
        found = CompressionReport(
            host=HOST,
            quality=QualityBasis(kind=QualityKind.LABELS, metric="Top1", samples=100),
            source=SOURCE,
            candidates=(bad, slow, good),
            conversions=(conversion,),
            warnings=("only 100 samples",),
        )
        variants = [
            VariantSummary(platform="linux/amd64", name=n, digest="sha256:a", size_bytes=1000)
            for n in ("source", "int8")
        ]
        result = JobResult(
            outcome=Outcome.SUCCEEDED if accepted else Outcome.REFUSED,
            reason="CompressionSucceeded" if accepted else "BudgetExceeded",
            message="int8: 4 KB to 1 KB" if accepted else "none of 3 candidates keeps the budget; the nearest is int8",
            source=SourceSummary(size_bytes=4000, quality=0.8),
            variants=tuple(variants),
        )
        document = {
            "apiVersion": "edgemodel.dev/v1alpha1",
            "kind": "EdgeModel",
            "metadata": {"name": "tiny"},
            "spec": {"source": {"uri": "file:tiny.onnx"}},
        }
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        for name in ("tiny.onnx", "tiny.tflite", "tiny-linux-arm64.onnx"):
            (out / name).write_bytes(b"model")
        files = {
            "linux/amd64": ModelFile(
                "tiny.onnx", "int8", Format.ONNX, (ModelFile("tiny.tflite", "tflite-int8", Format.TFLITE),)
            ),
            "linux/arm64": ModelFile("tiny-linux-arm64.onnx", "int8"),
        }
        return Compression(
            manifest=ManifestFile(EdgeModel.model_validate(document), Path(tmp_path), ()),
            platforms=("linux/amd64", "linux/arm64"),
            revision="0123456789ab",
            out=out,
            result=result,
            report=found if report else None,
            files=files if accepted else {},
        )

    return make
