"""Small parts at the agent's rim: faults, runtime folder, objects, options, files mode."""

import json
import os
import stat
import tempfile
from pathlib import Path

import pytest

from edgemodel_agent.faults import Rehearsal
from edgemodel_agent.files_mode import current_file, laid_down, lay_down, tidy
from edgemodel_agent.objects import Desired, DirectoryObjects
from edgemodel_agent.runtime_dir import runtime_dir
from edgemodel_api.edgenode import EdgeNodeSpec, EdgeNodeStatus
from edgemodel_api.errors import InputError


@pytest.mark.parametrize(
    ("served", "digest", "applies"),
    [((), "new", False), (("a",), "new", True), (("a",), "a", False), (("a", "b"), "new", True), (("a", "b"), "b", False)],
    ids=["nothing served yet", "the second one", "what was served", "a later one", "back to an earlier one"],
)  # fmt: skip
def test_rehearsal_after_one_revision(served, digest, applies):
    assert Rehearsal.parse('{"fault": "WrongOutput", "after": 1}').applies(digest, served) is applies


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"fault": "Fire"}', '{"fault": "Slow", "after": -1}', '{"fault": "Slow", "when": 1}']
)
def test_bad_rehearsal_says_how_to_write_it(text):
    with pytest.raises(InputError, match=r'write it as \{"fault": "WrongOutput"'):
        Rehearsal.parse(text)


@pytest.fixture
def short():
    """A folder with a short name, as XDG_RUNTIME_DIR is."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="em") as name:
        yield Path(name)


def test_runtime_folder_is_private_and_short(short):
    folder = runtime_dir(short / "root", {"XDG_RUNTIME_DIR": str(short)})
    assert short in folder.parents
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert len(os.fsencode(folder)) <= 64


def test_without_a_usable_xdg_folder_it_lies_in_tmp(tmp_path):
    long = tmp_path / ("x" * 80)
    long.mkdir()
    for given in (str(long), "/no/such/folder", ""):
        folder = runtime_dir(tmp_path, {"XDG_RUNTIME_DIR": given})
        assert folder.parent == Path(f"/tmp/edgemodel-{os.getuid()}")
        folder.rmdir()


def test_two_roots_have_two_folders_and_one_root_has_one(short):
    (short / "link").symlink_to(short / "a")
    folders = [runtime_dir(short / n, {"XDG_RUNTIME_DIR": str(short)}) for n in ("a", "b", "link")]
    assert folders[0] == folders[2] != folders[1]


def test_a_link_in_its_place_is_refused(short):
    (short / "elsewhere").mkdir()
    (short / "edgemodel").symlink_to(short / "elsewhere")
    with pytest.raises(InputError, match="is not a folder of user"):
        runtime_dir(short / "root", {"XDG_RUNTIME_DIR": str(short)})


def test_objects_round_trip(tmp_path):
    objects = DirectoryObjects(tmp_path, "n1")
    assert objects.read_desired() is None
    objects.register({"zone": "a"})
    assert json.loads((tmp_path / "edgenodes/n1/meta.json").read_text()) == {"name": "n1", "labels": {"zone": "a"}}
    (objects.folder / "spec.json").write_text(json.dumps({"generation": 3, "spec": EdgeNodeSpec().to_json()}))
    assert objects.read_desired() == Desired(3, EdgeNodeSpec())
    objects.write_status(EdgeNodeStatus(observed_generation=3))
    assert EdgeNodeStatus.model_validate_json((objects.folder / "status.json").read_text()).observed_generation == 3


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"generation": 1}', '{"generation": "x", "spec": {}}', '{"generation": 1, "spec": {"models": 5}}'],
)
def test_a_broken_spec_is_no_wish_to_stop_everything(tmp_path, content, caplog):
    objects = DirectoryObjects(tmp_path, "n1")
    objects.folder.mkdir(parents=True)
    (objects.folder / "spec.json").write_text(content)
    assert objects.read_desired() is None
    assert objects.read_desired() is None
    assert len(caplog.records) == 1, "said once, not at every pass"


def test_files_mode_switches_one_link(tmp_path, build):
    folder = tmp_path / "models"
    a, b = tmp_path / "a.onnx", tmp_path / "b.onnx"
    a.write_bytes(b"a")
    b.write_bytes(b"b")
    path = lay_down(folder, build.target("A"), a)
    assert path.read_bytes() == b"a"
    assert laid_down(folder, build.target("A"))
    assert lay_down(folder, build.target("B"), b) == path
    assert path.read_bytes() == b"b"
    assert not laid_down(folder, build.target("A"))
    assert json.loads((path.parent / "variant.json").read_text())["revision"] == "rev-B"
    tidy(folder, [build.target("B")])
    assert path.read_bytes() == b"b"
    assert len(list((folder / "versions").iterdir())) == 1
    tidy(folder, [])
    assert not (folder / "current").is_symlink()


def test_files_mode_keeps_the_name_of_the_format(tmp_path, build):
    folder = tmp_path / "models"
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"a")
    b.write_bytes(b"b")
    lay_down(folder, build.target("A"), a)
    path = lay_down(folder, build.target("B"), b, name="model.tflite")
    assert path == current_file(folder) == folder / "current" / "model.tflite"
    assert path.read_bytes() == b"b"
    assert laid_down(folder, build.target("B"))
    assert json.loads((path.parent / "variant.json").read_text())["file"] == "model.tflite"
    assert not (folder / "current" / "model.onnx").exists()
    path.unlink()
    assert not laid_down(folder, build.target("B"))
    lay_down(folder, build.target("A"), a)
    assert current_file(folder) == folder / "current" / "model.onnx"


def test_files_mode_works_where_hard_links_do_not(tmp_path, build, monkeypatch):
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a").write_bytes(b"a")
    assert lay_down(tmp_path / "m", build.target("A"), tmp_path / "a").read_bytes() == b"a"
