"""The `EdgeModel` spec: what a user declares. Status lives in `edgemodel_status`."""

from __future__ import annotations

import re
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, StringConstraints

from . import quantities as q
from .base import ApiModel, ListMap, Rule
from .edgemodel_status import EdgeModelStatus
from .formats import Format as Format  # noqa: PLC0414 - a word of the spec; the status says it too, and comes before
from .meta import DNS_NAME_PATTERN, ObjectMeta

SHA256_PATTERN = r"^[a-f0-9]{64}$"
URI_PATTERN = r"^(https|oci|oci-layout|s3|pvc|file):.+$"
LABEL_PATTERN = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
CRON_PATTERN = r"^[^ ]+( +[^ ]+){4}$"
#: N of M, where M is a power of two up to 16: longer rows are as good as no pattern.
NM_PATTERN = r"^(1:2|[1-3]:4|[1-7]:8|([1-9]|1[0-5]):16)$"
TIME_ZONE_PATTERN = r"^[A-Za-z0-9_+/-]+$"

Sha256 = Annotated[
    str,
    StringConstraints(pattern=SHA256_PATTERN, max_length=128),
    Field(description="Of the file, 64 hex digits as `sha256sum FILE` prints them. Required for https, oci and s3."),
]
DataSha256 = Annotated[
    str,
    StringConstraints(pattern=SHA256_PATTERN, max_length=128),
    Field(
        description="Of the model's external data (file, pvc and oci only): of one file, what `sha256sum FILE` prints; of"
        " several, the sha256 of the lines that `sha256sum` prints for them in the order of their names. Required where"
        " `sha256` is given and the model has external data, unless an oci URI names a digest."
    ),
]
Uri = Annotated[
    str,
    StringConstraints(pattern=URI_PATTERN, max_length=2048),
    Field(description="Where the file lies: https:, oci:, s3: or pvc:; file: on a single machine only."),
]
Name = Annotated[str, StringConstraints(min_length=1, max_length=253)]
#: ONNX node names of exported models are whole paths.
NodeName = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
LabelValue = Annotated[str, StringConstraints(pattern=LABEL_PATTERN, max_length=63)]
CronSchedule = Annotated[str, StringConstraints(pattern=CRON_PATTERN, max_length=253)]
TimeZone = Annotated[str, StringConstraints(pattern=TIME_ZONE_PATTERN, max_length=64)]
REMOTE_SCHEMES = ("https:", "oci:", "s3:")
SecretName = Annotated[str, StringConstraints(pattern=DNS_NAME_PATTERN, min_length=1, max_length=253)]
# Patterns of whole URIs, for RE2 (CEL) and Python alike: so no backslash, which each text that they stand in would double.
_HTTPS_PATTERN = "https://[^/?#]+/.+"
_S3_PATTERN = "s3://[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9](/[^/]+)+"
_PVC_PATTERN = "pvc://" + DNS_NAME_PATTERN.strip("^$").replace("\\.", "[.]") + "(/[^/]+)+"
_DOTS_PATTERN = ".*/[.][.]?(/.*)?"
_PASSWORD_PATTERN = "(https|oci|s3)://[^/?#]*@.*"  # noqa: S105  a pattern
_SHA256_REQUIRED = "sha256 is required for https, oci and s3 URIs: add the hex digest of the file (sha256sum FILE)"


class Metric(StrEnum):
    """How quality is judged against labels."""

    TOP1 = "Top1"
    TOPK = "TopK"
    MEAN_SQUARED_ERROR = "MeanSquaredError"
    F1 = "F1"
    COSINE = "Cosine"


class Objective(StrEnum):
    """What is best among the candidates that keep the budget."""

    SMALLEST = "Smallest"
    FASTEST = "Fastest"


class SecretRef(ApiModel):
    """The name of a Secret in the same namespace. Its keys by scheme: docs/sources.md."""

    name: SecretName = Field(description="The Secret's name.")


