"""`edgemodel run`: the whole life of an EdgeModel on this machine."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from edgemodel_api import reasons
from edgemodel_api.errors import EXIT_OK, InputError, RefusedError, TransientError
from edgemodel_api.quantities import counted
from edgemodel_cli import results, tables
from edgemodel_cli.embedded.lock import workdir_lock
from edgemodel_cli.embedded.loop import InterruptedRunError, Run
from edgemodel_cli.embedded.reports import html_report, read_report
from edgemodel_cli.embedded.signals import exit_code, on_signals, stopped_by
from edgemodel_cli.embedded.workdir import Workdir, disk_error, workdir_for
from edgemodel_cli.ending import End
from edgemodel_cli.manifest_file import read_manifest
from edgemodel_cli.nodes_file import check_port, choose_nodes
from edgemodel_cli.progress import reporting

log = logging.getLogger(__name__)

#: Reasons that a further run with the same files only repeats.
_VERDICTS = (reasons.ROLLED_BACK, reasons.TRIAL_FAILED, reasons.BUDGET_EXCEEDED)


@dataclass(frozen=True)
class Options:
    """The command line; see `edgemodel run --help`."""

    file: Path
    nodes: int | None = None
    nodes_file: Path | None = None
    workdir: Path | None = None
    as_json: bool = False
    keep_serving: bool = False
    timeout: timedelta = timedelta(minutes=30)
    approve: bool = False
    retry: bool = False


def run(options: Options) -> int:
    """Do it; the exit code.

    Raises:
        EdgeModelError: bad input, or something failed that is no verdict on the model.
    """
    manifest = read_manifest(options.file)
    nodes = choose_nodes(options.nodes, options.nodes_file, manifest.model.spec.node_pool.selector)
    check_port(nodes, manifest.model.spec)
    workdir = workdir_for(manifest.model, manifest.base_dir, options.workdir)
    workdir.make()
    try:
        with workdir_lock(workdir.root, f"run -f {options.file}"), reporting() as reporter:
            reporter.say(f"{manifest.model.key} on {counted(len(nodes), 'local node')}, in {workdir.root}")
            embedded = Run(workdir, manifest, nodes, reporter, approve=options.approve, retry=options.retry)
            return _run(embedded, options)
    except BrokenPipeError:  # of our output, not of a disk
        raise
    except OSError as error:
        raise disk_error(f"--workdir {workdir.root}", error) from error


def _run(embedded: Run, options: Options) -> int:
    try:
        end, outcome = _rolled_out(embedded, options)
    except InterruptedRunError as interruption:
        embedded.reporter.close()
        going_on = "; the nodes go on serving" if interruption.serving else ""
        print(f"{stopped_by(interruption.number)}{going_on}", file=sys.stderr)
        return exit_code(interruption.number)
    embedded.reporter.close()
    if end.code not in (EXIT_OK, RefusedError.exit_code):
        _fail(end)
    _print(embedded, end, outcome, options)
    return end.code


@dataclass(frozen=True)
class Shown:
    """What there is to show."""

    nodes: tuple[results.NodeRow, ...]
    waves: tuple[results.WaveRow, ...]
    variants: tuple[results.VariantRow, ...]
    serving: bool
    reused: bool
    html: Path | None


def _rolled_out(embedded: Run, options: Options) -> tuple[End, Shown]:
    """Run to the end, look, and stop what shall not go on. Nothing is left over, however this ends."""
    reporter = embedded.reporter

    def interrupt(number: int) -> None:
        embedded.interrupted = number
        embedded.wake.set()
        reporter.say("stopping; once more to kill everything", warning=True)

    def kill() -> None:
        reporter.close()
        embedded.kill()

    with on_signals(interrupt, kill):
        try:
            embedded.prepare()
            end = embedded.until_ended(options.timeout)
            if not embedded.jobs.started and end.code == EXIT_OK:
                reporter.say(f"revision {embedded.revision} was built before: nothing is rebuilt")
            model, pool = embedded.model(), embedded.pool()
            report = read_report(embedded.workdir, embedded.revision)
            html: Path | None = embedded.workdir.html
            if model.status.rollout != embedded.rollout_before or not embedded.workdir.html.is_file():
                html = html_report(embedded.workdir, report, model, pool)
            now = datetime.now(UTC)
            rows = tuple(results.node_row(n, model.key, now) for n in pool)
            waves = results.wave_rows(model, [n.metadata.name for n in pool])
            variants = results.variant_rows(embedded.jobs.result(embedded.revision), report, model)
        except InterruptedRunError as interruption:
            interruption.serving = _close(embedded, options)
            raise
        except BaseException:
            _close(embedded, options)
            raise
        serving = _close(embedded, options)
    reused = end.code == EXIT_OK and not embedded.jobs.started
    return end, Shown(rows, waves, variants, serving, reused, html)


def _close(embedded: Run, options: Options) -> bool:
    if not options.keep_serving:
        embedded.reporter.say("stopping the nodes")
    return embedded.close(keep_serving=options.keep_serving)


def _fail(end: End) -> NoReturn:
    kind = InputError if end.code == InputError.exit_code else TransientError
    raise kind(end.message, reason=end.reason)


def _print(embedded: Run, end: End, outcome: Shown, options: Options) -> None:
    model, job = embedded.model(), embedded.jobs.result(embedded.revision)
    if options.as_json:
        found = results.run_json(
            model, end, variants=outcome.variants, nodes=outcome.nodes, waves=outcome.waves, job=job
        )
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        report = read_report(embedded.workdir, embedded.revision)
        console = tables.output_console()
        if outcome.variants:
            console.print(tables.variants_table(outcome.variants, *tables.basis(report)))
            console.print(tables.warnings_lines(report))
        console.print(tables.diagnosis_lines(report))
        console.print(tables.nodes_table(outcome.nodes))
        console.print(tables.waves_table(outcome.waves))
        _conclude(console, embedded.workdir, end, outcome)
    if end.code != EXIT_OK:
        print(f"edgemodel: {end.text}", file=sys.stderr)
    if end.reason in _VERDICTS:
        print(
            "edgemodel: that stands until the manifest or its files change; --retry tries the same again",
            file=sys.stderr,
        )


def _conclude(console: Console, workdir: Workdir, end: End, outcome: Shown) -> None:
    def line(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    if end.code == EXIT_OK:
        line(f"Rolled out. {end.message}".strip())
    if outcome.reused:
        line("Nothing was rebuilt: this revision was built before.")
    if outcome.html is not None:
        line(f"Report: {outcome.html}")
    if outcome.serving:
        line(f"The nodes go on serving. To stop them: edgemodel stop --workdir {workdir.root}")
    else:
        line("The nodes were stopped. With --keep-serving they go on after this command.")
