"""The table of operators in docs/formats.md is that of the code."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def coverage():
    spec = importlib.util.spec_from_file_location("coverage_tool", ROOT / "tools" / "coverage.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NOTES = {
    "of another operator of the family": ("Pow", "Mod: int32", ""),
    "its own": ("Mod", "Mod: int32", "int32"),
    "of all": ("Pad", "constant pads; constant, reflect", "constant pads; constant, reflect"),
    "none": ("Add", "", ""),
}


@pytest.mark.parametrize(("op", "note", "shown"), NOTES.values(), ids=NOTES)
def test_a_note_stands_where_it_holds(coverage, op, note, shown):
    assert coverage.note_for(op, note) == shown


def test_counts_and_marks(coverage):
    found = (coverage.Column("A", {"Add": "", "Pad": "constant pads", "Mod": "Mod: int32", "Pow": "Mod: int32"}),)
    ops = ("Add", "Mod", "Pad", "Pow", "Sin")
    assert coverage.counts(ops, found).splitlines()[-1] == "| A | 4 of 5 | 2 | 2 |"
    assert [coverage.cell(op, found[0].ops) for op in ops] == ["✓", "◐ int32", "◐ constant pads", "✓", "–"]
    assert "Sin" not in coverage.table(ops, found)


def test_the_document_is_in_step_and_a_change_is_seen(coverage, tmp_path, capsys):
    assert coverage.main(["--check"]) == 0
    changed = tmp_path / "formats.md"
    changed.write_text(coverage.DOCUMENT.read_text().replace("| Add | ✓", "| Add | –"))
    assert coverage.main(["--check"], changed) == 1
    assert "run `make manifests`" in capsys.readouterr().err
    assert coverage.main([], changed) == 0
    assert changed.read_text() == coverage.DOCUMENT.read_text()
    changed.write_text("no place for it")
    assert coverage.main(["--check"], changed) == 1


def test_what_the_document_says_is_what_the_converters_say(coverage):
    columns = {c.title: c.ops for c in coverage.columns()}
    said = coverage.DOCUMENT.read_text()
    for line in said[said.index(coverage.BEGIN) : said.index("Beyond ONNX")].splitlines():
        op, *cells = (c.strip() for c in line.strip("|").split("|"))
        if len(cells) == len(columns) and op in coverage.standard():
            assert [c != "–" for c in cells] == [op in ops for ops in columns.values()], op