def _uri_rule(scheme: str, pattern: str, message: str, *, dots: bool = True) -> Rule:
    """URIs of a scheme have this form, and (without `dots`) no segment `.` or `..`."""
    cel = f"!self.uri.startsWith('{scheme}:') || self.uri.matches('^{pattern}$')"
    if not dots:
        cel = f"{cel} && !self.uri.matches('^{_DOTS_PATTERN}$')"

    def holds(remote: RemoteFile) -> bool:
        uri = remote.uri
        if not uri.startswith(f"{scheme}:"):
            return True
        return re.fullmatch(pattern, uri) is not None and (dots or re.fullmatch(_DOTS_PATTERN, uri) is None)

    return Rule(cel, message, holds)


class RemoteFile(ApiModel):
    """A file by URI. Remote ones carry their sha256, so that the same manifest always means the same bytes."""

    uri: Uri
    sha256: Sha256 | None = None
    credentials_secret_ref: SecretRef | None = None

    @property
    def shown(self) -> str:
        """The URI for messages: an https query may hold a secret (a signature, a token)."""
        return re.split("[?#]", self.uri)[0] if self.uri.startswith("https:") else self.uri

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            f"!self.uri.matches('^{_PASSWORD_PATTERN}$')",
            "a URI must hold no user name or password: put them into a Secret and name it in credentialsSecretRef",
            lambda s: re.fullmatch(_PASSWORD_PATTERN, s.uri) is None,
        ),
        _uri_rule("https", _HTTPS_PATTERN, "an https URI is written https://HOST/PATH"),
        _uri_rule(
            "s3",
            _S3_PATTERN,
            "an s3 URI is written s3://BUCKET/KEY and names one object; the key has no empty part, '.' or '..'",
            dots=False,
        ),
        _uri_rule(
            "pvc",
            _PVC_PATTERN,
            "a pvc URI is written pvc://CLAIM/PATH: the claim's name in lower case, then the file in it; no '.' or '..'",
            dots=False,
        ),
        Rule(
            "!['https:', 'oci:', 's3:'].exists(p, self.uri.startsWith(p)) || has(self.sha256)",
            _SHA256_REQUIRED,
            lambda s: not s.uri.startswith(REMOTE_SCHEMES) or s.sha256 is not None,
        ),
    )


class Source(RemoteFile):
    """The trained model: an ONNX file. `sha256` is that file's, which does not cover external data beside it."""

    data_sha256: DataSha256 | None = None

    rules = (
        *RemoteFile.rules,
        Rule(
            "!has(self.dataSha256) || !['https:', 's3:'].exists(p, self.uri.startsWith(p))",
            "dataSha256 is for file, pvc and oci: by https and s3 one file comes, which can have no external data",
            lambda s: s.data_sha256 is None or not s.uri.startswith(("https:", "s3:")),
        ),
    )


class CalibrationData(RemoteFile):
    """`.npz` whose arrays are named as the model's inputs, first axis = samples."""


class ValidationData(RemoteFile):
    """`.npz` with the inputs and, where there are labels, an array of them."""

    labels: Name | None = Field(
        None, description="Name of the label array in the file; absent: agreement with the source is measured."
    )
    metric: Metric = Metric.TOP1
    k: int = Field(5, ge=1, le=1000, description="For TopK.")
    output: Name | None = Field(None, description="Name of the model output that is judged; absent: the first.")


class TrainingData(RemoteFile):
    """`.npz` that distillation and recovery learn from: the inputs and, where there are labels, an array of them."""

    labels: Name | None = Field(
        None, description="Name of the label array in the file; absent: the teacher's answers alone are learned."
    )


class Data(ApiModel):
    """Data that compression may use."""

    training: TrainingData | None = Field(
        None, description="What distill and recover learn from; absent: data.calibration, without labels."
    )
    calibration: CalibrationData | None = None
    validation: ValidationData | None = None


