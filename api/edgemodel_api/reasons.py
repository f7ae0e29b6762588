"""Condition types and reasons: constants, so that people can alert on them. CamelCase, never renamed."""

from __future__ import annotations

from functools import cache

# Condition types of EdgeModel.
READY = "Ready"
RECONCILING = "Reconciling"
STALLED = "Stalled"
COMPRESSED = "Compressed"
TRIALED = "Trialed"
ROLLED_OUT = "RolledOut"
ANALYZED = "Analyzed"

# Reasons.
ACCEPTED = "Accepted"
COMPRESSING = "Compressing"
COMPRESSION_SUCCEEDED = "CompressionSucceeded"
COMPRESSION_FAILED = "CompressionFailed"
BUDGET_EXCEEDED = "BudgetExceeded"
INVALID_INPUT = "InvalidInput"
INSUFFICIENT_MEMORY = "InsufficientMemory"
NOT_SUPPORTED = "NotSupported"
NO_NODES = "NoNodes"
NO_PLATFORM = "NoPlatform"
NO_RUNTIME = "NoRuntime"
TRIALING = "Trialing"
TRIAL_SUCCEEDED = "TrialSucceeded"
TRIAL_FAILED = "TrialFailed"
ROLLING_OUT = "RollingOut"
SOAKING = "Soaking"
WAITING_FOR_NODES = "WaitingForNodes"
ROLLED_OUT_TO_QUORUM = "RolledOutToQuorum"
ROLLED_OUT_TO_ALL = "RolledOutToAll"
ROLLING_BACK = "RollingBack"
ROLLED_BACK = "RolledBack"
TOO_MANY_FAILURES = "TooManyFailures"
SUPERSEDED = "Superseded"
ANALYZING = "Analyzing"
ANALYSIS_SUCCEEDED = "AnalysisSucceeded"
ANALYSIS_FAILED = "AnalysisFailed"
ANALYSIS_INCONCLUSIVE = "AnalysisInconclusive"
WAITING_FOR_APPROVAL = "WaitingForApproval"
WAITING_FOR_WINDOW = "WaitingForWindow"
WAITING_FOR_RETRY = "WaitingForRetry"
WAVE_STARTED = "WaveStarted"
NODE_FAILED = "NodeFailed"
NODE_OFFLINE = "NodeOffline"
RETRYING = "Retrying"
TERMINATING = "Terminating"
ARTIFACTS_DELETED = "ArtifactsDeleted"
ARTIFACTS_LEFT = "ArtifactsLeft"

# Why a node refused or lost a revision (EdgeNode.status.models[].reason).
DOWNLOAD_FAILED = "DownloadFailed"
DIGEST_MISMATCH = "DigestMismatch"
DISK_FULL = "DiskFull"
GOLDEN_MISMATCH = "GoldenMismatch"
TOO_SLOW = "TooSlow"
TOO_MUCH_MEMORY = "TooMuchMemory"
SERVER_CRASHED = "ServerCrashed"
CHECK_TIMED_OUT = "CheckTimedOut"
LOAD_FAILED = "LoadFailed"
PORT_UNAVAILABLE = "PortUnavailable"
PASSED = "Passed"
SERVING = "Serving"


def bounded(reason: str, *more: str) -> str:
    """A reason as a label of a series: what is neither a constant of this page nor in `more` could be anything."""
    return reason if reason in more or reason in _known() else "Other"


@cache
def _known() -> frozenset[str]:
    return frozenset(value for name, value in globals().items() if name.isupper())
