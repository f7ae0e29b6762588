"""`examples/file-type/demo.py` from its first act to its last, with few files and one recipe instead of a search."""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parents[3] / "examples" / "file-type"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]


@pytest.fixture
def demo(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(FOLDER)
    before = set(sys.modules)
    module = importlib.import_module("demo")
    monkeypatch.setattr(module.prepare, "VALIDATION_PER_TYPE", 2)
    monkeypatch.setattr(module.prepare, "DATA", tmp_path / "data")
    manifest = yaml.safe_load(module.MANIFEST.read_text())
    manifest["spec"]["compression"] = {
        "budget": {"maxQualityDrop": "3%", "maxSlowdown": "300%"},
        "steps": [{"quantize": {"precision": "Int8", "activations": "None"}}],
    }
    monkeypatch.setattr(module, "HERE", tmp_path)
    monkeypatch.setattr(module, "MANIFEST", tmp_path / "edgemodel.yaml")
    module.MANIFEST.write_text(yaml.safe_dump(manifest))
    yield module
    for name in set(sys.modules) - before:
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_every_act_ends_as_it_should(demo, monkeypatch, tmp_path, capfd):
    document, script = tmp_path / "unknown.bin", tmp_path / "script"
    samples = importlib.import_module("samples")
    document.write_bytes(samples.pdf(random.Random(1)))
    script.write_bytes(FOLDER.joinpath("samples.py").read_bytes())
    workdir = tmp_path / "work"
    monkeypatch.setattr(sys, "argv", ["demo.py", "--workdir", str(workdir), str(document), str(script)])

    code = demo.main()

    said = capfd.readouterr()
    assert code == 0, said.out + said.err
    lines = said.out.splitlines()
    # The first act: both files are named, by the first revision.
    (pdf, *later) = [line for line in lines if ": unknown.bin is pdf, " in line]
    assert any(": script is python, " in line for line in lines)
    first = pdf.split("(")[1].split(",")[0]
    # The second act: each of the three nodes still answers by the first revision.
    assert [line.split(" ")[0] for line in later] == list(demo.NODES)
    assert all(f"({first}, " in line for line in later)
    assert "exit code 1" in said.out
    assert "GoldenMismatch" in said.out + said.err
    page = (workdir / "report.html").read_text()
    assert "Rolled back" in page
    assert f"<code>{first}</code>" not in page, "the report is about the second revision"
