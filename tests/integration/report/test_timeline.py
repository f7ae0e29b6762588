"""timeline.jsonl: what is written is read, and a writer that was killed spoils one line at most."""

from __future__ import annotations

import pytest

from edgemodel_cli import timeline


def test_round_trip(make, tmp_path):
    path = tmp_path / "timeline.jsonl"
    changes = (make.change(0, "a", "Serving", message="häuser\nzwei"), *make.life("b", 1, 4))
    timeline.append(path, changes[:2])
    timeline.append(path, [])
    timeline.append(path, changes[2:])
    assert timeline.read(path) == changes
    assert len(path.read_bytes().splitlines()) == len(changes)


def test_no_file_no_changes(tmp_path):
    assert timeline.read(tmp_path / "none") == ()


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_half_a_line_is_left_out_and_does_not_spoil_the_next(make, tmp_path, cut):
    path = tmp_path / "timeline.jsonl"
    first, lost, last = make.life("a", 0, 1)[:3]
    timeline.append(path, [first, lost])
    path.write_bytes(path.read_bytes()[:-cut])
    timeline.append(path, [last])
    # Cut off by its line break alone, the line is whole.
    assert timeline.read(path) == ((first, lost, last) if cut == 1 else (first, last))


@pytest.mark.parametrize("line", [b"\xff\xfe", b"[]", b"{}", b'{"at": "then", "node": "a", "state": "b"}', b"null"])
def test_other_lines_are_left_out(make, tmp_path, line):
    path = tmp_path / "timeline.jsonl"
    path.write_bytes(line + b"\n")
    timeline.append(path, [make.change(0, "a", "Serving")])
    assert [c.node for c in timeline.read(path)] == ["a"]
