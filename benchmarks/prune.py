"""What pruning saves, on real models: dense, pruned, pruned and quantized; bytes on the wire, quality, latency.

    python benchmarks/prune.py [--only NAME] [--update-readme]

Each file is measured as in benchmarks/compress.py: stored bytes (tar + zstd, what a node downloads), quality on labelled data,
latency in alternating rounds with the source's. Nothing is searched for and nothing learns again: these are single steps, one shot,
so that the rows show what each of them does. Fails where a promise is broken: a pruned file that is stored larger than the dense
one, or a model with fewer channels that is not faster.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import environments
from contenders import ONNX
from models import ROOT, BenchModel, prepare
from tables import put_between
from yardstick import Yardstick, cpu_name

from edgemodel_api.edgemodel import Activations, Granularity, Precision, PruneMethod, PruneStep, QuantizeStep, Structure
from edgemodel_api.quantities import format_bytes, format_seconds
from edgemodel_compressor.formats.onnx_model import save_model
from edgemodel_compressor.steps.encodings import encodings_for
from edgemodel_compressor.steps.prepare import prepare as prepared
from edgemodel_compressor.steps.prune import prune
from edgemodel_compressor.steps.quantize import quantize
from edgemodel_compressor.steps.weights import sparsity_of, weights

BEGIN, END = "<!-- bench-prune:begin -->", "<!-- bench-prune:end -->"
#: Models with labelled data.
MODELS = ("file-type", "orientation")
GLOBAL, RELATIVE = Granularity.GLOBAL, PruneMethod.MAX_RELATIVE
PRUNED: tuple[tuple[str, PruneStep | None], ...] = (
    ("dense", None),
    ("30 % of the weights", PruneStep(sparsity="30%", granularity=GLOBAL, method=RELATIVE)),
    ("60 % of the weights", PruneStep(sparsity="60%", granularity=GLOBAL, method=RELATIVE)),
    ("2:4", PruneStep(pattern="2:4")),
    ("5 % of the channels", PruneStep(sparsity="5%", granularity=GLOBAL, structure=Structure.CHANNELS)),
    ("30 % of the channels", PruneStep(sparsity="30%", granularity=GLOBAL, structure=Structure.CHANNELS)),
)
QUANTIZED: tuple[tuple[str, QuantizeStep | None], ...] = (
    ("float32", None),
    ("int8 weights", QuantizeStep(precision=Precision.INT8, activations=Activations.NONE)),
)


@dataclass(frozen=True)
class Row:
    """One file, measured. `drop` is a fraction of the source's quality; latencies are seconds."""

    model: str
    stored: int
    quality: float
    drop: float
    latency: float
    slowdown: float


def measured(bench: Yardstick, latency: float, path: Path) -> Row:
    """By the code that measures the peers.

    Raises:
        SystemExit: the file does not run.
    """
    found = bench.file(path, ONNX)
    if found.get("failure"):
        sys.exit(f"{bench.model.name}: {found['failure']}")
    ratio, quality = found["latency"]["ratio"], found["quality"]
    return Row(bench.model.name, found["stored_bytes"], quality["value"], quality["drop"], latency * ratio, ratio - 1)


@dataclass(frozen=True)
class Pruned:
    """One measured file, how it came about, and the numbers and zeros of its weights before they were quantized."""

    pruning: str
    encoding: str
    numbers: int
    zeros: float
    row: Row


def variants(bench: Yardstick, folder: Path) -> Iterator[Pruned]:
    """Each pruning in each encoding, measured."""
    source, latency = prepared(bench.source.proto), bench.about()["latency_seconds"]
    for pruning, step in PRUNED:
        model = source if step is None else prune(source, step).model
        for encoding, quantization in QUANTIZED:
            found = weights(model)
            numbers, zeros = sum(w.size for w in found), sparsity_of(found)
            path = folder / "candidate.onnx"
            save_model(_quantized(model, quantization), path)
            print(f"  {pruning}, {encoding}", file=sys.stderr)
            yield Pruned(pruning, encoding, numbers, zeros, measured(bench, latency, path))


def _quantized(model: Any, step: QuantizeStep | None) -> Any:
    return model if step is None else quantize(model, step, encodings_for(step, ["linux/amd64"])[0], ranges=None).model


def broken(rows: list[Pruned]) -> list[str]:
    """Promises that the rows break."""
    dense = {r.encoding: r.row.stored for r in rows if r.pruning == "dense"}
    problems = [
        f"{r.row.model}: {r.pruning}, {r.encoding}: {r.row.stored} bytes stored, and {dense[r.encoding]} dense"
        for r in rows
        if r.pruning != "dense" and r.row.stored >= dense[r.encoding]
    ]
    fewest = next(r for r in rows if r.pruning == "30 % of the channels" and r.encoding == "float32")
    if fewest.row.slowdown >= 0:
        problems.append(f"{fewest.row.model}: {fewest.pruning} gone, and {fewest.row.slowdown:+.1%} latency")
    return problems


def line(found: Pruned, dense: Pruned) -> str:
    """One row of the Markdown table."""
    row = found.row
    smaller = "" if found is dense else f" ({dense.row.stored / row.stored:.2f}× smaller)"
    drop = "" if found is dense else f" ({-row.drop:+.2%})"
    latency = dense.row.latency * (1 + row.slowdown) if found is not dense else row.latency
    speed = "" if found is dense else f" ({1 / (1 + row.slowdown):.2f}× as fast)"
    return (
        f"| {row.model} | {found.pruning} | {found.encoding} | {found.numbers / 1e6:.2f} M | {found.zeros:.0%} |"
        f" {format_bytes(row.stored)}{smaller} | {row.quality:.4f}{drop} | {format_seconds(latency)}{speed} |"
    )


def table(lines: list[str], models: list[BenchModel]) -> str:
    """What the README shows."""
    cpu = cpu_name()
    head = (
        "| model | pruned | weights as | numbers | zeros | stored | quality (change) | median latency |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    note = (
        f"`make bench-prune` on {os.cpu_count()} cores of {cpu}, one thread; models: {'; '.join(f'{m.name} ({m.kind}, {m.metric})' for m in models)}."
        " One shot, without learning again. Weights by `MaxRelative` over the whole model, channels by `MinAbsolute`. *stored* is the zstd"
        " layer that a node downloads: zeros are small there. onnxruntime computes with zeros as with any number, so only fewer channels"
        " are faster; 2:4 is for accelerators that skip them."
    )
    return "\n".join([head, *lines, "", note])


def main() -> int:
    """0; 1 when a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=MODELS, help="one model")
    parser.add_argument("--update-readme", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    wanted = MODELS if options.only is None else (options.only,)
    models = prepare(environments.cache() / "models", environments.packages(), wanted)
    lines: list[str] = []
    problems: list[str] = []
    for model in models:
        print(f"{model.name} …", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix="edgemodel-bench-") as name:
            rows = list(variants(Yardstick(model, Path(name)), Path(name)))
        lines += [line(r, rows[0]) for r in rows]
        problems += broken(rows)
    text = table(lines, models)
    print(text)
    if options.update_readme:
        put_between(ROOT / "README.md", BEGIN, END, text)
    for problem in problems:
        print(f"broken promise: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
