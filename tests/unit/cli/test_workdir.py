import os
import re

import pytest

from edgemodel_api.errors import InputError
from edgemodel_cli.embedded.lock import workdir_lock
from edgemodel_cli.embedded.workdir import Workdir, existing_workdir, workdir_for


def test_default_lies_beside_the_manifest(make_model, tmp_path):
    assert workdir_for(make_model(), tmp_path, None).root == tmp_path / ".edgemodel" / "m"


def test_other_namespaces_have_a_folder_of_their_own(make_model, tmp_path):
    model = make_model()
    model = model.replace(metadata=model.metadata.replace(namespace="team"))
    assert workdir_for(model, tmp_path, None).root == tmp_path / ".edgemodel" / "team" / "m"


def test_given_one_is_absolute(make_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    from pathlib import Path

    assert workdir_for(make_model(), tmp_path, Path("w")).root == tmp_path / "w"


def test_made_twice(tmp_path):
    workdir = Workdir(tmp_path / "a" / "b")
    workdir.make()
    workdir.make()
    assert workdir.exists()


def test_refuses_a_folder_of_something_else(tmp_path):
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(InputError, match="holds files of something else"):
        Workdir(tmp_path).make()
    assert os.listdir(tmp_path) == ["thesis.txt"]


@pytest.mark.parametrize("below", ["", "x"])
def test_refuses_a_file(tmp_path, below):
    (tmp_path / "f").write_text("")
    with pytest.raises(InputError, match=r"a file|cannot be used"):
        Workdir(tmp_path / "f" / below).make()


def test_read_only(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(InputError, match="Read-only file system; name a folder that can be written with --workdir"):
        Workdir(tmp_path / "w").make()


def test_the_only_one_is_found(tmp_path):
    Workdir(tmp_path / ".edgemodel" / "m").make()
    assert existing_workdir(None, tmp_path).root == tmp_path / ".edgemodel" / "m"


def test_none_is_found(tmp_path):
    with pytest.raises(InputError, match="name one with --workdir"):
        existing_workdir(None, tmp_path)


def test_several_are_named(tmp_path):
    Workdir(tmp_path / ".edgemodel" / "m").make()
    Workdir(tmp_path / ".edgemodel" / "team" / "n").make()
    with pytest.raises(InputError, match=r"more than one workdir .*m, .*team/n"):
        existing_workdir(None, tmp_path)


def test_a_given_one_must_be_a_workdir(tmp_path):
    with pytest.raises(InputError, match="no edgemodel run worked there"):
        existing_workdir(tmp_path, tmp_path)


def test_lock_says_who_holds_it(tmp_path):
    expected = re.escape(f"in use by edgemodel run -f a.yaml (process {os.getpid()}, since ")
    with workdir_lock(tmp_path, "run -f a.yaml"):
        with pytest.raises(InputError, match=expected), workdir_lock(tmp_path, "stop"):
            pytest.fail("two at once")
        # The one that was refused leaves the holder's note alone.
        with pytest.raises(InputError, match=expected), workdir_lock(tmp_path, "stop"):
            pytest.fail("two at once")
    with workdir_lock(tmp_path, "stop"):
        pass
