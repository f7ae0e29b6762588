"""The API server away, a watch that dies without a word, the operator killed at each step, the spec edited in each phase."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
import time

import pytest
import yaml

from edgemodel_operator.k8s import objects

from .conftest import exists, remove, wait


class Link:
    """The way to the API server, as TCP: it can be cut (`down`, `up`), or go silent for all that is connected now."""

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.port = 0
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._silent: set[socket.socket] = set()
        self.up()

    def up(self) -> None:
        self._server = socket.create_server(("127.0.0.1", self.port))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()

    def down(self) -> None:
        for end in (self._server, *(end for pair in self._pairs for end in pair)):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._pairs.clear()

    def silence(self) -> None:
        self._silent.update(end for pair in self._pairs for end in pair)

    def _accept(self, server: socket.socket) -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            pair = (client, socket.create_connection(self.target))
            self._pairs.append(pair)
            for source, sink in (pair, pair[::-1]):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if source not in self._silent:
                    sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def link(operator, tmp_path):
    """The operator's, which is started anew behind it."""
    operator.kill()
    config = yaml.safe_load(operator.kubeconfig.read_text())
    cluster = config["clusters"][0]["cluster"]
    host, _, port = cluster["server"].removeprefix("https://").partition(":")
    found = Link(host, int(port or 443))
    cluster["server"] = f"https://127.0.0.1:{found.port}"
    operator.kubeconfig = tmp_path / "kubeconfig-by-the-link"
    operator.kubeconfig.write_text(yaml.safe_dump(config))
    yield found
    operator.kill()
    found.down()


@pytest.fixture
def all_jobs(cluster, kubectl, model, tmp_path):
    """Every Job that there ever was: revisions by uid."""
    out = tmp_path / "jobs"
    command = [kubectl.program, "get", "jobs", "-n", model.namespace, "--watch", "--no-headers"]
    columns = "custom-columns=UID:.metadata.uid,REVISION:.metadata.labels.edgemodel\\.dev/revision"
    with out.open("wb") as f:
        watch = subprocess.Popen([*command, "-o", columns], stdout=f)
    yield lambda: dict(line.split() for line in out.read_text().splitlines())
    watch.kill()
    watch.wait()


def specs(cluster, agents) -> list[dict]:
    return [cluster.get(f"{objects.EDGE_NODES}/{a.name}").get("spec", {}) for a in agents]


def is_trialing(cluster, agents) -> bool:
    return any(spec.get("trials") for spec in specs(cluster, agents))


def test_the_api_server_is_away_for_a_while(cluster, operator, link, model, agents, all_jobs):
    """Longer than any single retry lasts, in the middle of everything; the operator goes on without a restart."""
    operator.start()
    model.apply()
    wait(lambda: model.says("Compressed", "False", "Compressing"), "the Job", agents=agents)
    process = operator.process
    link.down()
    model.finish_job()
    deadline = time.monotonic() + 25
    while time.monotonic() < deadline:
        for agent in agents:
            agent.step()
        time.sleep(0.5)
    assert model.says("Compressed", "False", "Compressing"), "nobody could see that it ended"
    link.up()
    wait(lambda: model.says("Ready"), "Ready", 60, agents)
    assert process.poll() is None, "it needed a restart"
    assert len(all_jobs()) == 1


