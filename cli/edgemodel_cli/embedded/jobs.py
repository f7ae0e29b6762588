"""The Jobs of a workdir: the one that runs, and what the folders of earlier ones say."""

from __future__ import annotations

from edgemodel_api.edgemodel import EdgeModel
from edgemodel_api.edgemodel_status import EdgeModelStatus
from edgemodel_api.job import JobResult, JobSpec, Outcome
from edgemodel_cli.progress import Reporter
from edgemodel_operator.domain.observed import JobState, JobView

from .job_process import JobProcess
from .objects import ObjectStore
from .workdir import Workdir


class Jobs:
    """At most one Job runs: that of the wanted revision.

    Attributes:
        started: whether this command started one (False: the revision was built before).
    """

    def __init__(self, workdir: Workdir, reporter: Reporter) -> None:
        self.workdir = workdir
        self.reporter = reporter
        self.started = False
        self._current: JobProcess | None = None

    def folder(self, revision: str) -> JobProcess:
        """The Job of a revision, whether it ever ran or not."""
        return JobProcess(self.workdir.job(revision))

    def running(self) -> bool:
        """Whether a Job of this command runs."""
        if self._current is not None and not self._current.running():
            self._current = None
            self.reporter.job_ended()
        return self._current is not None

    def view(self, revision: str) -> JobView | None:
        """The Job of the wanted revision, as its folder and process tell."""
        if not revision:
            return None
        if self.running():
            return JobView(revision=revision, state=JobState.RUNNING, result=None)
        found = self.folder(revision)
        result = found.result()
        if result is not None:
            return JobView(revision=revision, state=JobState.FINISHED, result=result)
        return JobView(revision=revision, state=JobState.LOST, result=None) if found.begun() else None

    def result(self, revision: str) -> JobResult | None:
        """What the Job of a revision found."""
        return self.folder(revision).result() if revision else None

    def start(self, job: JobSpec) -> None:
        """Start it; one that runs for the same revision is left alone, one of another is ended.

        Raises:
            TransientError: the process cannot be started.
        """
        folder = self.workdir.job(job.revision)
        if self.running() and self._current is not None and self._current.folder == folder:
            return
        self.stop()
        self.started = True
        self._current = JobProcess(folder, self.reporter.job)
        self._current.begin(job)

    def stop(self, patience: float | None = None) -> None:
        """End the one that runs."""
        if self._current is not None:
            if patience is None:
                self._current.stop()
            else:
                self._current.stop(patience)
            self._current = None
            self.reporter.job_ended()

    def forget_failures(self, store: ObjectStore, model: EdgeModel, *, retry: bool) -> bool:
        """A new command is a new try for what failed; a refusal or a rollback stands until `retry`.

        Returns:
            Whether the plan must be asked for another try.
        """
        for path in self.workdir.jobs.glob("*/"):
            job = JobProcess(path)
            job.end_leftover()
            result = job.result()
            current = path.name == model.status.revision
            failed = result is None or result.outcome in (Outcome.FAILED, Outcome.INVALID)
            if result is not None and result.digest is not None and not self._stored(result.digest):
                job.forget()
                if current:
                    # Somebody removed the registry: what was said of its artifact holds no longer.
                    store.write_model_status(model, EdgeModelStatus())
            elif failed or (retry and result is not None and result.outcome is Outcome.REFUSED):
                job.forget()
                retry = retry or (failed and current)
        return retry

    def _stored(self, digest: str) -> bool:
        algorithm, _, value = digest.partition(":")
        return (self.workdir.registry / "blobs" / algorithm / value).is_file()
