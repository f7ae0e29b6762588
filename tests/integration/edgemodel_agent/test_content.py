"""Content that does not come, does not fit, or goes bad."""

import os
import subprocess

import pytest

from edgemodel_api.edgenode import ArtifactTarget, AssignedTrial


def test_registry_away_and_back(agent, registry, ask):
    one, two = registry.one("r1", 1.0), registry.one("r2", 2.0)
    agent.start()
    agent.assign(one)
    endpoint = agent.wait_serving(one).running.endpoint
    away = registry.folder.with_name("away")
    registry.folder.rename(away)
    agent.assign(two)
    model = agent.wait("retries", lambda a: (m := a.model()) and m.download_retries >= 2 and m)
    assert model.state == "Downloading"
    assert model.reason == "DownloadFailed"
    assert model.running.digest == one.digest
    assert ask(endpoint) == 1.0
    agent.kill()
    agent.start()  # the back-off survives
    agent.wait("still there", lambda a: (m := a.model()) and m.running and m.download_retries >= 2)
    away.rename(registry.folder)
    agent.wait_serving(two)
    assert ask(endpoint) == 2.0


def test_no_disk_rehearsed(agent, registry, ask):
    one, two = registry.one("r1", 1.0), registry.one("r2", 2.0)
    agent.start("--rehearse", '{"fault": "NoDisk", "after": 1}')
    agent.assign(one)
    endpoint = agent.wait_serving(one).running.endpoint
    agent.assign(two)
    model = agent.wait_failed(two)
    assert model.reason == "DiskFull"
    assert ask(endpoint) == 1.0


def test_no_disk_is_rehearsed_where_a_trial_fetched_the_variant_before(agent, registry):
    one, two = registry.one("r1", 1.0), registry.one("r2", 2.0)
    agent.start("--rehearse", '{"fault": "NoDisk", "after": 1}')
    agent.assign(one)
    agent.wait_serving(one)
    agent.assign(one, trials=(AssignedTrial(namespace="default", name="m", revision="r2", candidates=(two,)),))
    agent.wait("the trial ends", lambda a: (s := a.status()).trials and s.trials[0].done)
    agent.assign(two)
    assert agent.wait_failed(two).reason == "DiskFull"


def test_reserve_is_kept_before_a_byte_is_written(agent, registry):
    target = registry.one("r1", 1.0)
    agent.start("--reserve", "900Ti")
    agent.assign(target)
    model = agent.wait_failed(target)
    assert model.reason == "DiskFull"
    assert "900" in model.message or "TiB" in model.message or "GiB" in model.message
    assert "are free" in model.message
    assert list((agent.root / "blobs/sha256").iterdir()) == []


@pytest.fixture
def small_disk(agent):
    """A file system of 3 MiB below the agent's root."""
    agent.root.mkdir()
    if (
        os.getuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", agent.root], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("only root may mount a small file system; NoDisk is rehearsed in another test")
    yield agent
    agent.clean()
    subprocess.run(["umount", "-l", agent.root], check=True)


def test_a_disk_that_is_really_full(small_disk, registry, ask):
    agent = small_disk
    one, large = registry.one("r1", 1.0), registry.one("r2", 2.0, ballast=4_000_000)
    agent.start()
    agent.assign(one)
    endpoint = agent.wait_serving(one).running.endpoint
    agent.assign(large)
    model = agent.wait_failed(large)
    assert model.reason == "DiskFull"
    assert "free" in model.message
    assert model.running.digest == one.digest
    assert ask(endpoint) == 1.0
    small = registry.one("r3", 3.0)
    agent.assign(small)
    agent.wait_serving(small)
    assert ask(endpoint) == 3.0


def test_the_previous_variant_makes_room(small_disk, registry):
    agent = small_disk
    # Each takes about 0.7 MB stored and 0.7 MB expanded of 3 MiB: two fit, three do not.
    targets = [registry.one(f"r{i}", float(i), ballast=650_000) for i in (1, 2, 3)]
    agent.start()
    for target in targets:
        agent.assign(target)
        agent.wait_serving(target)


def test_a_file_that_was_changed_on_disk_is_not_loaded_but_fetched_again(agent, registry, ask):
    target = registry.one("r1", 1.0)
    agent.start()
    agent.assign(target)
    endpoint = agent.wait_serving(target).running.endpoint
    agent.stop()
    (path,) = (agent.root / "files/sha256").iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.chmod(0o644)
    path.write_bytes(content)
    agent.start()
    agent.wait("serves again", lambda a: a.servers() and (m := a.model()) and m.running and m.state == "Serving")
    assert ask(endpoint) == 1.0
    assert "damaged" in agent.log.read_text()


def test_wrong_bytes_in_the_registry_are_refused(agent, registry, ask):
    one, two = registry.one("r1", 1.0), registry.one("r2", 2.0, ballast=100_000)
    agent.start()
    agent.assign(one)
    endpoint = agent.wait_serving(one).running.endpoint
    blob = max((registry.folder / "blobs/sha256").iterdir(), key=lambda p: p.stat().st_size)
    content = bytearray(blob.read_bytes())
    content[-1] ^= 0xFF
    blob.chmod(0o644)
    blob.write_bytes(content)
    agent.assign(two)
    model = agent.wait_failed(two)
    assert model.reason == "DigestMismatch"
    assert ask(endpoint) == 1.0


def test_an_artifact_that_is_not_there_is_retried(agent, registry):
    registry.one("r1", 1.0)
    target = ArtifactTarget(
        revision="r2", reference=f"oci-layout://{registry.folder}", digest="sha256:" + "0" * 64, variant="x"
    )
    agent.start()
    agent.assign(target)
    model = agent.wait("retries", lambda a: (m := a.model()) and m.download_retries >= 2 and m)
    assert model.reason == "DownloadFailed"


def test_a_model_that_the_runtime_cannot_load(agent, registry, monkeypatch):
    from edgemodel_oci.artifact import ArtifactWriter

    add = ArtifactWriter.add_variant

    def spoilt(self, *, model_file, **fields):
        model_file.write_bytes(b"not a model")
        return add(self, model_file=model_file, **fields)

    monkeypatch.setattr(ArtifactWriter, "add_variant", spoilt)
    target = registry.one("r1", 1.0)
    agent.start()
    agent.assign(target)
    model = agent.wait_failed(target)
    assert model.reason == "LoadFailed"
    assert "Traceback" not in model.message
