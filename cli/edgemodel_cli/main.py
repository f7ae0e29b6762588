"""The command line `edgemodel`, also installed as `kubectl edgemodel`.

Exit codes: 0 done, 1 refused by a gate, rolled back or timed out, 2 bad input, 3 something else failed.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import traceback
from datetime import timedelta
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from edgemodel_api import reasons
from edgemodel_api.errors import EXIT_FAILED, EdgeModelError, InputError
from edgemodel_api.quantities import parse_duration
from edgemodel_cli.embedded.signals import exit_code, stopped_by

DEBUG = "EDGEMODEL_DEBUG"

app = typer.Typer(
    name="edgemodel",
    help="Compress a model, prove what that costs, and roll it out to many small machines.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Output(StrEnum):
    """What standard output carries."""

    TEXT = "text"
    JSON = "json"


File = Annotated[Path, typer.Option("-f", "--file", help="Manifest with one EdgeModel; - is standard input.")]
Nodes = Annotated[int | None, typer.Option("--nodes", help="Number of local nodes, node-1 … node-N; 3 by default.")]
NodesFile = Annotated[
    Path | None,
    typer.Option(
        "--nodes-file",
        help="YAML with nodes: [{name, labels, address, threads, rehearse: {fault, at, after}}]; "
        "rehearse makes a node go bad on purpose.",
    ),
]
WorkdirOption = Annotated[
    Path | None,
    typer.Option("--workdir", help="Where everything is kept; .edgemodel/NAME beside the manifest by default."),
]
OfFile = Annotated[Path | None, typer.Option("-f", "--file", help="Manifest whose default workdir is meant.")]
OfWorkdir = Annotated[
    Path | None,
    typer.Option("--workdir", help="The workdir; the only one below .edgemodel in the current folder by default."),
]
OutputOption = Annotated[Output, typer.Option("-o", "--output", help="json: one object on standard output.")]


def _version(value: bool) -> None:  # noqa: FBT001 - typer's callback
    if value:
        try:
            print(f"edgemodel {version('edgemodel')}")
        except PackageNotFoundError:
            print("edgemodel, not installed")
        raise typer.Exit


@app.callback()
def _top(
    *,
    show: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    pass


def _duration(text: str) -> timedelta:
    try:
        found = parse_duration(text)
    except ValueError as error:
        raise InputError(f"--timeout: {error}") from None
    if found <= timedelta(0):
        raise InputError(f"--timeout {text}: give more than nothing, such as 30m")
    return found


@app.command()
def run(
    *,
    file: File,
    nodes: Nodes = None,
    nodes_file: NodesFile = None,
    workdir: WorkdirOption = None,
    output: OutputOption = Output.TEXT,
    keep_serving: Annotated[
        bool,
        typer.Option(
            "--keep-serving",
            help="Leave nodes and servers running; a later run rolls over them, edgemodel stop ends them.",
        ),
    ] = False,
    timeout: Annotated[str, typer.Option("--timeout", help="Give up after this time, such as 90s or 1h.")] = "30m",
    approve: Annotated[
        bool, typer.Option("--approve", help="Let all waves of the revision begin, where approval is Manual.")
    ] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="Try a revision again that was refused or rolled back.")
    ] = False,
) -> None:
    """Compress the model and roll it out to local nodes that serve it.

    The cluster's parts, on this machine: a folder is API server and registry, processes are Job and nodes. With the
    same files nothing is rebuilt; with changed ones a new revision rolls over the old one.

    Nodes made by --nodes carry the labels that the manifest's nodePool selects. What -o json says of nodes is how they
    were at the end of the rollout; their endpoints answer afterwards only with --keep-serving.
    """
    from .commands import run as command

    _end(
        command.run(
            command.Options(
                file=file,
                nodes=nodes,
                nodes_file=nodes_file,
                workdir=workdir,
                as_json=output is Output.JSON,
                keep_serving=keep_serving,
                timeout=_duration(timeout),
                approve=approve,
                retry=retry,
            )
        )
    )


DATA, BUDGET, STEPS, SEARCH = "Data", "Budget", "Steps, instead of a search", "Search"


@app.command()
def compress(
    *,
    model: Annotated[
        Path | None,
        typer.Argument(
            help="ONNX or TFLite file; the options below say the rest. Or give a manifest by -f.", show_default=False
        ),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("-f", "--file", help="Manifest with one EdgeModel; - is standard input.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder to write; it must be new, empty, or from an earlier compress. Default: NAME-compressed.",
        ),
    ] = None,
    output: OutputOption = Output.TEXT,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            "--platform",
            help="Build for this platform, such as linux/arm64; repeatable. Default: this machine's.",
        ),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="ONNX, TFLite or CoreML; repeatable. Default: ONNX.", show_default=False),
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option(help=".npz: an array for each input, by its name, and the labels.", rich_help_panel=DATA),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Name of the label array in --validation.", rich_help_panel=DATA)
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="Top1, TopK, F1, Cosine or MeanSquaredError.", rich_help_panel=DATA)
    ] = None,
    k: Annotated[int | None, typer.Option("--k", help="For --metric TopK; 5 by default.", rich_help_panel=DATA)] = None,
    judged_output: Annotated[
        str | None,
        typer.Option(help="Name of the model's output that is judged; the first by default.", rich_help_panel=DATA),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help=".npz: an array for each input, by its name.", rich_help_panel=DATA)
    ] = None,
    training: Annotated[
        Path | None,
        typer.Option(
            help=".npz to learn from: an array for each input, by its name, and labels where there are some.",
            rich_help_panel=DATA,
        ),
    ] = None,
    training_labels: Annotated[
        str | None, typer.Option(help="Name of the label array in --training.", rich_help_panel=DATA)
    ] = None,
    objective: Annotated[str | None, typer.Option(help="Smallest or Fastest.", rich_help_panel=BUDGET)] = None,
    max_quality_drop: Annotated[
        str | None, typer.Option(help="Relative to the source, such as 0.5%; 1% by default.", rich_help_panel=BUDGET)
    ] = None,
    max_size: Annotated[
        str | None, typer.Option(help="Stored bytes of the model, such as 20Mi.", rich_help_panel=BUDGET)
    ] = None,
    max_latency: Annotated[str | None, typer.Option(help="Median, such as 50ms.", rich_help_panel=BUDGET)] = None,
    max_memory: Annotated[
        str | None, typer.Option(help="Of a process that serves it, such as 200Mi.", rich_help_panel=BUDGET)
    ] = None,
    max_slowdown: Annotated[
        str | None, typer.Option(help="Against the source; 0% by default.", rich_help_panel=BUDGET)
    ] = None,
    search_timeout: Annotated[
        str | None,
        typer.Option(help="Take the best that was found after this time, such as 10m.", rich_help_panel=SEARCH),
    ] = None,
    max_candidates: Annotated[
        int | None, typer.Option(help="Measure this many at most; 48 by default.", rich_help_panel=SEARCH)
    ] = None,
    distill: Annotated[
        str | None,
        typer.Option(help="Knowledge or Parameter: train a smaller student on --training.", rich_help_panel=STEPS),
    ] = None,
    student_width: Annotated[
        str | None, typer.Option(help="Share of the channels that the student has, such as 50%.", rich_help_panel=STEPS)
    ] = None,
    student_depth: Annotated[
        str | None, typer.Option(help="Share of the repeated blocks, such as 50%.", rich_help_panel=STEPS)
    ] = None,
    student_rank: Annotated[
        str | None, typer.Option(help="Share of the full rank of matrices, such as 25%.", rich_help_panel=STEPS)
    ] = None,
    student: Annotated[
        Path | None, typer.Option(help="ONNX file of the student, instead of a share.", rich_help_panel=STEPS)
    ] = None,
    distill_epochs: Annotated[
        int | None, typer.Option(help="Passes over the training data; 10 by default.", rich_help_panel=STEPS)
    ] = None,
    prune: Annotated[
        str | None,
        typer.Option(help="This much of the weights, such as 60%, or N:M, such as 2:4.", rich_help_panel=STEPS),
    ] = None,
    structure: Annotated[
        str | None, typer.Option(help="Weights, or Channels: --prune takes whole channels out.", rich_help_panel=STEPS)
    ] = None,
    recover_epochs: Annotated[
        int | None, typer.Option(help="Learn again after --prune, so many passes.", rich_help_panel=STEPS)
    ] = None,
    quantize: Annotated[str | None, typer.Option(help="Int8, Int4 or Float16.", rich_help_panel=STEPS)] = None,
    activations: Annotated[
        str | None,
        typer.Option(help="Static, Dynamic or None (weights only), for --quantize.", rich_help_panel=STEPS),
    ] = None,
    show_manifest: Annotated[
        bool,
        typer.Option("--show-manifest", help="Print the manifest that means the same, and do nothing else."),
    ] = False,
    timeout: Annotated[str, typer.Option("--timeout", help="Give up after this time, such as 90s or 1h.")] = "2h",
) -> None:
    """Compress a model, without nodes or a cluster.

    edgemodel compress model.onnx --max-quality-drop 0.5% --validation v.npz --labels y --target linux/arm64

    OUT is an OCI image layout (oras and skopeo read it), tagged with the revision, and has beside it NAME.onnx (or
    .tflite, .mlpackage.zip: the best variant of each format, to load at once), report.json and report.html. It appears
    when all of it is complete.
    """
    from .commands import compress as command
    from .model_options import ModelOptions, edge_model, given, manifest_text

    said: dict[str, Any] = {
        "validation": validation,
        "labels": labels,
        "metric": metric,
        "k": k,
        "judged_output": judged_output,
        "calibration": calibration,
        "training": training,
        "training_labels": training_labels,
        "objective": objective,
        "max_quality_drop": max_quality_drop,
        "max_size": max_size,
        "max_latency": max_latency,
        "max_memory": max_memory,
        "max_slowdown": max_slowdown,
        "search_timeout": search_timeout,
        "max_candidates": max_candidates,
        "formats": tuple(formats) if formats else None,
        "distill": distill,
        "student": student,
        "student_width": student_width,
        "student_depth": student_depth,
        "student_rank": student_rank,
        "distill_epochs": distill_epochs,
        "prune": prune,
        "structure": structure,
        "recover_epochs": recover_epochs,
        "quantize": quantize,
        "activations": activations,
    }
    if model is None:
        if words := given(said):
            what = (
                "with -f this is in the manifest"
                if file is not None
                else "name a model: edgemodel compress model.onnx …"
            )
            raise InputError(f"{', '.join(words)}: {what}")
        if file is not None and show_manifest:
            raise InputError(
                f"--show-manifest prints the manifest that options stand for, and {file} is one already: edgemodel validate"
                f" -f {file} says how it is understood"
            )
    options = ModelOptions(model=model, **said) if model is not None else None
    if options is not None and file is None and show_manifest:
        edge_model(options)
        print(manifest_text(options), end="")
        return
    _end(
        command.compress(
            command.Options(
                file=file,
                model=options,
                out=out,
                as_json=output is Output.JSON,
                platforms=tuple(target or ()),
                timeout=_duration(timeout),
            )
        )
    )


@app.command()
def validate(*, file: File, output: OutputOption = Output.TEXT) -> None:
    """Check a manifest and the local files that it names, and print what was understood."""
    from .commands import validate as command

    _end(command.validate(file, as_json=output is Output.JSON))


@app.command()
def plan(
    *,
    file: File,
    nodes: Nodes = None,
    nodes_file: NodesFile = None,
    workdir: WorkdirOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Say what `run` would do, without doing it: revision, platforms, nodes per wave, bytes to download, time."""
    from .commands import plan as command

    _end(command.plan(file, nodes, nodes_file, workdir, as_json=output is Output.JSON))


