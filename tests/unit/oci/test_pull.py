"""Resume from whatever an earlier call left; nothing wrong is ever kept."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgemodel_api import reasons
from edgemodel_api.errors import InputError, TransientError
from edgemodel_oci import pull
from edgemodel_oci.descriptor import Descriptor
from edgemodel_oci.pull import fetch_blob


@pytest.fixture(autouse=True)
def waits(monkeypatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(pull, "SLEEP", found.append)
    return found


@pytest.fixture
def wanted(layout, content) -> Descriptor:
    return layout.put_blob(content)


PARTS = {
    "none": lambda c: None,
    "empty": lambda c: b"",
    "a byte": lambda c: c[:1],
    "half": lambda c: c[: len(c) // 2],
    "all": lambda c: c,
    "other bytes": lambda c: b"x" * 1000,
    "zeros after a power cut": lambda c: c[:1000] + bytes(1000),
    "all but wrong": lambda c: c[:-1] + b"x",
    "too long": lambda c: c + b"x",
}
DAMAGED = {"other bytes", "zeros after a power cut", "all but wrong"}


@pytest.mark.parametrize("name", PARTS)
def test_every_kind_of_part(layout, wanted, content, tmp_path, name):
    part = PARTS[name](content)
    if part is not None:
        (tmp_path / "blob.part").write_bytes(part)
    seen = []
    stats = fetch_blob(layout, wanted, tmp_path / "blob", progress=lambda *p: seen.append(p))
    assert (tmp_path / "blob").read_bytes() == content
    assert not (tmp_path / "blob.part").exists()
    assert stats.retries == (name in DAMAGED)
    if name not in DAMAGED:
        kept = len(part or b"") if name != "too long" else 0
        assert stats.bytes == len(content) - kept
        assert seen[0] == (kept, len(content))
    assert seen[-1] == (len(content), len(content))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300), part=st.binary(max_size=400), prefix=st.integers(0, 300))
def test_any_part_ends_in_the_right_file(layout, tmp_path, data, part, prefix):
    descriptor = layout.put_blob(data)
    (tmp_path / "blob.part").write_bytes(data[:prefix] + part)
    fetch_blob(layout, descriptor, tmp_path / "blob")
    assert (tmp_path / "blob").read_bytes() == data


def test_a_part_that_is_a_link_is_not_followed(layout, wanted, content, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(content[:10])
    (tmp_path / "blob.part").symlink_to(victim)
    fetch_blob(layout, wanted, tmp_path / "blob")
    assert victim.read_bytes() == content[:10]
    assert (tmp_path / "blob").read_bytes() == content
    assert not (tmp_path / "blob").is_symlink()


def test_a_part_that_is_a_pipe_does_not_hang(layout, wanted, content, tmp_path):
    os.mkfifo(tmp_path / "blob.part")
    fetch_blob(layout, wanted, tmp_path / "blob")
    assert (tmp_path / "blob").read_bytes() == content


class Broken:
    """A repository whose connections end as scripted: each item is (bytes to send, error or None)."""

    def __init__(self, content: bytes, *script) -> None:
        self.content, self.script, self.offsets, self.closed = content, list(script), [], 0
        self.reference = "oci://registry.example.com/a"

    def open_blob(self, digest, offset=0):
        self.offsets.append(offset)
        size, error = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        try:
            for start in range(offset, offset + size, 1000):
                yield self.content[start : min(start + 1000, offset + size)]
            if error:
                raise error
        finally:
            self.closed += 1


CUT = TransientError("cut")


def test_breaks_are_resumed(wanted, content, tmp_path):
    repo = Broken(content, (70_000, CUT), (0, CUT), (5_000, None), (5_000, None))
    stats = fetch_blob(repo, wanted, tmp_path / "blob")
    assert (tmp_path / "blob").read_bytes() == content
    assert repo.offsets == [0, 70_000, 70_000, 75_000]
    assert repo.closed == 4
    assert (stats.bytes, stats.retries) == (len(content), 3)


def test_a_link_that_gives_nothing_is_given_up_and_the_part_stays(wanted, content, tmp_path, waits):
    repo = Broken(content, (10, CUT))
    with pytest.raises(TransientError, match="cut"):
        fetch_blob(repo, wanted, tmp_path / "blob")
    assert len(repo.offsets) == pull.TRIES
    assert len(waits) == pull.TRIES - 1
    assert (tmp_path / "blob.part").read_bytes() == content[: 10 * pull.TRIES]


def test_a_link_that_moves_is_not_given_up(tmp_path, layout):
    content = bytes(range(256)) * 4000
    repo = Broken(content, (pull.PROGRESS_BYTES, CUT))
    repo.content = content + bytes(pull.PROGRESS_BYTES)
    wanted = layout.put_blob(content[: pull.PROGRESS_BYTES * 15])
    stats = fetch_blob(repo, wanted, tmp_path / "blob")
    assert stats.retries > pull.TRIES


@pytest.mark.parametrize("wrong", ["changed", "longer"])
def test_wrong_bytes_are_not_kept(wanted, content, tmp_path, wrong):
    sent = content[:-1] + b"x" if wrong == "changed" else content + b"x" * 5000
    with pytest.raises(TransientError, match="changed") as caught:
        fetch_blob(Broken(sent, (len(sent), None)), wanted, tmp_path / "blob")
    assert caught.value.reason == reasons.DIGEST_MISMATCH
    assert os.listdir(tmp_path) == ["layout"]


def test_no_more_than_the_size_is_written(wanted, content, tmp_path):
    largest = 0

    def watch(done, total):
        nonlocal largest
        largest = max(largest, (tmp_path / "blob.part").stat().st_size)

    with pytest.raises(TransientError):
        fetch_blob(Broken(content * 3, (len(content) * 3, None)), wanted, tmp_path / "blob", progress=watch)
    assert largest <= len(content)


def test_progress_may_stop_it(wanted, content, tmp_path):
    repo = Broken(content, (len(content), None))

    def stop(done, total):
        if done >= 3000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_blob(repo, wanted, tmp_path / "blob", progress=stop)
    assert repo.closed == 1
    assert (tmp_path / "blob.part").read_bytes() == content[:3000]


def test_a_folder_that_is_not_there(layout, wanted, tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        fetch_blob(layout, wanted, tmp_path / "none" / "blob")


def test_a_digest_that_names_another_path(layout, tmp_path):
    with pytest.raises(InputError, match="is not a digest"):
        fetch_blob(layout, Descriptor("application/x", "sha256:../../x", 1), tmp_path / "blob")