def test_what_was_silent_while_nobody_could_hear_it(cluster, operator, link, model, agents):
    """The operator is cut off for longer than a node may be silent, in a wave: no revision has to go for that."""
    operator.more = ("--offline-after", "25s")
    operator.start()
    model.apply(rollout={"waves": [{"nodes": 2, "soak": "5m"}, {"nodes": "100%"}]})
    wait(lambda: model.says("Compressed", "False", "Compressing"), "the Job", agents=agents)
    model.finish_job()
    wait(lambda: model.says("Reconciling", reason="Soaking"), "the soak", agents=agents)

    def go_on(seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for agent in agents:
                agent.step()
            time.sleep(0.5)

    link.down()
    go_on(35)
    link.up()
    go_on(15)
    status = model.read().status
    assert not status.rollout.rolled_back, status.rollout.message
    assert status.nodes.failed == status.nodes.offline == 0
    assert model.says("Reconciling", reason="Soaking")


def test_a_watch_that_dies_without_a_word(cluster, operator, link, model, agents):
    """The connections stay, and nothing comes through them any more: the next listing sees what they should have said."""
    operator.more = ("--resync", "4s", "--request-timeout", "2s")
    operator.start()
    model.apply()
    wait(lambda: model.says("Compressed", "False", "Compressing"), "the Job", agents=agents)
    link.silence()
    model.finish_job()
    wait(lambda: model.says("Ready"), "Ready", 60, agents)


def test_killed_at_each_step(cluster, operator, model, agents, all_jobs):
    """Down while each step happens, and started again: it goes on, and each revision had one Job."""

    def outage(meanwhile=lambda: None) -> None:
        operator.kill()
        meanwhile()
        for _ in range(3):
            for agent in agents:
                agent.step()
        operator.start()

    operator.kill()
    model.apply()  # before anybody has seen it
    operator.start()
    wait(model.jobs, "the Job", agents=agents)
    outage()  # the Job was started, and maybe no status yet
    wait(lambda: model.says("Compressed", "False", "Compressing"), "the Job", agents=agents)
    outage(model.finish_job)  # its result is unread
    wait(lambda: is_trialing(cluster, agents), "the trial")
    outage()  # the trial's result is unread
    wait(lambda: model.read().status.rollout, "the waves", agents=agents)
    outage()
    wait(lambda: model.says("Ready") and not model.says("Reconciling"), "Ready", agents=agents)
    revision = model.read().status.revision
    before = cluster.get(model.path)["metadata"]["resourceVersion"]
    outage()  # while the revision is held
    time.sleep(3)
    assert cluster.get(model.path)["metadata"]["resourceVersion"] == before
    assert list(all_jobs().values()) == [revision]
    outage(lambda: remove(cluster, model.path))
    wait(lambda: not exists(cluster, model.path), "its end", agents=agents)
    assert not any(spec.get("models") or spec.get("trials") for spec in specs(cluster, agents))
    assert list(all_jobs().values()) == [revision]


@pytest.mark.parametrize("phase", ["trial", "wave", "soak", "hold"])
def test_another_spec_in_each_phase(cluster, operator, model, agents, all_jobs, phase):
    """The revision that was under way is left behind cleanly: no trial of it stays, no node ends on it."""
    waves = [{"nodes": 1, "soak": "5m" if phase in ("wave", "soak") else "0s"}, {"nodes": "100%"}]
    model.apply(rollout={"waves": waves})
    wait(lambda: model.says("Compressed", "False", "Compressing"), "the Job", agents=agents)
    model.finish_job()
    first = model.read().status.revision
    if phase == "trial":
        wait(lambda: is_trialing(cluster, agents), "the trial")
    if phase == "wave":
        # It has begun, and its node has not yet answered.
        agents[0].step()
        wait(lambda: is_trialing(cluster, agents), "the trial")
        for agent in agents:
            agent.step()
        wait(lambda: any(s.get("models") for s in specs(cluster, agents)), "the wave")
    if phase == "soak":
        wait(lambda: model.says("Reconciling", reason="Soaking"), "the soak", agents=agents)
    if phase == "hold":
        wait(lambda: model.says("Ready") and not model.says("Reconciling"), "Ready", agents=agents)

    model.apply(sha256="b" * 64, rollout={"waves": [{"nodes": "100%"}], "maxUnavailable": "100%"})
    wait(lambda: model.read().status.revision != first, "the other revision", agents=agents)
    if phase == "trial":
        wait(lambda: not is_trialing(cluster, agents), "the end of the trial", agents=agents)
    wait(lambda: model.says("Compressed", "False", "Compressing"), "the second Job", agents=agents)
    model.finish_job()
    wait(lambda: model.says("Ready") and not model.says("Reconciling"), "Ready", 40, agents)
    status = model.read().status
    assert {r.revision for a in agents for r in a.running.values()} == {status.revision}
    for spec in specs(cluster, agents):
        assert [m["target"]["revision"] for m in spec["models"]] == [status.revision]
        assert not spec.get("trials")
    assert sorted(all_jobs().values()) == sorted([first, status.revision])
    told = [r for r, _ in model.events()]
    assert told.count("Superseded") == (phase in ("wave", "soak"))


def test_the_log_of_a_life_is_quiet(cluster, operator, model, agents):
    """A line of a log is for something that somebody should know."""
    model.apply()
    wait(lambda: model.says("Compressed", "False", "Compressing"), "the Job", agents=agents)
    model.finish_job()
    wait(lambda: model.says("Ready"), "Ready", agents=agents)
    lines = operator.text().splitlines()
    assert len(lines) < 30, json.dumps(lines, indent=1)