@app.command()
def stop(
    *,
    file: OfFile = None,
    workdir: OfWorkdir = None,
) -> None:
    """Drain and stop everything that `run --keep-serving` left running."""
    from .commands.stop import stop as command

    stopped = command(_existing(file, workdir))
    print(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")


@app.command()
def report(
    *,
    file: OfFile = None,
    workdir: OfWorkdir = None,
) -> None:
    """Write the HTML report of the last run again, and print its path."""
    from .commands.report import report as command

    print(command(_existing(file, workdir)))


def _existing(file: Path | None, workdir: Path | None) -> Any:
    from .embedded.workdir import existing_workdir, workdir_for
    from .manifest_file import load_manifest

    if file is not None and workdir is None:
        model, base_dir = load_manifest(file)
        workdir = workdir_for(model, base_dir, None).root
    return existing_workdir(workdir, Path.cwd())


def _end(code: int) -> None:
    if code:
        raise typer.Exit(code)


def main(arguments: list[str] | None = None) -> None:
    """The rim: every way to end gives an exit code and at most a few plain lines."""
    before = {number: signal.signal(number, _interrupted) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = app(args=arguments, standalone_mode=True)
    except EdgeModelError as error:
        # The one reason for bad input that another version takes away.
        why = f"{reasons.NOT_SUPPORTED}: " if error.reason == reasons.NOT_SUPPORTED else ""
        print(f"edgemodel: {why}{error.message}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Whoever read our output has gone; the interpreter must not complain of it once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)
    except Exception as error:  # the rim of the process: one line for the user, the traceback in a file
        if os.environ.get(DEBUG) == "1":
            raise
        print(f"edgemodel: {type(error).__name__}: {error}{_logged()}", file=sys.stderr)
        sys.exit(EXIT_FAILED)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    sys.exit(code)


def _interrupted(number: int, _frame: FrameType | None) -> NoReturn:
    # SystemExit, so that everything on the way tidies up. Not KeyboardInterrupt: typer would make exit code 1 of it, and 1 means that a gate said no.
    print(stopped_by(number), file=sys.stderr)
    sys.exit(exit_code(number))


def _logged() -> str:
    try:
        with tempfile.NamedTemporaryFile("w", prefix="edgemodel-", suffix=".log", delete=False) as f:
            traceback.print_exc(file=f)
    except OSError:
        return f"; set {DEBUG}=1 for a traceback"
    return f"; traceback in {f.name}"
