"""The results as a table for the README, a longer page for docs/, and a picture; and the targets, kept or not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from contenders import COREML, ONNX, OURS, TFLITE, TOOLS

from edgemodel_api.quantities import format_bytes, format_seconds

Row = dict[str, Any]
LIMIT = 0.005
#: Times smaller than fp32 that is asked for where any method reaches it; times the slowest peer that a search may take.
SMALLER, SLOWEST = 3.5, 3.0
GROUPS = tuple(dict.fromkeys(t.group for t in TOOLS if t.group != OURS))
MARKS = {ONNX: "", TFLITE: "†", COREML: "‡"}
NOTES = "† on this CPU only, by LiteRT: nothing emulates the others for it. ‡ by our interpreter of MIL programs; never run on Core ML."


def put_between(path: Path, begin: str, end: str, text: str) -> None:
    """Put a table between its marks.

    Raises:
        SystemExit: the file has no marks.
    """
    content = path.read_text()
    if begin not in content or end not in content:
        sys.exit(f"{path.name} lacks the marks {begin} and {end}")
    path.write_text(f"{content.partition(begin)[0]}{begin}\n{text}\n{end}{content.partition(end)[2]}")


def smaller(results: dict[str, Any], row: Row) -> float:
    """Times smaller than the source, as stored."""
    return float(results["models"][row["model"]]["stored_bytes"]) / float(row["stored_bytes"])


def keeps(row: Row, limit: float = LIMIT) -> bool:
    """Whether it is known to keep the quality wherever it can be checked: ONNX files on every kind of CPU."""
    if row.get("failure") or not row.get("quality") or row["quality"]["drop"] > limit + 1e-9:
        return False
    return (
        row["format"] != ONNX or row["float"] or (bool(row["classes"]) and all(c.get("holds") for c in row["classes"]))
    )


def best(rows: list[Row]) -> Row | None:
    """The smallest of those that keep the quality."""
    return min((r for r in rows if keeps(r)), key=lambda r: (r["stored_bytes"], r["tool"]), default=None)


def _of(results: dict[str, Any], model: str, *groups: str) -> list[Row]:
    return [r for r in results["rows"] if r["model"] == model and r["group"] in groups]


def ours(results: dict[str, Any], model: str) -> Row | None:
    """Our search at 0.5 %."""
    return next(iter(_of(results, model, OURS)), None)


def rival(results: dict[str, Any], model: str) -> Row | None:
    """The smallest of the peers' files that keep the quality; Core ML packages run on nothing that is compared here."""
    return best([r for r in _of(results, model, *GROUPS) if r["format"] != COREML])


def _untried(row: Row) -> bool:
    """Whether it may hold on every kind of CPU, and nobody has looked."""
    quality = row.get("quality")
    if not quality or quality["drop"] > LIMIT or row["format"] != ONNX or row["float"]:
        return False
    # Where one CPU has said no, the others do not matter.
    told = [c.get("holds") for c in row["classes"]]
    return False not in told and (not told or None in told)


def verdict(results: dict[str, Any], model: str) -> str:
    """Who is smallest."""
    mine, other = ours(results, model), rival(results, model)
    if mine is None:
        return "ours not run yet"
    if _untried(mine):
        return "ours not tried on every CPU yet"
    if not keeps(mine):
        return f"**lost**: {mine.get('failure') or 'ours does not hold everywhere'}"
    if other is None:
        return "smallest: no peer keeps 0.5 %"
    if mine["stored_bytes"] <= other["stored_bytes"]:
        return f"smallest, by {1 - mine['stored_bytes'] / other['stored_bytes']:.0%}"
    return f"**lost** to {other['group']}{MARKS[other['format']]} by {mine['stored_bytes'] / other['stored_bytes'] - 1:.0%}"


def targets(results: dict[str, Any]) -> list[str]:
    """One line for each target and model."""
    lines = []
    for model in results["models"]:
        mine = ours(results, model)
        peers = _of(results, model, *GROUPS)
        if mine is None or not peers or _untried(mine):
            lines.append(f"- {model}: not run yet")
            continue
        said = [f"smallest at ≤ 0.5 % on every class: {_kept(verdict(results, model).startswith('smallest'))}"]
        reached = [smaller(results, r) for r in (*peers, mine) if keeps(r) and r["format"] != COREML]
        if max(reached, default=0.0) >= SMALLER:
            times = smaller(results, mine) if keeps(mine) else 0.0
            said.append(f"≥ {SMALLER}× smaller than fp32: {_kept(times >= SMALLER)} ({times:.2f}×)")
        else:
            said.append(f"≥ {SMALLER}×: no method reaches it ({max(reached, default=0.0):.2f}×)")
        have = {r["tool"] for r in peers}
        left = [t.name for t in TOOLS if t.group != OURS and t.name not in have]
        slowest = max((r["seconds"] or 0.0 for r in peers), default=0.0)
        if mine.get("seconds"):
            share = mine["seconds"] / slowest if slowest else float("inf")
            said.append(
                f"search ≤ {SLOWEST:.0f} × the slowest peer: {_kept(share <= SLOWEST)} ({mine['seconds']:.0f} s, {share:.1f} × {slowest:.0f} s"
                f"{'' if not left else '; not run: ' + ', '.join(left)})"
            )
        lines.append(f"- {model}: {'; '.join(said)}")
    return lines


