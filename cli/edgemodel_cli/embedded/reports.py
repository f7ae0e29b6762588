"""The compression report of a revision, and the HTML page that is made of it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from edgemodel_agent.files import write_atomic
from edgemodel_api.edgemodel import EdgeModel
from edgemodel_api.edgenode import EdgeNode
from edgemodel_api.errors import EdgeModelError
from edgemodel_api.job import JobResult
from edgemodel_api.report import CompressionReport
from edgemodel_cli import timeline

from .job_process import JobProcess
from .workdir import Workdir

log = logging.getLogger(__name__)


def read_report(workdir: Workdir, revision: str) -> CompressionReport | None:
    """The report that the Job left in its folder, else the one attached to the artifact; None: there is none."""
    if not revision:
        return None
    job = JobProcess(workdir.job(revision))
    with contextlib.suppress(OSError, ValidationError):
        return CompressionReport.model_validate_json(job.report.read_bytes())
    result = job.result()
    return _attached(result) if result is not None else None


def _attached(result: JobResult) -> CompressionReport | None:
    from edgemodel_oci import artifact
    from edgemodel_oci.reference import Reference
    from edgemodel_oci.repository import open_repository

    if result.digest is None or result.reference is None:
        return None
    try:
        content = artifact.read_report(open_repository(Reference.parse(result.reference)), result.digest)
        return CompressionReport.model_validate_json(content) if content is not None else None
    except (EdgeModelError, OSError, ValidationError) as error:
        log.warning("the report of %s cannot be read: %s", result.digest, error)
        return None


def html_report(
    workdir: Workdir, report: CompressionReport | None, model: EdgeModel, nodes: Iterable[EdgeNode]
) -> Path | None:
    """Write report.html; its path, or None if there is nothing to tell. A fault in it spoils no rollout."""
    if report is None:
        return None
    try:
        from edgemodel_cli.html_report import render  # matplotlib takes a second to load

        page = render(report, model, tuple(nodes), timeline.read(workdir.timeline))
        write_atomic(workdir.html, page.encode())
    except Exception as error:  # a picture must not turn a rollout into a failure; the message says what is missing
        log.warning("report.html cannot be written: %s: %s", type(error).__name__, error)
        return None
    return workdir.html
