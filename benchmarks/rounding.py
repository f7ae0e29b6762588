"""What calibration data is worth to a single step: weights stored as Int8 and Int4, rounded plainly and by the data (GPTQ).

    python benchmarks/rounding.py [--only NAME] [--update]

Each row is two whole Jobs of `edgemodel.compress`, with `data.calibration` and without; quality is that of the models' validation data. Both
files have the same encoding: what differs is the direction in which weights were rounded. Fails where rounding by the data costs
quality.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import environments
from models import ROOT, BenchModel, names, prepare
from tables import put_between

import edgemodel
from edgemodel_api.quantities import format_bytes

BEGIN, END = "<!-- bench-rounding:begin -->", "<!-- bench-rounding:end -->"
ENCODINGS = {"Int8": "int8 weights", "Int4": "int4 weights"}
#: A share of the source's quality, that a few samples may turn.
NOISE = 0.005


@dataclass(frozen=True)
class Made:
    """One file. `drop` is a fraction of the source's quality."""

    size_bytes: int
    drop: float


def made(model: BenchModel, precision: str, *, calibrated: bool) -> Made:
    """By one Job with one step, and a budget that keeps nothing out."""
    with tempfile.TemporaryDirectory(prefix="edgemodel-bench-") as folder:
        done = edgemodel.compress(
            model.folder / "model.onnx",
            validation=model.validation,
            calibration=model.folder / "calibration.npz" if calibrated else None,
            labels=model.labels or None,
            metric=model.metric,
            steps=[{"quantize": {"precision": precision, "activations": "None"}}],
            max_quality_drop="100%",
            max_slowdown="1000%",
            out=Path(folder) / "out",
            progress=None,
        )
    row = done.candidates[-1]
    if row.quality_drop is None:
        sys.exit(f"{model.name}: {row.why}")
    return Made(row.size_bytes, row.quality_drop)


def table(rows: list[tuple[BenchModel, str, Made, Made]]) -> str:
    """What the docs show."""
    head = (
        "| model | weights as | stored | quality drop, rounded plainly | by calibration data |\n|---|---|---|---|---|"
    )
    lines = [
        f"| {model.name}, {model.kind} | {ENCODINGS[precision]} | {format_bytes(data.size_bytes)} | {plain.drop:.2%} | {data.drop:.2%} |"
        for model, precision, plain, data in rows
    ]
    return "\n".join([head, *lines])


def main() -> int:
    """0; 1 when rounding by the data costs quality."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=names(), help="one model")
    parser.add_argument("--update", action="store_true", help="put the table into docs/compression.md")
    options = parser.parse_args()
    wanted = () if options.only is None else (options.only,)
    # What was measured with another version of the code has no part in it.
    os.environ["EDGEMODEL_CANDIDATES"] = "off"
    rows = []
    for model in prepare(environments.cache() / "models", environments.packages(), wanted):
        for precision in ENCODINGS:
            print(f"{model.name}, {precision} …", file=sys.stderr, flush=True)
            rows.append(
                (model, precision, made(model, precision, calibrated=False), made(model, precision, calibrated=True))
            )
    text = table(rows)
    print(text)
    if options.update:
        put_between(ROOT / "docs" / "compression.md", BEGIN, END, text)
    worse = [(m, p) for m, p, plain, data in rows if data.drop > plain.drop + NOISE]
    for model, precision in worse:
        print(f"broken promise: {model.name}, {precision}: rounded by the data it is worse", file=sys.stderr)
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