class Budget(ApiModel):
    """Limits that no accepted variant may break. Quality drop is relative to the source's quality."""

    max_quality_drop: q.Percent = Field(
        "1%", description="How much worse the quality may be, relative to the source's, such as 0.5%."
    )
    max_size: q.Quantity | None = Field(None, description="Stored (downloaded) bytes of the model layer.")
    max_latency: q.Duration | None = Field(None, description="Median latency of one inference.")
    max_memory: q.Quantity | None = Field(None, description="Peak resident memory of a process that serves the model.")
    max_slowdown: q.Slowdown = Field("0%", description="Median latency over the source's, on the same CPU.")


class PruneMethod(StrEnum):
    """Which weights go first."""

    MIN_ABSOLUTE = "MinAbsolute"
    MAX_RELATIVE = "MaxRelative"


class Granularity(StrEnum):
    """The set of weights within which the sparsity target holds."""

    TENSOR = "Tensor"
    GLOBAL = "Global"
    CHANNEL = "Channel"


class Exclude(ApiModel):
    """Nodes that a step leaves alone."""

    ops: Annotated[tuple[Name, ...], Field(max_length=64, description="Op types, such as Conv.")] = ()
    nodes: Annotated[tuple[NodeName, ...], Field(max_length=1024, description="Names of the graph's nodes.")] = ()


class Structure(StrEnum):
    """Weights: single numbers become zero. Channels: whole output channels go, and the graph gets smaller and faster."""

    WEIGHTS = "Weights"
    CHANNELS = "Channels"


class Schedule(StrEnum):
    """OneShot: prune, then learn. Gradual: sparsity grows while it learns (Zhu and Gupta 2017)."""

    ONE_SHOT = "OneShot"
    GRADUAL = "Gradual"


class Recover(ApiModel):
    """Learn again after pruning, with the source as the teacher; what was pruned stays so."""

    epochs: int = Field(3, ge=1, le=1000, description="Passes over the training data.")
    learning_rate: q.DecimalString = Field("0.0005", description="Of Adam; a decimal number in quotes.")
    batch_size: int = Field(64, ge=1, le=65536, description="Samples of one step.")
    schedule: Schedule = Schedule.ONE_SHOT


class PruneStep(ApiModel):
    """Set weights to zero, or take whole channels out."""

    method: PruneMethod = PruneMethod.MIN_ABSOLUTE
    sparsity: q.Percent | None = Field(
        None, description="Share of the weights that become zero, or of the channels that go, such as 60%."
    )
    granularity: Granularity = Granularity.TENSOR
    structure: Structure = Structure.WEIGHTS
    pattern: Annotated[str, StringConstraints(pattern=NM_PATTERN, max_length=5)] | None = Field(
        None, description="N:M instead of sparsity: of each M weights along the input, N may stay, such as 2:4."
    )
    exclude: Exclude = Exclude()
    recover: Recover | None = None
    rules = (
        Rule(
            "has(self.sparsity) != has(self.pattern)",
            "prune takes either sparsity or pattern",
            lambda s: (s.sparsity is None) != (s.pattern is None),
        ),
        Rule(
            "self.structure == 'Weights' || !has(self.pattern) && self.granularity != 'Channel'",
            "structure: Channels goes with sparsity and granularity Tensor or Global",
            lambda s: (
                s.structure is Structure.WEIGHTS or (s.pattern is None and s.granularity is not Granularity.CHANNEL)
            ),
        ),
    )


class Scope(StrEnum):
    """Global: every float that has an integer kernel. Local: part of them."""

    GLOBAL = "Global"
    LOCAL = "Local"


class Precision(StrEnum):
    """Stored type of the quantized numbers."""

    INT8 = "Int8"
    INT4 = "Int4"
    FLOAT16 = "Float16"


class Activations(StrEnum):
    """Static: ranges from calibration. Dynamic: ranges at run time. None: weights only."""

    STATIC = "Static"
    DYNAMIC = "Dynamic"
    NONE = "None"


