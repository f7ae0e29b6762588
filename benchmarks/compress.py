"""Our chosen variant beside what users pick instead, on real models: size, quality, latency, time taken.

    python benchmarks/compress.py [--only NAME] [--update-readme]

Every file is measured by the same code in one run: stored bytes (tar + zstd, what a node downloads) and file bytes, quality on the
same data, latency paired with the source's in alternating rounds. Fails if ours breaks its own promise: slower than the source
beyond `maxSlowdown`, a quality drop over the budget, or no smaller than the source.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import dataclass
from pathlib import Path

from models import ROOT, BenchModel, prepare

from edgemodel_api.edgemodel import ValidationData
from edgemodel_api.errors import EdgeModelError
from edgemodel_api.quantities import format_bytes, format_seconds, parse_percent
from edgemodel_api.slowdown import too_slow
from edgemodel_compressor.data import Dataset, open_dataset
from edgemodel_compressor.evaluate.latency import compare_latency
from edgemodel_compressor.evaluate.quality import Evaluator
from edgemodel_compressor.evaluate.runner import runner
from edgemodel_compressor.formats.onnx_model import SourceModel, load_model, open_session
from edgemodel_oci.artifact import packed_size

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
PEERS = {"ort-dynamic": "onnxruntime dynamic", "ort-static": "onnxruntime static", "onnxsim": "onnxsim"}
#: A latency is the median of so many comparisons with the source.
REPEATS = 3


@dataclass(frozen=True)
class Row:
    """One file, measured. Ratios are to the source; `drop` is a fraction of the source's quality."""

    model: str
    technique: str
    stored: int
    file: int
    quality: float
    drop: float
    latency: float
    slowdown: float
    slowdown_low: float
    seconds: float | None
    note: str = ""


