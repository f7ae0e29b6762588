"""The artifact: an OCI index per revision, a ModelPack manifest per (platform, variant). Constants and golden cases.

Sources: OCI image spec 1.1, CNCF ModelPack model-spec. Everything inside the index is deterministic; what
was timed lies in the report, a referrer of the index (`subject`), so that two runs give the same digests.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pydantic import Field

from .base import StatusModel
from .edgemodel import Format

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
EMPTY_CONFIG = "application/vnd.oci.empty.v1+json"
MODEL_ARTIFACT_TYPE = "application/vnd.cncf.model.manifest.v1+json"
MODEL_CONFIG = "application/vnd.cncf.model.config.v1+json"
#: A deterministic tar with the model file (and the external data of a large one), compressed with zstd: the entropy
#: coder that makes pruned zeros pay.
WEIGHT_LAYER = "application/vnd.cncf.model.weight.v1.tar+zstd"
#: golden.npz (arrays `input:NAME`, `output:NAME`; first axis = cases) with the Golden JSON in its annotation.
GOLDEN_LAYER = "application/vnd.cncf.model.dataset.v1.raw"
REPORT_ARTIFACT_TYPE = "application/vnd.edgemodel.report.v1+json"
REPORT_LAYER = "application/json"

ANNOTATION_FILEPATH = "org.cncf.model.filepath"
ANNOTATION_VARIANT = "dev.edgemodel.variant"
ANNOTATION_PLATFORM = "dev.edgemodel.platform"
ANNOTATION_CLASSES = "dev.edgemodel.hardware-classes"
ANNOTATION_ENCODING = "dev.edgemodel.encoding"
#: Of a variant that is no ONNX file (`edgemodel.Format`); absent: ONNX.
ANNOTATION_FORMAT = "dev.edgemodel.format"
ANNOTATION_REVISION = "dev.edgemodel.revision"
ANNOTATION_FILE_DIGEST = "dev.edgemodel.file.digest"
ANNOTATION_FILE_SIZE = "dev.edgemodel.file.size"
#: Of a weight layer with a second file, the model's external data: its digest, by which it is also named, and bytes.
ANNOTATION_DATA_DIGEST = "dev.edgemodel.data.digest"
ANNOTATION_DATA_SIZE = "dev.edgemodel.data.size"
ANNOTATION_GOLDEN = "dev.edgemodel.golden"

#: Names inside the artifact.
MODEL_FILE = "model.onnx"
#: By format; a Core ML package is a folder, and here a zip of it.
MODEL_FILES: Mapping[Format, str] = MappingProxyType(
    {Format.ONNX: MODEL_FILE, Format.TFLITE: "model.tflite", Format.COREML: "model.mlpackage.zip"}
)
#: Of external data, behind the 64 hex digits of its sha256: the model names them, so its own digest covers them too.
DATA_SUFFIX = ".data"
GOLDEN_FILE = "golden.npz"
GOLDEN_INPUT_PREFIX = "input:"
GOLDEN_OUTPUT_PREFIX = "output:"
#: Entry of `metadata_props` in the ONNX file of a model with external data: `sha256:HEX SIZE`.
DATA_PROPERTY = "dev.edgemodel.data"


class Golden(StatusModel):
    """How a node judges its answers on the golden cases. One per variant (annotation of its golden layer).

    The error of a case and output is ‖node − source‖₂ / max(‖source‖₂, 1e-3 · r), r the root mean square of ‖source‖₂
    over the cases; the check takes the mean over cases for each output, and the largest of these. Agreement is the share
    of cases with the same arg max over the last axis of the first output, where that output is a float of rank ≥ 2 with
    at least two classes.
    """

    cases: int
    max_error: float = Field(description="Limit for the error: twice what compression measured, at least 1e-3.")
    min_agreement: float | None = Field(None, description="Limit for the agreement; None: not a classifier.")