class Include(ApiModel):
    """Nodes that a Local step works on; empty means that measured sensitivity chooses."""

    ops: Annotated[tuple[Name, ...], Field(max_length=64, description="Op types, such as Conv.")] = ()
    nodes: Annotated[tuple[NodeName, ...], Field(max_length=1024, description="Names of the graph's nodes.")] = ()


class QuantizeStep(ApiModel):
    """Store (and compute) floats as small numbers."""

    scope: Scope = Scope.GLOBAL
    precision: Precision = Precision.INT8
    activations: Activations = Activations.STATIC
    include: Include = Include()
    exclude: Exclude = Exclude()
    rules = (
        Rule(
            "self.scope == 'Local' || !(has(self.include) && (has(self.include.ops) && size(self.include.ops) > 0"
            " || has(self.include.nodes) && size(self.include.nodes) > 0))",
            "include goes with scope: Local; with scope: Global use exclude",
            lambda s: s.scope is Scope.LOCAL or not (s.include.ops or s.include.nodes),
        ),
        Rule(
            "self.precision == 'Int8' || self.activations != 'Dynamic'",
            "activations: Dynamic needs precision: Int8",
            lambda s: s.precision is Precision.INT8 or s.activations is not Activations.DYNAMIC,
        ),
    )


class DistillMethod(StrEnum):
    """Knowledge: soft targets. Parameter: the teacher's weights are transferred."""

    KNOWLEDGE = "Knowledge"
    PARAMETER = "Parameter"


class Student(ApiModel):
    """The smaller network: a file, or derived from the teacher."""

    @property
    def file(self) -> RemoteFile | None:
        """The file, not yet checked as others of its kind are; None: it is derived."""
        return None if self.uri is None else RemoteFile.model_construct(uri=self.uri, sha256=self.sha256)

    uri: Uri | None = None
    sha256: Sha256 | None = None
    width: q.PositivePercent | None = Field(None, description="Share of the teacher's channels, such as 50%.")
    depth: q.PositivePercent | None = Field(
        None, description="Share of the teacher's repeated blocks (residual, transformer), such as 50%."
    )
    rank: q.PositivePercent | None = Field(
        None, description="Share of the full rank that matrices and convolutions keep as two smaller ones, such as 25%."
    )
    rules = (
        Rule(
            "has(self.uri) != (has(self.width) || has(self.depth) || has(self.rank))",
            "student takes either uri, or some of width, depth and rank",
            lambda s: (s.uri is None) != (s.width is None and s.depth is None and s.rank is None),
        ),
        Rule(
            "!has(self.uri) || !['https:', 'oci:', 's3:'].exists(p, self.uri.startsWith(p)) || has(self.sha256)",
            _SHA256_REQUIRED,
            lambda s: s.uri is None or not s.uri.startswith(REMOTE_SCHEMES) or s.sha256 is not None,
        ),
    )


class DistillStep(ApiModel):
    """Train a student on the teacher."""

    method: DistillMethod = DistillMethod.KNOWLEDGE
    temperature: q.DecimalString = Field("4", description="Softens the teacher's answers; a decimal number in quotes.")
    alpha: q.Percent = Field(
        "90%", description="Share of the teacher's answers in the loss; the rest is the labels', where there are some."
    )
    epochs: int = Field(10, ge=1, le=1000, description="Passes over the training data.")
    learning_rate: q.DecimalString = Field("0.001", description="Of Adam; a decimal number in quotes.")
    batch_size: int = Field(64, ge=1, le=65536, description="Samples of one step.")
    student: Student


class Step(ApiModel):
    """One compression step: exactly one of its fields is set."""

    distill: DistillStep | None = None
    prune: PruneStep | None = None
    quantize: QuantizeStep | None = None
    rules = (
        Rule(
            "[has(self.distill), has(self.prune), has(self.quantize)].filter(x, x).size() == 1",
            "each step has exactly one of distill, prune, quantize",
            lambda s: sum(x is not None for x in (s.distill, s.prune, s.quantize)) == 1,
        ),
    )


