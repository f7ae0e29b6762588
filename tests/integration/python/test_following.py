"""Progress is seen where somebody looks, and a function of the user's cannot break the Job's pipe."""

import sys
import types

import pytest

from edgemodel.following import WIDTH, following
from edgemodel_api.job import Progress

FETCH = Progress(stage="fetch", message="source")


def test_a_log_gets_lines(capsys):
    with following(True) as follower:
        follower(FETCH)
    assert capsys.readouterr().err.endswith("compression: fetch: source\n")


def test_a_notebook_gets_one_line_that_goes_away(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    with following(True) as follower:
        follower(FETCH)
        follower(Progress(stage="candidates", done=1, total=3, message="x" * 300))
    parts = capsys.readouterr().err.split("\r")
    assert parts[0] == parts[-1] == ""
    assert [p.split(" ")[0] for p in parts[1:3]] == ["fetch:", "candidates"]
    assert {len(p) for p in parts[1:-1]} == {WIDTH}
    assert not parts[-2].strip()


@pytest.mark.parametrize("silent", [None, False])
def test_silence(capsys, silent):
    with following(silent) as follower:
        follower(FETCH)
        follower.check()
    assert capsys.readouterr() == ("", "")


def test_what_a_function_raises_is_kept_and_it_is_not_called_again():
    calls = []

    def call(progress):
        calls.append(progress)
        raise KeyError("x")

    with following(call) as follower:
        follower(FETCH)
        follower(FETCH)
        with pytest.raises(KeyError):
            follower.check()
    assert calls == [FETCH]