def _kept(yes: object) -> str:
    return "kept" if yes else "**not kept**"


def missing(results: dict[str, Any], models: tuple[str, ...]) -> list[str]:
    """Rows that are not there yet: model and tools."""
    have = {(r["model"], r["tool"]) for r in results["rows"]}
    found = []
    for model in models:
        left = [t.name for t in TOOLS if (model, t.name) not in have]
        if left:
            found.append(f"{model}: {'all' if len(left) == len(TOOLS) else ', '.join(left)}")
    return found


def readme(results: dict[str, Any], models: tuple[str, ...]) -> str:
    """One line for each model, one column for each maker."""
    lines = [
        f"| model | fp32 | **EdgeModel** | {' | '.join(GROUPS)} | |",
        f"|---|---|---|{'---|' * len(GROUPS)}---|",
    ]
    for model, about in results["models"].items():
        cells = [_cell(results, best(_of(results, model, g)), model, g) for g in (OURS, *GROUPS)]
        name = f"{model}: {about['kind']}"
        lines.append(
            f"| {name} | {format_bytes(about['stored_bytes'])} | {' | '.join(cells)} | {verdict(results, model)} |"
        )
    classes = ", ".join(f"{k} ({v})" for k, v in results["cpus"].items())
    have, total = len(results["rows"]), len(models) * len(TOOLS)
    absent = [m for m in models if m not in results["models"]]
    partial = f" **Partial: {have} of {total} rows**" if have < total else ""
    partial += f"; not begun: {', '.join(absent)}." if absent else "." if partial else ""
    return "\n".join(
        [
            *lines,
            "",
            (
                "Times smaller than fp32 as stored (zstd, what a node downloads), in brackets the latency over fp32's: of each maker the smallest"
                f" file that loses at most 0.5 % on every kind of CPU: {classes}. –: none does; ?: not verified on all of them, as two minutes of emulation were too short. {NOTES} `make bench-compress`"
                f" on {results['cores']} cores of {results['cpu']}, {results['date']}; quality, intervals, time and memory of each tool:"
                f" [docs/benchmarks.md](docs/benchmarks.md).{partial}"
            ),
        ]
    )


def _cell(results: dict[str, Any], row: Row | None, model: str, group: str) -> str:
    if row is None:
        rows = _of(results, model, group)
        if not rows:
            return "not run"
        open_ = min((r for r in rows if _untried(r)), key=lambda r: int(r["stored_bytes"]), default=None)
        if open_ is not None:
            return f"{smaller(results, open_):.2f}× ?"
        return "fails" if all(r.get("failure") for r in rows) else "–"
    latency = f" ({row['latency']['ratio']:.2f}×)" if row.get("latency") else ""
    text = f"{smaller(results, row):.2f}×{MARKS[row['format']]}{latency}"
    return f"**{text}**" if group == OURS else text


def page(results: dict[str, Any], models: tuple[str, ...]) -> str:
    """docs/benchmarks.md."""
    left = missing(results, models)
    parts = [
        "# Benchmark of compression",
        (
            "Made by `make bench-compress` from `benchmarks/results/compress.json`; do not edit. Each tool runs in a process of its own, peers in"
            " an environment of their own with what its documentation says to begin with; every file is then measured by the same code:"
        ),
        (
            "- **stored**: tar + zstd, what a node downloads, and the file beside it; of ours the largest of what the kinds of CPU get.\n"
            "- **drop** of quality on the validation data, relative to fp32, with its 95 % interval; against labels, or as agreement with fp32"
            " where there are none (the table of models says which).\n"
            "- **latency** over fp32's in alternating rounds, one thread, the session options that the agent serves with (all of onnxruntime's"
            f" optimizations); the median of three comparisons. The machine was shared while this ran (load {_load(results)}): trust ratios.\n"
            "- **CPUs**: on how many kinds of CPU the file holds: it runs there and loses at most the budget on 32 samples, half of them those on which"
            " fp32 is least sure. A file that is over the budget on this CPU is not run on the others, nor is one that is larger than another of the same maker"
            " that holds on all of them; a file that computes in floats (its weights may be stored small) computes the same everywhere. Natively or emulated by QEMU: "
            f"{', '.join(f'{k} {v}' for k, v in results['cpus'].items())}.\n"
            "- **time**, **memory**: wall time of the tool's process, and peak of its and its children's proportional set size. Ours has all"
            " measurements and verification in it; peers measure nothing, but for NNCF's accuracy control. A tool has ten minutes.\n"
            f"- {NOTES} TFLite and Core ML sources are written from the ONNX file by EdgeModel's own converters."
        ),
        f"{results['cores']} cores of {results['cpu']}, onnxruntime {results['onnxruntime']}, {results['date']}."
        + (f" **Partial**; not run yet: {'; '.join(left)}." if left else ""),
        "![Times smaller than fp32, by model and tool](benchmarks.svg)",
        "## Targets\n" + "\n".join(targets(results)),
        "## Models\n" + _models(results),
    ]
    parts += [f"## {m}\n{verdict(results, m)}\n\n{_rows(results, m)}" for m in results["models"]]
    parts.append("## Versions\n" + "\n".join(f"- {v}" for v in _versions(results)))
    return "\n\n".join(parts) + "\n"