class Search(ApiModel):
    """Limits of the search; the best so far is taken when one is reached."""

    timeout: q.Duration | None = Field(
        None, description="Of measuring candidates, such as 30m; with it two runs may find different artifacts."
    )
    max_candidates: int = Field(48, ge=1, le=1000, description="How many different candidates are measured at most.")


class Compression(ApiModel):
    """What may be done to the model, and within which limits."""

    objective: Objective = Objective.SMALLEST
    budget: Budget = Budget()
    search: Search = Search()
    steps: Annotated[tuple[Step, ...], Field(max_length=16)] | None = Field(
        None, description="Applied in order; absent: searched for, within the budget."
    )


class LabelSelectorRequirement(ApiModel):
    """As in core/v1."""

    key: Name = Field(description="The label's key.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(description="How `values` are meant.")
    values: Annotated[tuple[LabelValue, ...], Field(max_length=256, description="For In and NotIn.")] = ()
    rules = (
        Rule(
            "(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
            "In and NotIn need values; Exists and DoesNotExist take none",
            lambda s: (s.operator in ("In", "NotIn")) == bool(s.values),
        ),
    )


class LabelSelector(ApiModel):
    """As in core/v1; empty selects every node that runs the agent."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-map-type": "atomic"})

    match_labels: Annotated[dict[str, LabelValue], Field(max_length=64)] = Field(
        default_factory=dict, description="Labels of the Node (or EdgeNode) that must all be so."
    )
    match_expressions: Annotated[
        tuple[LabelSelectorRequirement, ...], Field(max_length=64, description="Requirements that must all hold.")
    ] = ()

    def matches(self, labels: dict[str, str]) -> bool:
        """Whether an object with these labels is selected."""
        for key, value in self.match_labels.items():
            if labels.get(key) != value:
                return False
        for r in self.match_expressions:
            present = r.key in labels
            if r.operator == "Exists" and not present:
                return False
            if r.operator == "DoesNotExist" and present:
                return False
            if r.operator == "In" and (not present or labels[r.key] not in r.values):
                return False
            if r.operator == "NotIn" and present and labels[r.key] in r.values:
                return False
        return True


class NodePool(ApiModel):
    """The nodes that get the model."""

    selector: LabelSelector = LabelSelector()


class Wave(ApiModel):
    """A cumulative share of the pool, and how long it must stay good before the next wave."""

    nodes: Annotated[int, Field(ge=1, le=100_000)] | q.PositivePercent = Field(
        description="Nodes that have the revision after this wave, those of earlier waves included: 3, or 25% of the pool."
    )
    soak: q.Duration = Field("0s", description="How long the wave must stay good before the next one begins.")


class Window(ApiModel):
    """When nodes may switch."""

    schedule: CronSchedule = Field(description="When it opens: minute, hour, day of month, month, day of week.")
    duration: q.Duration = Field(description="How long it stays open, such as 3h.")
    time_zone: TimeZone = Field("UTC", description="Of the schedule, such as Europe/Berlin.")


class Analysis(ApiModel):
    """A Prometheus query that must hold during the waves and while the revision is held after the last (docs/analysis.md)."""

    name: Name = Field(description="For messages.")
    query: Annotated[str, StringConstraints(min_length=1, max_length=4096)] = Field(
        description="PromQL, with {{namespace}}, {{name}} and {{revision}} of the EdgeModel filled in; its result is `value`."
    )
    success_condition: Annotated[str, StringConstraints(min_length=1, max_length=1024)] = Field(
        description="What must hold of `value` (CEL; several series: `values`), such as `value < 0.01`."
    )
    interval: q.Duration = Field("30s", description="How often it is asked; at least 1s.")
    failure_limit: int = Field(
        0, ge=0, le=1000, description="How many failures a wave puts up with; one more rolls back."
    )
    rules = (
        Rule(
            "duration(self.interval) >= duration('1s')",
            "interval is too short: give at least 1s",
            lambda s: q.parse_duration(s.interval) >= timedelta(seconds=1),
        ),
    )


class Approval(StrEnum):
    """Automatic: waves follow by themselves. Manual: each waits for a person."""

    AUTOMATIC = "Automatic"
    MANUAL = "Manual"


class Rollout(ApiModel):
    """How a revision walks across the pool."""

    waves: Annotated[tuple[Wave, ...], Field(min_length=1, max_length=32)] = Field(
        (Wave(nodes=1, soak="30s"), Wave(nodes="25%", soak="30s"), Wave(nodes="100%")),
        description="One after another; each may begin when the one before it is complete, good, and has soaked.",
    )
    max_unavailable: Annotated[int, Field(ge=1, le=100_000)] | q.PositivePercent = Field(
        "10%", description="Nodes that may be without a serving model at once, because of us. At least one is allowed."
    )
    max_failures: Annotated[int, Field(ge=0, le=100_000)] | q.Percent = Field(
        "5%", description="Nodes that may fail; one more, and the revision is rolled back on all of them."
    )
    approval: Approval = Approval.AUTOMATIC
    windows: Annotated[
        tuple[Window, ...],
        Field(max_length=16, description="Nodes switch only while one is open; absent: at any time."),
    ] = ()
    analysis: Annotated[
        tuple[Analysis, ...],
        Field(max_length=16, description="Prometheus queries that must hold, or the revision is rolled back."),
        ListMap(("name",)),
    ] = ()


class Golden(ApiModel):
    """How far a node's answers may be from the source's, on the golden cases."""

    tolerance: q.Percent | None = Field(
        None, description="Relative error (L2 norm); absent: derived from what was measured at compression."
    )


class HealthCheck(ApiModel):
    """What a node must pass before it switches."""

    golden: Golden = Golden()
    max_latency_p99: q.Duration | None = Field(
        None, alias="maxLatencyP99", description="99th percentile of one inference's time on the node."
    )
    max_memory: q.Quantity | None = Field(None, description="Peak resident memory of the model's server on the node.")
    timeout: q.Duration = Field("60s", description="Time for all checks of a node together.")


class ServingMode(StrEnum):
    """Server: a process answers over HTTP. Files: the model is only laid down on disk."""

    SERVER = "Server"
    FILES = "Files"


class Serving(ApiModel):
    """How nodes offer the model to applications."""

    mode: ServingMode = ServingMode.SERVER
    port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        None, description="Absent: the agent picks a free one and keeps it."
    )


class DeletionPolicy(StrEnum):
    """What becomes of the artifacts in the registry when the EdgeModel is deleted. From its nodes it goes in any case."""

    RETAIN = "Retain"
    DELETE = "Delete"


class EdgeModelSpec(ApiModel):
    """What the user wants."""

    source: Source
    data: Data = Data()
    compression: Compression = Compression()
    formats: Annotated[
        tuple[Format, ...], Field(min_length=1, max_length=3, description="File formats to build."), ListMap()
    ] = (Format.ONNX,)
    node_pool: NodePool = NodePool()
    rollout: Rollout = Rollout()
    health_check: HealthCheck = HealthCheck()
    serving: Serving = Serving()
    deletion_policy: DeletionPolicy = DeletionPolicy.RETAIN


class EdgeModel(ApiModel):
    """A model, how it may be compressed, and the nodes that get it."""

    api_version: Literal["edgemodel.dev/v1alpha1"]
    kind: Literal["EdgeModel"]
    metadata: ObjectMeta
    spec: EdgeModelSpec
    status: EdgeModelStatus = EdgeModelStatus()

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.metadata.namespace}/{self.metadata.name}"
