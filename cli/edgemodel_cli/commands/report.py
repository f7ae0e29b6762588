"""`edgemodel report`: the HTML page of the last run, made anew."""

from __future__ import annotations

from pathlib import Path

from edgemodel_api.errors import InputError, TransientError
from edgemodel_cli.embedded.objects import ObjectStore
from edgemodel_cli.embedded.reports import html_report, read_report
from edgemodel_cli.embedded.workdir import Workdir
from edgemodel_cli.results import pool


def report(workdir: Workdir) -> Path:
    """The path of report.html.

    Raises:
        InputError: nothing was compressed in this workdir.
        TransientError: the page cannot be written.
    """
    store = ObjectStore(workdir.objects)
    model = next(iter(store.models()), None)
    found = read_report(workdir, model.status.revision) if model is not None else None
    if model is None or found is None:
        raise InputError(f"{workdir.root} has no report yet: edgemodel run makes one once the model is compressed")
    page = html_report(workdir, found, model, pool(model, store.nodes()))
    if page is None:
        raise TransientError(f"{workdir.html} cannot be written; free some disk, or look at the warning above")
    return page
