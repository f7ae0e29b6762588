"""EdgeModel's search beside what users pick instead, on seven real models: size, quality, latency, time, memory, kinds of CPU.

    python benchmarks/compress.py [--only MODEL]… [--tool TOOL]… [--until HH:MM] [--here] [--everything] [--tables] [--update]

Each result is kept outside of the checkout by what it depends on (model, data, versions, code), so that an interrupted run goes on
where it was; benchmarks/results/compress.json has what is known so far after each row. A tool that fails is a row with its own last
words. Of each maker the smallest file is tried on all kinds of CPU, then the next, until one holds on all of them; `--everything` tries all
of them, `--here` none. `--until` begins nothing new after that time of day; `--tables` only prints the tables of the results that are there;
`--update` puts them into README.md, docs/benchmarks.md and docs/benchmarks.svg. Fails if ours breaks its own promise: a quality drop over
the budget, slower than the source beyond `maxSlowdown`, or no smaller than the source.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import environments
import tables
from contenders import ONNX, OURS, TOOLS, Tool, make
from models import ROOT, BenchModel, names, prepare
from tables import put_between
from yardstick import Yardstick, cpu_name, limit_of

from edgemodel_api.hardware import HardwareClass
from edgemodel_api.slowdown import too_slow
from edgemodel_compressor import verify

BEGIN, END = "<!-- bench-compress:begin -->", "<!-- bench-compress:end -->"
RESULTS = ROOT / "benchmarks/results/compress.json"
#: Kinds of CPU that onnxruntime runs on.
KINDS = tuple(k.value for k in HardwareClass if k not in (HardwareClass.UNKNOWN, HardwareClass.ARM_V7))


def row(tool: Tool, model: BenchModel, yardstick: Yardstick) -> dict[str, Any]:
    """One tool on one model: made, measured, and tried on each kind of CPU."""
    made, folder = make(tool, model, KINDS)
    found: dict[str, Any] = {
        "model": model.name,
        "tool": tool.name,
        "group": tool.group,
        "title": tool.title,
        "format": tool.format,
        "versions": list(made.versions),
        "seconds": made.seconds,
        "peak_bytes": made.peak_bytes,
        "variants": made.what,
        "classes": [],
    }
    if made.failure:
        return {**found, "failure": made.failure}
    here = verify.machines().here.hardware_class.value
    files = {kind: folder / (made.files.get(kind) or made.files.get("", "")) for kind in KINDS}
    if files[here] == folder:
        return {**found, "failure": f"no file for {here}"}
    measured = {path: yardstick.file(path, tool.format) for path in set(files.values()) if path != folder}
    found.update(measured[files[here]])
    if found.get("failure"):
        return found
    # What a node downloads, at most.
    found["stored_bytes"] = max(m["stored_bytes"] for m in measured.values())
    found["float"] = all(m.get("float") for m in measured.values())
    found["files"] = {k: "" if f == folder else str(f.relative_to(environments.cache())) for k, f in files.items()}
    found["classes"] = made.verified
    return found


def try_on_all(rows: list[dict[str, Any]], yardstick: Yardstick, *, everything: bool) -> Iterator[dict[str, Any]]:
    """Rows of one model, tried on each kind of CPU: of each maker the smallest first, until one holds on all of them.

    Emulation takes some fifty times as long, so what cannot be in the first table is not run, unless `everything` is asked for.
    """
    for group in dict.fromkeys(r["group"] for r in rows):
        for found in sorted((r for r in rows if r["group"] == group), key=lambda r: r.get("stored_bytes") or 0):
            tool = next(t for t in TOOLS if t.name == found["tool"])
            limit = limit_of(tool.max_drop or yardstick.model.max_drop)
            wanted = not found.get("failure") and found["format"] == ONNX and not found["float"]
            if wanted and found["quality"]["drop"] <= limit + 1e-9:
                known = _on_classes(found, yardstick, limit)
                yield {**found, "classes": known}
                if all(c.get("holds") for c in known) and group != OURS and not everything:
                    break


def _on_classes(found: dict[str, Any], yardstick: Yardstick, limit: float) -> list[dict[str, Any]]:
    have = {c["hardwareClass"]: c for c in found["classes"]}
    for kind, name in found["files"].items():
        if kind in have and have[kind].get("how") != "No":
            continue
        if name:
            (have[kind],) = yardstick.classes(environments.cache() / name, (kind,), limit)
        else:
            have[kind] = {"hardwareClass": kind, "holds": False, "message": "no file for it"}
    return [have[kind] for kind in KINDS]


def broken(found: dict[str, Any], source: dict[str, Any]) -> list[str]:
    """What ours promised and did not keep."""
    tool = next(t for t in TOOLS if t.name == found["tool"])
    if tool.group != OURS or found.get("failure"):
        return []
    problems, name = [], f"{found['model']} {tool.name}"
    ratio = found["latency"]
    if too_slow(ratio["ratio"] - 1, ratio["low"] - 1, 0.0):
        problems.append(f"{name}: {ratio['ratio']:.2f} × the source's latency")
    if found["quality"]["drop"] > limit_of(tool.max_drop) + 1e-9:
        problems.append(f"{name}: quality drops by {found['quality']['drop']:.2%}, budget {tool.max_drop}")
    if found["stored_bytes"] >= source["stored_bytes"]:
        problems.append(f"{name}: {found['stored_bytes']} bytes are not less than the source's")
    return problems


class Results:
    """What is known so far, in a file; `fresh`: this machine adds to it, today."""

    def __init__(self, path: Path, *, fresh: bool) -> None:
        self.path = path
        found = json.loads(path.read_text()) if path.exists() else {}
        if found and not fresh:
            self.known: dict[str, Any] = found
            return
        self.known = {
            "date": _now().date().isoformat(),
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "onnxruntime": version("onnxruntime"),
            "cpus": {m.hardware_class.value: m.cpu for m in verify.machines().found if m.hardware_class.value in KINDS},
            "models": found.get("models", {}),
            "rows": found.get("rows", []),
        }

    def put(self, found: dict[str, Any]) -> None:
        """In the place of an older one."""
        key = found["model"], found["tool"]
        rest = [r for r in self.known["rows"] if (r["model"], r["tool"]) != key]
        order = [(m, t.name) for m in names() for t in TOOLS]
        self.known["rows"] = sorted([*rest, found], key=lambda r: order.index((r["model"], r["tool"])))
        self.write()

    def write(self) -> None:
        """Whole or not at all."""
        self.known["models"] = {m: self.known["models"][m] for m in names() if m in self.known["models"]}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f".{self.path.name}")
        part.write_text(json.dumps(self.known, indent=1, ensure_ascii=False) + "\n")
        os.replace(part, self.path)


def run(options: argparse.Namespace, results: Results) -> list[str]:
    """Row by row; broken promises."""
    problems: list[str] = []
    chosen = [t for t in TOOLS if not options.tool or t.name in options.tool]
    models = prepare(environments.cache() / "models", environments.packages(), tuple(options.only))
    for model in models:
        if _late(options.until):
            break
        with tempfile.TemporaryDirectory(prefix="edgemodel-bench-") as name:
            yardstick = Yardstick(model, Path(name))
            results.known["models"][model.name] = yardstick.about()
            for tool in chosen:
                if _late(options.until):
                    return problems
                print(f"{_now():%H:%M:%S} {model.name} {tool.name} …", file=sys.stderr, flush=True)
                found = row(tool, model, yardstick)
                results.put(found)
                problems += broken(found, results.known["models"][model.name])
                print(f"{_now():%H:%M:%S} {_told(found, results)}", file=sys.stderr, flush=True)
            mine = [r for r in results.known["rows"] if r["model"] == model.name]
            if options.here:
                continue
            for found in try_on_all(mine, yardstick, everything=options.everything):
                results.put(found)
                print(f"{_now():%H:%M:%S} {found['tool']} {_told(found, results)}", file=sys.stderr, flush=True)
                if _late(options.until):
                    return problems
    return problems


def _told(found: dict[str, Any], results: Results) -> str:
    if found.get("failure"):
        return f"  fails: {found['failure'][:200]}"
    times, held = tables.smaller(results.known, found), sum(bool(c.get("holds")) for c in found["classes"])
    return f"  {times:.2f}× smaller, drop {found['quality']['drop']:.2%}, holds on {held} of {len(found['classes'])}"


def _late(until: dt.time | None) -> bool:
    return until is not None and _now().time() >= until


def _now() -> dt.datetime:
    """By this machine's clock."""
    return dt.datetime.now(tz=dt.UTC).astimezone()


def main() -> int:
    """0; 1 when ours breaks a promise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], choices=names(), help="a model; may be repeated")
    parser.add_argument("--tool", action="append", default=[], choices=[t.name for t in TOOLS], help="may be repeated")
    parser.add_argument("--until", type=dt.time.fromisoformat, help="begin nothing new after this time of day")
    parser.add_argument("--here", action="store_true", help="leave the other kinds of CPU out")
    parser.add_argument(
        "--everything", action="store_true", help="all files on all kinds of CPU, not only the smallest"
    )
    parser.add_argument("--tables", action="store_true", help="run nothing")
    parser.add_argument("--update", action="store_true", help="put the tables into README.md and docs/")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file with what is known")
    options = parser.parse_args()
    results = Results(options.results, fresh=not options.tables)
    problems = [] if options.tables else run(options, results)
    if options.update:
        put_between(ROOT / "README.md", BEGIN, END, tables.readme(results.known, names()))
        (ROOT / "docs/benchmarks.md").write_text(tables.page(results.known, names()))
        tables.picture(results.known, ROOT / "docs/benchmarks.svg")
    print(tables.readme(results.known, names()))
    print("\n".join(["", "Targets:", *tables.targets(results.known)]))
    for problem in problems:
        print(f"broken promise: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
