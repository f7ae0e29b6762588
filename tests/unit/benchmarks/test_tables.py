"""The benchmark's verdicts: who is smallest, whose file counts, what is said of what is missing."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def tables(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("tables")


CLASSES = ("amd64-vnni", "amd64-avx2", "arm64-base")


def row(tool: str, group: str, stored: int, drop: float = 0.001, **other: Any) -> dict[str, Any]:
    return {
        "model": "m",
        "tool": tool,
        "group": group,
        "title": tool,
        "format": "ONNX",
        "versions": [f"{group}==1"],
        "seconds": 10.0,
        "peak_bytes": 2**20,
        "variants": {},
        "float": False,
        "stored_bytes": stored,
        "file_bytes": 2 * stored,
        "quality": {"value": 0.9, "drop": drop, "drop_low": drop - 0.001, "drop_high": drop + 0.001},
        "latency": {"ratio": 1.25, "low": 1.2, "high": 1.3, "load": 2.0},
        "classes": [{"hardwareClass": k, "holds": True} for k in CLASSES],
        **other,
    }


def results(*rows: dict[str, Any]) -> dict[str, Any]:
    about = {
        "kind": "CNN",
        "origin": "p 1, MIT",
        "inputs": "drawn",
        "metric": "Top1",
        "against": "Labels",
        "samples": 100,
        "quality": 0.9,
        "file_bytes": 1100,
        "stored_bytes": 1000,
        "latency_seconds": 0.01,
    }
    return {
        "date": "2026-01-01",
        "cpu": "a CPU",
        "cores": 2,
        "onnxruntime": "1",
        "cpus": dict.fromkeys(CLASSES, "x"),
        "models": {"m": about},
        "rows": list(rows),
    }


OURS = row("edgemodel-0.5", "EdgeModel", 200)


def test_ours_is_smallest_where_it_is(tables: ModuleType) -> None:
    found = results(OURS, row("ort-static", "onnxruntime", 250))
    assert tables.verdict(found, "m") == "smallest, by 20%"
    assert "| **5.00× (1.25×)** |" in tables.readme(found, ("m",))


def test_where_we_lose_the_table_says_so(tables: ModuleType) -> None:
    found = results(OURS, row("ort-static", "onnxruntime", 160))
    assert tables.verdict(found, "m") == "**lost** to onnxruntime by 25%"
    assert "smallest at ≤ 0.5 % on every class: **not kept**" in tables.targets(found)[0]


@pytest.mark.parametrize(
    "worse",
    [
        {"drop": 0.006},
        {"classes": [{"hardwareClass": "amd64-vnni", "holds": True}, {"hardwareClass": "amd64-avx2", "holds": False}]},
        {"classes": [{"hardwareClass": "amd64-vnni", "holds": True}, {"hardwareClass": "arm64-base"}]},
        {"classes": []},
        {"failure": "Segmentation fault"},
    ],
)
def test_a_file_counts_only_where_it_is_known_to_hold_everywhere(tables: ModuleType, worse: dict[str, Any]) -> None:
    found = results(OURS, row("ort-static", "onnxruntime", 100, **worse))
    assert tables.verdict(found, "m") == "smallest: no peer keeps 0.5 %"


def test_nothing_is_said_of_a_file_that_nobody_tried(tables: ModuleType) -> None:
    found = results({**OURS, "classes": []}, row("ort-static", "onnxruntime", 250))
    assert tables.verdict(found, "m") == "ours not tried on every CPU yet"
    assert tables.targets(found) == ["- m: not run yet"]


def test_core_ml_is_shown_but_runs_nowhere_here(tables: ModuleType) -> None:
    found = results(OURS, row("coreml-palette4", "coremltools", 100, format="CoreML", classes=[], latency=None))
    assert tables.verdict(found, "m").startswith("smallest")
    assert "10.00×‡" in tables.readme(found, ("m",))


def test_a_smaller_tflite_file_is_a_loss_though_it_ran_on_one_cpu_only(tables: ModuleType) -> None:
    found = results(OURS, row("aeq-weights", "ai-edge-quantizer", 100, format="TFLite", classes=[]))
    assert tables.verdict(found, "m") == "**lost** to ai-edge-quantizer† by 100%"


def test_targets_are_computed(tables: ModuleType) -> None:
    slow = {**OURS, "seconds": 31.0}
    (line,) = tables.targets(results(slow, row("nncf", "NNCF", 300)))
    assert "≥ 3.5× smaller than fp32: kept (5.00×)" in line
    assert "search ≤ 3 × the slowest peer: **not kept** (31 s, 3.1 × 10 s; not run: onnxsim, ort-dynamic" in line
    (line,) = tables.targets(results({**OURS, "stored_bytes": 400}, row("nncf", "NNCF", 300)))
    assert "≥ 3.5×: no method reaches it (3.33×)" in line
    assert tables.targets(results(OURS)) == ["- m: not run yet"]


def test_what_was_not_run_is_listed(tables: ModuleType) -> None:
    found = results(OURS, row("ort-static", "onnxruntime", 250))
    left = tables.missing(found, ("m", "other"))
    assert left[1] == "other: all"
    assert "nncf-accuracy" in left[0]
    assert "ort-static," not in left[0]
    assert "**Partial**" in tables.page(found, ("m", "other"))


def test_a_failed_peer_is_a_row_with_its_own_words(tables: ModuleType) -> None:
    failed = {k: v for k, v in row("nncf", "NNCF", 1).items() if k not in ("quality", "latency", "stored_bytes")}
    page = tables.page(results(OURS, {**failed, "failure": "RuntimeError: no | such\nop"}), ("m",))
    assert "| NNCF nncf | fails: RuntimeError: no / such op |" in page


def test_the_picture_is_the_same_for_the_same_results(tables: ModuleType, tmp_path: Path) -> None:
    found = results(OURS, row("ort-static", "onnxruntime", 250, drop=0.1))
    tables.picture(found, tmp_path / "a.svg")
    tables.picture(found, tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
