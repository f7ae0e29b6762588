import io

import pytest
from rich.console import Console

from edgemodel_api.job import Progress
from edgemodel_cli import progress
from edgemodel_cli.progress import LineReporter, TerminalReporter
from edgemodel_cli.results import NodeRow

TEXTS = {
    "stage only": (Progress(stage="fetch"), "fetch"),
    "counted": (Progress(stage="measure", done=3, total=12, message="int8-static"), "measure 3/12: int8-static"),
    "bytes": (Progress(stage="fetch", done=1 << 20, total=4 << 20), "fetch 1.0 MiB/4.0 MiB"),
}


@pytest.mark.parametrize(("given", "text"), TEXTS.values(), ids=TEXTS)
def test_progress_text(given, text):
    assert progress.progress_text(given) == text


@pytest.fixture
def lines():
    out = io.StringIO()
    return LineReporter(Console(file=out, width=40)), lambda: [x.split(" ", 1)[1] for x in out.getvalue().splitlines()]


def test_a_line_for_each_stage(lines):
    reporter, said = lines
    for done in range(3):
        reporter.job(Progress(stage="fetch", done=done, total=3))
    reporter.job(Progress(stage="measure", message="int8"))
    assert said() == ["compression: fetch 0/3", "compression: measure: int8"]


def test_a_line_for_each_change_of_a_node(lines):
    reporter, said = lines
    row = NodeRow("n1", "Checking")
    reporter.nodes([row], "Trialing: on n1")
    reporter.nodes([row], "Trialing: on n1")
    reporter.nodes(
        [NodeRow("n1", "Failed", "r1", "int8", reason="TooSlow", message="3 ms over 2 ms")], "Trialing: on n1"
    )
    assert said() == ["Trialing: on n1", "n1: Checking", "warning: n1: Failed int8 of r1; TooSlow: 3 ms over 2 ms"]


def test_a_node_that_works_on_another_revision_than_it_serves(lines):
    reporter, said = lines
    reporter.nodes([NodeRow("n1", "Checking", "r1", "int8", target="r2")], "")
    reporter.nodes([NodeRow("n1", "Serving", "r2", "int4", target="r2")], "")
    assert said() == ["n1: Checking r2, serves int8 of r1", "n1: Serving int4 of r2"]


def test_long_lines_and_brackets_stay_as_they_are(lines):
    reporter, said = lines
    reporter.say("[bold]" + "x" * 100)
    assert said() == ["[bold]" + "x" * 100]


def test_a_terminal_shows_bars_and_nodes_and_leaves_what_was_said():
    out = io.StringIO()
    console = Console(file=out, width=120, force_terminal=True, color_system=None)
    reporter = TerminalReporter(console)
    reporter.job(Progress(stage="measure", done=3, total=12, message="int8-static"))
    reporter.nodes([NodeRow("node-1", "Serving", "r2", "int8")], "RollingOut: wave 1/2")
    reporter.say("done [so] far")
    reporter._live.refresh()
    shown = out.getvalue()
    for text in ("compression: measure", "3/12", "int8-static", "RollingOut: wave 1/2", "int8 of r2", "done [so] far"):
        assert text in shown
    reporter.job_ended()
    reporter.close()