class Bench:
    """One model: its source, its data, and how a file is measured beside the source."""

    def __init__(self, model: BenchModel, folder: Path) -> None:
        self.model = model
        self.folder = folder
        self.source: SourceModel = load_model(model.model, work_dir=folder, max_bytes=2**31, external_dir=model.folder)
        self.data: Dataset = open_dataset(
            model.folder / "validation.npz",
            self.source.inputs,
            labels=model.labels,
            work_dir=folder,
            max_bytes=2**33,
            what="data.validation",
        )
        self.run = runner(open_session(self.source.path))
        validation = ValidationData.model_validate(
            {"uri": "file:validation.npz", "labels": model.labels, "metric": model.metric}
        )
        self.evaluator = Evaluator(
            self.run, self.data, validation=validation, work_dir=folder, fixed_batch=self.source.fixed_batch
        )
        self.feeds = [self.data.take(1, seed) for seed in range(8)]
        self.stored = packed_size(self.source.path)

    def measure(self, technique: str, path: Path, seconds: float | None, note: str = "") -> Row:
        candidate = runner(open_session(path))
        quality = self.evaluator.evaluate(candidate, one_by_one=True)
        timed = [compare_latency(candidate, self.run, self.feeds) for _ in range(REPEATS)]
        middle = sorted(timed, key=lambda t: t.slowdown.value)[REPEATS // 2]
        return Row(
            model=self.model.name,
            technique=technique,
            stored=packed_size(path),
            file=path.stat().st_size,
            quality=quality.value,
            drop=quality.drop,
            latency=statistics.median(t.candidate.median for t in timed),
            slowdown=middle.slowdown.value,
            slowdown_low=middle.slowdown.low,
            seconds=seconds,
            note=note,
        )


def environment(folder: Path) -> Path:
    """A virtual environment with the peers that are not in ours; its python."""
    python = folder / "bin/python"
    wanted = (ROOT / "benchmarks/requirements.txt").read_text()
    stamp = folder / "requirements.txt"
    if not stamp.exists() or stamp.read_text() != wanted:
        print("installing the peers …", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-deps", "-r", str(ROOT / "benchmarks/requirements.txt")], check=True)
        subprocess.run([*pip, "onnx", "onnxruntime", "rich", "setuptools"], check=True)
        stamp.write_text(wanted)
    return python


def ours(bench: Bench, folder: Path) -> Row:
    """`edgemodel compress`, as a user would type it."""
    manifest = bench.model.folder / "edgemodel.yaml"
    manifest.write_text(bench.model.manifest())
    out = folder / "ours"
    command = [sys.executable, "-m", "edgemodel_cli", "compress", "-f", str(manifest), "--out", str(out), "-o", "json"]
    begin = time.perf_counter()
    # What an earlier run has measured must not make this one look fast.
    environment = {**os.environ, "EDGEMODEL_CANDIDATES": "off"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment)
    seconds = time.perf_counter() - begin
    if done.returncode != 0:
        sys.exit(f"{bench.model.name}: edgemodel compress ended with {done.returncode}: {done.stdout}")
    report = json.loads((out / "report.json").read_text())
    chosen = next((c["name"] for c in report["candidates"] if c["chosen"]), "")
    return bench.measure("**EdgeModel**", out / f"{bench.model.name}.onnx", seconds, chosen)


def peer(bench: Bench, folder: Path, name: str, python: Path) -> Row | str:
    """One peer's file measured, or why there is none."""
    out = folder / f"{name}.onnx"
    script = str(ROOT / "benchmarks/peers.py")
    command = [str(python), script, name, str(bench.model.model), str(bench.model.folder / "calibration.npz"), str(out)]
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - begin
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        return f"fails: {lines[-1][:120] if lines else done.returncode}"
    try:
        return bench.measure(PEERS[name], out, seconds)
    except EdgeModelError as error:
        return f"gives a file that does not run: {error.message[:120]}"


def compare(model: BenchModel, python: Path) -> tuple[list[str], list[str]]:
    """Table lines of one model, and broken promises."""
    with tempfile.TemporaryDirectory(prefix="edgemodel-bench-") as name:
        folder = Path(name)
        bench = Bench(model, folder)
        source = bench.measure("source", bench.source.path, None)
        mine = ours(bench, folder)
        lines = [line(source, source), line(mine, source)]
        for technique, title in PEERS.items():
            found = peer(bench, folder, technique, python if technique == "onnxsim" else Path(sys.executable))
            if isinstance(found, Row):
                lines.append(line(found, source))
            else:
                lines.append(f"| {model.name} | {title} | | | | {found} | |")
    return lines, broken(mine, source, model)


def broken(mine: Row, source: Row, model: BenchModel) -> list[str]:
    """What ours promised and did not keep."""
    problems = []
    if too_slow(mine.slowdown, mine.slowdown_low, 0.0):
        problems.append(f"{model.name}: {mine.slowdown:+.1%} slower than the source")
    if mine.drop > parse_percent(model.max_drop) + 1e-9:
        problems.append(f"{model.name}: quality drops by {mine.drop:.2%}, budget {model.max_drop}")
    if mine.stored >= source.stored:
        problems.append(f"{model.name}: {mine.stored} bytes are not less than the source's {source.stored}")
    return problems


def line(row: Row, source: Row) -> str:
    """One row of the Markdown table."""
    smaller = "" if row is source else f" ({source.stored / row.stored:.2f}× smaller)"
    drop = "" if row is source else f" ({-row.drop:+.2%})"
    speed = "" if row is source else f" ({1 + row.slowdown:.2f}×)"
    seconds = "" if row.seconds is None else f"{row.seconds:.0f} s"
    name = f"{row.technique} `{row.note}`" if row.note else row.technique
    # As it would have been when the source was timed: the ratio is what was measured, in turns.
    latency = source.latency if row is source else source.latency * (1 + row.slowdown)
    return (
        f"| {row.model} | {name} | {format_bytes(row.stored)}{smaller} | {format_bytes(row.file)} |"
        f" {row.quality:.4f}{drop} | {format_seconds(latency)}{speed} | {seconds} |"
    )


def cpu_name() -> str:
    """This machine's, for the line below a table."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), platform.machine())


def table(lines: list[str], models: list[BenchModel]) -> str:
    """What the README shows."""
    cpu = cpu_name()
    kinds = "; ".join(
        f"{m.name} ({m.kind}, {m.metric}{'' if m.labels else ' of agreement with the source'})" for m in models
    )
    head = (
        "| model | technique | stored | file | quality (change) | median latency (× source) | time |\n"
        "|---|---|---|---|---|---|---|"
    )
    note = (
        f"`make bench` on {os.cpu_count()} cores of {cpu}, one thread; models: {kinds}. Budget of ours: "
        f"quality −{models[0].max_drop}, slowdown 0 %. *stored* is the zstd layer that a node downloads, for all alike. Time of ours is the"
        " whole search with all measurements; the peers' measures nothing."
    )
    return "\n".join([head, *lines, "", note])


def main() -> int:
    """0; 1 when ours breaks a promise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="one model")
    parser.add_argument("--workdir", type=Path, default=ROOT / ".edgemodel/bench", help="for models and peers")
    parser.add_argument("--update-readme", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    python = environment(options.workdir / "venv")
    packages = next((options.workdir / "venv/lib").glob("python*/site-packages"))
    models = [m for m in prepare(options.workdir / "models", packages) if options.only in (None, m.name)]
    lines, problems = [], []
    for model in models:
        print(f"{model.name} …", file=sys.stderr)
        found, bad = compare(model, python)
        lines += found
        problems += bad
    text = table(lines, models)
    print(text)
    if options.update_readme and options.only is None:
        readme = (ROOT / "README.md").read_text()
        before, after = readme.partition(BEGIN)[0], readme.partition(END)[2]
        (ROOT / "README.md").write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")
    for problem in problems:
        print(f"broken promise: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
