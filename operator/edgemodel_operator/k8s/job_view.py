"""A batch/v1 Job and its pod as the plan's `JobView`. Pure.

A refusal or a failure that the compressor told of comes from its termination message. What it could not tell of is
named here: memory, a signal, the deadline. Only where nobody knows (a node lost, a pod evicted) is the Job Lost, and
tried again at once.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from edgemodel_api.job import RESULT_LIMIT_BYTES, JobResult, Outcome
from edgemodel_operator.domain.observed import JobState, JobView

from .client import Body
from .job_manifest import CONTAINER
from .objects import LABEL_REVISION

OUT_OF_MEMORY = "OutOfMemory"
OUT_OF_DISK = "OutOfDisk"
CRASHED = "Crashed"
DEADLINE_EXCEEDED = "DeadlineExceeded"
NO_RESULT = "NoResult"
#: What a kubelet says when a pod is evicted for its own use of disk, rather than for the node's need.
_OWN_LIMIT = re.compile(r"exceed(s|ed) (the|its)\b")


def is_finished(job: Body) -> bool:
    """Whether Kubernetes has done with it, one way or the other."""
    return bool(_finish(job))


def job_view(job: Body, pods: Iterable[Body]) -> JobView:
    """The view. `pods` are those of this very Job; while it runs, they may be left out."""
    pods = tuple(pods)
    revision = job["metadata"].get("labels", {}).get(LABEL_REVISION, "")
    finish = _finish(job)
    if not finish:
        return JobView(revision, JobState.RUNNING, note=next(filter(None, map(_note, pods)), ""))
    newest = max(pods, key=lambda p: str(p["metadata"].get("creationTimestamp", "")), default=None)
    result = _result(job, newest)
    if result is None and finish.get("reason") == DEADLINE_EXCEEDED:
        seconds = job["spec"].get("activeDeadlineSeconds", "?")
        result = _failed(
            DEADLINE_EXCEEDED,
            f"the Job was not done after {seconds} s: raise the operator's --job-deadline, give it more --job-cpu, or"
            " list fewer steps",
        )
    if result is None:
        return JobView(revision, JobState.LOST)
    return JobView(revision, JobState.FINISHED, result)


def is_starting(job: Body) -> bool:
    """Whether it was started, but its pod does not run yet."""
    return not is_finished(job) and not job.get("status", {}).get("ready")


def _note(pod: Body) -> str:
    """Why a pod does not start: the same words as long as it is the same cause, or the status would never rest."""
    status = pod.get("status", {})
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            message = str(condition.get("message", "")).partition(". ")[0]
            return f"no node takes its pod: {message or condition.get('reason', '')}"
    for container in status.get("containerStatuses") or ():
        reason = container.get("state", {}).get("waiting", {}).get("reason", "")
        if reason in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"):
            return f"the image {container.get('image', '')} cannot be pulled: see --job-image and --job-pull-secrets"
        if reason == "ContainerCreating" and _waits_for_volumes(status) and (mounted := _mounted(pod)):
            return f"its pod waits for {mounted}: create what is missing, with the keys that it needs"
        if reason.startswith("Create"):
            said = container["state"]["waiting"].get("message", "")
            return f"its container cannot be made: {reason}: {said[:200]}"
    return ""


def _waits_for_volumes(status: Mapping[str, Any]) -> bool:
    """Before its sandbox is there (KEP-3085), a pod that has its node waits for its volumes."""
    conditions = status.get("conditions") or ()
    return any(c.get("type") == "PodReadyToStartContainers" and c.get("status") == "False" for c in conditions)


def _mounted(pod: Body) -> str:
    """The Secrets and claims of a pod; empty: it has none that could be missing. Which of them is only its events say."""
    volumes = pod.get("spec", {}).get("volumes") or ()
    secrets = {v["secret"]["secretName"] for v in volumes if "secret" in v}
    claims = {v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v}
    named = [f"the Secret {name}" for name in sorted(secrets)] + [f"the claim {name}" for name in sorted(claims)]
    return " and ".join(named)


def _finish(job: Body) -> Mapping[str, Any]:
    conditions = job.get("status", {}).get("conditions") or ()
    ended = (c for c in conditions if c.get("type") in ("Complete", "Failed") and c.get("status") == "True")
    return next(ended, {})


def _result(job: Body, pod: Body | None) -> JobResult | None:
    if pod is None:
        return None
    status = pod.get("status", {})
    if status.get("reason") == "Evicted" and _OWN_LIMIT.search(status.get("message") or ""):
        said = status["message"].strip(" .")
        return _failed(
            OUT_OF_DISK,
            f"{said}: raise the operator's --job-disk, or give a smaller model or fewer samples",
        )
    statuses = status.get("containerStatuses") or ()
    ended = next((s.get("state", {}).get("terminated") for s in statuses if s.get("name") == CONTAINER), None)
    if ended is None:
        return None
    told = _told(ended.get("message") or "")
    code = int(ended.get("exitCode", -1))
    # Out of memory, the process had no time to tell; a message that is there anyway may be of an earlier moment.
    if ended.get("reason") == "OOMKilled":
        limit = _limit(job)
        return _failed(
            OUT_OF_MEMORY,
            f"the Job was killed as it needed more than its memory limit{limit}: raise the operator's --job-memory, or"
            " give fewer and smaller samples",
        )
    if told is not None:
        return told
    if _disrupted(status):
        return None
    if code > 128:
        return _failed(
            CRASHED, f"the compressor was ended by {_signal(code - 128)} (exit code {code}) without a result"
        )
    if code > 0:
        return _failed(CRASHED, f"the compressor ended with exit code {code} without a result: see the pod's log")
    return _failed(NO_RESULT, "the compressor ended with exit code 0, but left no result that can be read")


def _disrupted(status: Mapping[str, Any]) -> bool:
    """Whether Kubernetes ended the pod for the node's sake (KEP-3329)."""
    conditions = status.get("conditions") or ()
    return any(c.get("type") == "DisruptionTarget" and c.get("status") == "True" for c in conditions) or (
        status.get("reason") == "Evicted"
    )


def _told(message: str) -> JobResult | None:
    if not message or len(message.encode()) > RESULT_LIMIT_BYTES:
        return None
    try:
        return JobResult.model_validate_json(message)
    except ValidationError:
        return None


def _limit(job: Body) -> str:
    for container in job["spec"]["template"]["spec"]["containers"]:
        memory = container.get("resources", {}).get("limits", {}).get("memory")
        if container.get("name") == CONTAINER and memory:
            return f" of {memory}"
    return ""


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _failed(reason: str, message: str) -> JobResult:
    return JobResult(outcome=Outcome.FAILED, reason=reason, message=message)
