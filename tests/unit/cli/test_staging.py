"""The folder in which a compression works goes with it, or with the next one where it was killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgemodel_api.errors import InputError
from edgemodel_cli.embedded.staging import OLD, clear_stale, staging

KILLED = """
import os, signal, sys
from pathlib import Path
from edgemodel_cli.embedded.staging import staging
with staging(Path(sys.argv[1])) as folder:
    for name in sys.argv[2:]:
        (folder / name).mkdir()
        (folder / name / "model.onnx").write_text("model")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(out: Path, *inside: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, out, *inside], check=False)
    assert done.returncode == -9
    assert any(p.name.startswith(f".{out.name}.") for p in out.parent.iterdir())


def test_it_goes_at_the_end(tmp_path):
    out = tmp_path / "a" / "out"
    with staging(out) as folder:
        assert folder.parent == out.parent
        (folder / "x").write_text("x")
    assert os.listdir(out.parent) == []


@pytest.mark.parametrize("name", ["out", "[o]ut*"])
def test_of_a_killed_process_it_is_removed_by_the_next(tmp_path, name):
    out = tmp_path / name
    killed(out, "out", "job")
    clear_stale(out)
    assert os.listdir(tmp_path) == []


def test_what_lives_stays_and_so_does_what_is_somebody_elses(tmp_path):
    out = tmp_path / "out"
    (tmp_path / ".out.mine.tmp").mkdir()
    killed(tmp_path / "other")
    with staging(out) as folder:
        (folder / "x").write_text("x")
        clear_stale(out)
        assert (folder / "x").exists()
        assert len(os.listdir(tmp_path)) == 3
    assert (tmp_path / ".out.mine.tmp").is_dir()


def test_that_of_another_out_whose_name_begins_alike_stays(tmp_path):
    killed(tmp_path / "m.v2", OLD)
    clear_stale(tmp_path / "m")
    assert not (tmp_path / "m").exists()
    clear_stale(tmp_path / "m.v2")
    assert (tmp_path / "m.v2" / "model.onnx").read_text() == "model"


def test_an_earlier_result_that_was_moved_aside_is_put_back(tmp_path):
    out = tmp_path / "out"
    killed(out, OLD)
    clear_stale(out)
    assert (out / "model.onnx").read_text() == "model"
    assert os.listdir(tmp_path) == ["out"]
    killed(out, OLD)
    (out / "model.onnx").write_text("newer")
    clear_stale(out)
    assert (out / "model.onnx").read_text() == "newer"


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--out .* cannot be written"), staging(tmp_path / "file" / "out"):
        pass
    clear_stale(tmp_path / "file" / "out")
