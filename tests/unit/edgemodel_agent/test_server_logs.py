"""Logs of model servers do not pile up on a node; what an agent no longer needs leaves no empty folders."""

import os
import socket

import pytest

from edgemodel_agent import server_logs
from edgemodel_agent.files import remove_file, remove_folder
from edgemodel_agent.processes import bind_listener, port_of
from edgemodel_agent.server_logs import KEEP, MAX_BYTES, log_path, tidy
from edgemodel_api.errors import RefusedError


def digest(number: int) -> str:
    return f"sha256:{number:064x}".replace("000000000000", f"{number:012x}", 1)


def put(root, key: str, number: int, content: bytes = b"ready\n"):
    path = log_path(root, key, digest(number))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (number, number))
    return path


def test_each_models_newest_logs_stay_and_others_go(tmp_path):
    ours = [put(tmp_path, "vision/m", n) for n in range(1, KEEP + 3)]
    like_ours = put(tmp_path, "vision/m-2", 1)
    gone = put(tmp_path, "sound/m", 99)
    foreign = tmp_path / "logs" / "notes.txt"
    foreign.write_text("somebody's")
    tidy(tmp_path, {"vision/m", "vision/m-2"})
    assert [p.exists() for p in ours] == [False, False, *[True] * KEEP]
    assert (like_ours.exists(), gone.exists(), foreign.exists()) == (True, False, True)


def test_a_long_log_keeps_its_end_and_the_server_goes_on_in_the_same_file(tmp_path):
    path = put(tmp_path, "vision/m", 1, b"")
    with open(path, "ab", buffering=0) as server:
        server.write(b"".join(b"line %07d\n" % n for n in range(MAX_BYTES // 12)))
        server.write(b"the last\n" * 20)
        tidy(tmp_path, {"vision/m"})
        server.write(b"afterwards\n")
    lines = path.read_bytes().splitlines()
    assert path.stat().st_size <= server_logs.TAIL_BYTES + 100
    assert lines[-2:] == [b"the last", b"afterwards"]
    assert lines[0] == b"..."
    assert lines[1].startswith(b"line ")


def test_a_store_without_logs_is_tidy(tmp_path):
    tidy(tmp_path, {"vision/m"})
    assert list(tmp_path.iterdir()) == []


def test_the_last_one_out_takes_the_namespace_with_it(tmp_path):
    first, second = (tmp_path / "models" / "vision" / name for name in ("a", "b"))
    for folder in (first, second):
        (folder / "current").mkdir(parents=True)
    remove_folder(first)
    assert second.exists()
    remove_folder(second)
    assert list((tmp_path / "models").iterdir()) == []
    trial = tmp_path / "trials" / "vision" / "a.json"
    trial.parent.mkdir(parents=True)
    trial.touch()
    remove_file(trial)
    remove_file(trial)
    assert list((tmp_path / "trials").iterdir()) == []


def test_who_has_the_port_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = port_of(taken)
        with pytest.raises(RefusedError, match=rf"port {port} .*in use by \S+, process {os.getpid()}\): free it"):
            bind_listener("127.0.0.1", port)
