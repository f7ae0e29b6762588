"""The compression Jobs of the EdgeModels: what they came to, started, replaced, ended."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from edgemodel_api.edgemodel import EdgeModel
from edgemodel_api.edgemodel_status import EdgeModelStatus
from edgemodel_api.errors import InputError
from edgemodel_api.job import JobResult, JobSpec, Outcome
from edgemodel_operator.domain.observed import JobState, JobView
from edgemodel_operator.settings import JobSettings

from . import objects
from .cache import Cache
from .client import Body, Cluster, ConflictError, ForbiddenError, RejectedError
from .job_manifest import job_name, label_value, manifest
from .job_view import is_finished, is_starting, job_view

#: A pod that does not run after this time is asked why, and again and again.
STARTING = timedelta(seconds=15)
NOT_STARTED = "NotStarted"
#: More than the time that a compression pod has to end in.
LONGEST_END = timedelta(seconds=60)


class Jobs:
    """One Job for each revision of an EdgeModel, by its name."""

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        settings: JobSettings,
        clock: Callable[[], datetime],
    ) -> None:
        self.cluster = cluster
        self.cache = cache
        self.settings = settings
        self.clock = clock
        #: Views of ended Jobs by uid: they do not change any more.
        self._ended: dict[str, JobView] = {}
        #: By key: a Job that the API server would not take (a quota, a policy).
        self._not_started: dict[str, JobView] = {}

    def forget(self, job: Body) -> None:
        """It was deleted."""
        self._ended.pop(job["metadata"]["uid"], None)

    def forget_model(self, key: str) -> None:
        """Its EdgeModel was."""
        self._not_started.pop(key, None)

    def _job(self, model: EdgeModel, revision: str) -> Body | None:
        """The Job of a revision, if it is this EdgeModel's (not that of a deleted one with the same name)."""
        job = self.cache.jobs.get(objects.key_of(model.metadata.namespace, job_name(model.metadata.name, revision)))
        return job if job is not None and _owned(job, model) else None

    def view(self, model: EdgeModel, revision: str) -> JobView | None:
        """What the plan shall know of it; None: there is none."""
        job = self._job(model, revision) if revision else None
        if job is None:
            failed = self._not_started.get(model.key)
            return failed if failed is not None and failed.revision == revision else None
        uid = job["metadata"]["uid"]
        if not is_finished(job):
            created = datetime.fromisoformat(job["metadata"]["creationTimestamp"])
            late = is_starting(job) and self.clock() - created >= STARTING
            return job_view(job, self._pods(job) if late else ())
        if uid not in self._ended:
            self._ended[uid] = job_view(job, self._pods(job))
        return self._ended[uid]

    def _pods(self, job: Body) -> list[Body]:
        meta = job["metadata"]
        selector = f"batch.kubernetes.io/controller-uid={meta['uid']}"
        return self.cluster.listed(objects.pods(meta["namespace"]), selector=selector)[0]

    def start(self, model: EdgeModel, job: JobSpec) -> None:
        """Start it. One that ended is replaced; one that runs is left alone, whoever started it.

        What the API server will not take is the Job's failure: the plan tells it, and tries again when it is time to.
        """
        self._not_started.pop(model.key, None)
        old = self._job(model, job.revision)
        if old is not None:
            if not is_finished(old):
                return
            self._end(old)
        try:
            self._create(model, manifest(model, job, self.settings))
        except (ForbiddenError, RejectedError, InputError) as error:
            result = JobResult(outcome=Outcome.FAILED, reason=NOT_STARTED, message=error.message)
            self._not_started[model.key] = JobView(job.revision, JobState.FINISHED, result)

    def _create(self, model: EdgeModel, body: Body) -> None:
        path = objects.jobs(model.metadata.namespace)
        try:
            self._saw(self.cluster.create(path, body))
        except ConflictError:
            found = self.cluster.get(f"{path}/{body['metadata']['name']}")
            if not _owned(found, model) or found["metadata"].get("deletionTimestamp"):
                raise
            self._saw(found)

    def look_again(self, model: EdgeModel, status: EdgeModelStatus) -> datetime | None:
        """When to look although no watch says anything: at a pod that does not start, at a Job that was not taken."""
        job = self._job(model, status.revision)
        if job is not None:
            return self.clock() + STARTING if is_starting(job) else None
        untold = status.job is not None and status.job.failed_at is None
        return self.clock() if untold and model.key in self._not_started else None

    def end_superseded(self, model: EdgeModel, revision: str) -> None:
        """Jobs of other revisions that still run work for nobody."""
        for job in self.cache.jobs.all().values():
            other = job["metadata"].get("labels", {}).get(objects.LABEL_REVISION) != revision
            if other and _owned(job, model) and not is_finished(job):
                self._end(job)

    def is_over(self, model: EdgeModel) -> bool:
        """End all Jobs of an EdgeModel that is being deleted; whether none of their pods can push any more.

        A pod that does not end (its node is away) is waited for no longer than this.
        """
        self.end_superseded(model, "")
        since = model.metadata.deletion_timestamp
        if since is not None and self.clock() - since > LONGEST_END:
            return True
        meta = model.metadata
        selector = f"{objects.JOBS_SELECTOR},{objects.LABEL_MODEL}={label_value(meta.name)}"
        pods = self.cluster.listed(objects.pods(meta.namespace), selector=selector)[0]
        return not any(pod.get("status", {}).get("phase") == "Running" for pod in pods)

    def _end(self, job: Body) -> None:
        meta = job["metadata"]
        key = objects.key_of(meta["namespace"], meta["name"])
        self._ended.pop(meta["uid"], None)
        self.cluster.delete(f"{objects.jobs(meta['namespace'])}/{meta['name']}", uid=meta["uid"])
        self.cache.jobs.drop(key)

    def _saw(self, body: Body) -> None:
        meta = body["metadata"]
        self.cache.jobs.put(objects.key_of(meta["namespace"], meta["name"]), objects.version_of(body), body)


def _owned(job: Body, model: EdgeModel) -> bool:
    owners = job["metadata"].get("ownerReferences") or ()
    return any(o.get("uid") == model.metadata.uid for o in owners)


def owner_of(job: Body) -> str | None:
    """The key of the EdgeModel that a Job belongs to."""
    owners = job["metadata"].get("ownerReferences") or ()
    name = next((o["name"] for o in owners if o.get("kind") == "EdgeModel"), None)
    return objects.key_of(job["metadata"]["namespace"], name) if name is not None else None