def _load(results: dict[str, Any]) -> str:
    loads = [r["latency"]["load"] for r in results["rows"] if r.get("latency")]
    return f"{min(loads):.0f} to {max(loads):.0f}" if loads else "unknown"


def _models(results: dict[str, Any]) -> str:
    lines = [
        "| model | kind | from | data | quality by | file | stored | latency |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, a in results["models"].items():
        judged = f"{a['metric']} against {'labels' if a['against'] == 'Labels' else 'fp32'}, {a['samples']} samples: {a['quality']:.4f}"
        lines.append(
            f"| {name} | {a['kind']} | {a['origin']} | {a['inputs']} | {judged} | {format_bytes(a['file_bytes'])} |"
            f" {format_bytes(a['stored_bytes'])} | {format_seconds(a['latency_seconds'])} |"
        )
    return "\n".join(lines)


def _rows(results: dict[str, Any], model: str) -> str:
    lines = [
        "| tool | stored | file | drop [95 %] | latency [95 %] | CPUs | time | memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    order = sorted(results["rows"], key=lambda r: (bool(r.get("failure")), r.get("stored_bytes") or 0))
    for row in (r for r in order if r["model"] == model):
        name = f"**{row['group']}** {row['title']}" if row["group"] == OURS else f"{row['group']} {row['title']}"
        spent = f"{row['seconds']:.0f} s" if row["seconds"] is not None else ""
        memory = format_bytes(row["peak_bytes"]) if row["peak_bytes"] else ""
        if row.get("failure"):
            lines.append(f"| {name} | fails: {_plain(row['failure'])} | | | | | {spent} | {memory} |")
            continue
        q = row["quality"]
        drop = f"{q['drop']:.2%} [{q['drop_low']:.2%}, {q['drop_high']:.2%}]"
        spread = row.get("latency")
        latency = f"{spread['ratio']:.2f}× [{spread['low']:.2f}, {spread['high']:.2f}]" if spread else ""
        lines.append(
            f"| {name}{_variant(row)} | {format_bytes(row['stored_bytes'])} ({smaller(results, row):.2f}×) |"
            f" {format_bytes(row['file_bytes'])} | {drop} | {latency} | {_cpus(row)} | {spent} | {memory} |"
        )
    return "\n".join(lines)


def _variant(row: Row) -> str:
    return "".join(f" `{name}`" for name in dict.fromkeys(row["variants"].values()))


def _cpus(row: Row) -> str:
    if row["format"] != ONNX:
        return MARKS[row["format"]]
    if row["float"]:
        return "floats"
    if not row["classes"]:
        over = row["quality"]["drop"] > LIMIT
        return "over the budget here" if over else "not run: larger than another of the same maker"
    count = sum(bool(c.get("holds")) for c in row["classes"])
    broken = [c for c in row["classes"] if not c.get("holds")]
    told = "; ".join(f"{c['hardwareClass']}: {_plain(c.get('message') or 'not known')}" for c in broken)
    return f"{count} of {len(row['classes'])}" + (f" ({told})" if told else "")


def _plain(text: str) -> str:
    return " ".join(text.replace("|", "/").split())[:320]


def _versions(results: dict[str, Any]) -> list[str]:
    return sorted({v for r in results["rows"] for v in r["versions"]})


def picture(results: dict[str, Any], path: Path) -> None:
    """Times smaller by model; filled: keeps 0.5 % wherever it was checked."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams.update({"svg.hashsalt": "edgemodel", "font.size": 9, "svg.fonttype": "none"})
    names = list(results["models"])
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.55 * len(names)))
    groups = (OURS, *GROUPS)
    for g, group in enumerate(groups):
        for filled in (True, False):
            rows = [
                r
                for r in results["rows"]
                if r["group"] == group and r.get("stored_bytes") and not r.get("failure") and keeps(r) is filled
            ]
            axes.scatter(
                [smaller(results, r) for r in rows],
                [names.index(r["model"]) + (g - len(groups) / 2) * 0.09 for r in rows],
                s=70 if group == OURS else 28,
                marker="*" if group == OURS else "os^Dv<>"[g % 7],
                facecolors=f"C{g}" if filled else "none",
                edgecolors=f"C{g}",
                label=group if filled else None,
            )
    axes.set_xscale("log")
    ticks = [1, 2, 3, 4, 6, 8, 12, 16]
    axes.set_xticks(ticks, [f"{t}×" for t in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.axvline(SMALLER, color="0.7", linewidth=0.8)
    axes.set_xlabel("times smaller than fp32 as stored; filled: loses at most 0.5 % wherever it was checked")
    axes.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.45, 1.0), frameon=False)
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)
