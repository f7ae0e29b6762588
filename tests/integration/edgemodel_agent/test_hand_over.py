"""One agent after another on one node, as when a pod is replaced, with clients that ask all the time; and the standby."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from edgemodel_agent import claims
from edgemodel_agent.foreign import find_all
from edgemodel_agent.runtime_dir import shared_dir

#: A process namespace of its own, as a pod has; its end is the end of all that began in it.
POD = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


class Pod:
    """An agent, or a standby, in a process namespace of its own where we may make one."""

    def __init__(self, command: list[str], log: Path, *, apart: bool = True) -> None:
        self.log = log
        self.apart = apart and os.geteuid() == 0
        with open(log, "ab") as out:
            self.outer = subprocess.Popen([*(POD if self.apart else []), *command], stdout=out, stderr=out)

    @property
    def process(self) -> psutil.Process:
        """The agent itself, below `unshare`."""
        outer = psutil.Process(self.outer.pid)
        return outer.children()[0] if self.apart else outer

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self, timeout: float = 40.0) -> int:
        return self.outer.wait(timeout)

    def kill(self) -> None:
        """As a container is killed: with everything in it."""
        if self.outer.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in psutil.Process(self.outer.pid).children(recursive=True):
                    # A server ends by itself when its agent is gone, which may be just now.
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
        self.outer.kill()
        self.outer.wait()

    def text(self) -> str:
        return self.log.read_text(errors="replace")


class NodeUnderTest:
    """One node: its store, its objects (by `agent`), and its pods."""

    def __init__(self, agent, folder: Path) -> None:
        self.agent = agent
        agent.root = folder / "store"
        self.root = agent.root
        self.pods: list[Pod] = []

    def start(self, *options: str) -> Pod:
        command = [sys.executable, "-m", "edgemodel_agent", "run", "--node", self.agent.name, "--root", str(self.root)]
        command += [
            "--objects",
            str(self.agent.objects),
            "--interval",
            "0.05",
            "--reserve",
            "0",
            "--claim",
            "--standby",
        ]
        command += ["--ready-file", str(self.ready(len(self.pods))), *options]
        return self._start(command)

    def stand_by(self, *, apart: bool = True) -> Pod:
        command = [sys.executable, "-m", "edgemodel_agent", "standby", "--root", str(self.root)]
        return self._start(command, apart=apart)

    def _start(self, command: list[str], *, apart: bool = True) -> Pod:
        self.pods.append(Pod(command, self.agent.log, apart=apart))
        return self.pods[-1]

    def ready(self, number: int) -> Path:
        return self.root.parent / f"ready-{number}"

    def servers(self) -> set[str]:
        return {s.control.name for s in find_all(shared_dir(self.root))}

    def wait(self, what: str, condition, timeout: float = 40.0):
        return self.agent.wait(what, lambda _a: condition(), timeout)

    def clean(self) -> None:
        for pod in self.pods:
            pod.kill()
        for server in find_all(shared_dir(self.root)):
            server.kill()


@pytest.fixture
def node(agent):
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="em") as short:
        found = NodeUnderTest(agent, Path(short))
        yield found
        found.clean()
        shutil.rmtree(short, ignore_errors=True)
        Path(short).mkdir()


def test_a_newcomer_takes_over_under_load_and_no_request_is_lost(node, registry, load):
    target = registry.one("r1", 1.0)
    first = node.start()
    node.agent.assign(target)
    endpoint = node.agent.wait_serving(target).running.endpoint
    with load(endpoint) as clients:
        for number in range(1, 4):
            before = node.servers()
            second = node.start()
            node.wait("the newcomer is ready while it waits", node.ready(number).exists)
            assert claims.claimed(node.root)
            time.sleep(0.3)
            assert node.servers() == before, "nobody takes a store from an agent that works"
            first.signal(signal.SIGTERM)
            assert first.ended() == 0
            assert not (node.servers() & before), "its servers ended with it"
            assert not claims.claimed(node.root)
            model = node.agent.wait_serving(target)
            assert model.running.endpoint == endpoint
            assert model.restarts == 0
            seen = len(clients.answers)
            node.wait("answers", lambda n=seen: len(clients.answers) > n + 50)
            first = second
    assert clients.failures == []
    assert set(clients.answers) == {1.0}
    node.wait("one server", lambda: len(node.servers()) == 1)
    assert "Traceback" not in node.agent.log.read_text()


def test_the_newcomer_goes_on_with_a_rollout(node, registry, load):
    one, two = registry.one("r1", 1.0), registry.one("r2", 2.0)
    first = node.start()
    node.agent.assign(one)
    endpoint = node.agent.wait_serving(one).running.endpoint
    with load(endpoint) as clients:
        node.start()
        node.wait("the newcomer waits", node.ready(1).exists)
        node.agent.assign(two)
        first.signal(signal.SIGTERM)
        assert node.agent.wait_serving(two).running.endpoint == endpoint
        assert first.ended() == 0
    assert clients.failures == []
    node.wait("one server", lambda: len(node.servers()) == 1)


def test_a_killed_agent_is_followed_by_the_one_that_waits(node, registry, ask):
    target = registry.one("r1", 1.0)
    first = node.start()
    node.agent.assign(target)
    endpoint = node.agent.wait_serving(target).running.endpoint
    before = node.servers()
    node.start()
    node.wait("the newcomer waits", node.ready(1).exists)
    first.kill()
    node.wait("another server", lambda: len(after := node.servers()) == 1 and not after & before)
    # Not what the object says: that is the dead agent's last word.
    node.wait("it answers", lambda: answers(ask, endpoint))


def test_without_a_successor_the_end_drains(node, registry):
    target = registry.one("r1", 1.0)
    only = node.start()
    node.agent.assign(target)
    node.agent.wait_serving(target)
    only.signal(signal.SIGTERM)
    assert only.ended() == 0
    assert node.servers() == set()
    assert not list(shared_dir(node.root).iterdir())


def test_a_newcomer_that_is_told_to_end_while_it_waits_ends(node):
    node.start()
    node.wait("the first one is ready", node.ready(0).exists)
    second = node.start()
    node.wait("the newcomer waits", node.ready(1).exists)
    second.signal(signal.SIGTERM)
    assert second.ended(5) == 0
    assert not claims.claimed(node.root)


@pytest.mark.parametrize("apart", [True, False], ids=["a static pod", "a service of the machine"])
def test_the_standby_serves_while_there_is_no_agent_and_is_small_again_afterwards(node, registry, load, apart):
    target = registry.one("r1", 1.0)
    first = node.start()
    node.agent.assign(target)
    endpoint = node.agent.wait_serving(target).running.endpoint
    standby = node.stand_by(apart=apart)
    node.wait("it is reported", lambda: node.agent.status().standby == "Waiting")
    assert node.agent.status().serving == "1/1"
    small = standby.process.memory_info().rss
    assert small < 15_000_000, small

    with load(endpoint) as clients:
        # The agent's pod is deleted, and none follows: nothing is lost.
        first.signal(signal.SIGTERM)
        assert first.ended() == 0
        node.wait("the standby serves", lambda: len(node.servers()) == 1)
        assert standby.process.memory_info().rss > 2 * small
        # An agent comes: nothing is lost either.
        before = node.servers()
        node.start()
        node.wait("its own server", lambda: len(after := node.servers()) == 1 and not after & before)
        node.wait("the standby is small again", lambda: standby.process.memory_info().rss < 15_000_000)
    assert clients.failures == []
    assert node.agent.model().restarts == 0


def test_after_a_power_cut_the_standby_serves_what_the_store_holds(node, registry, ask):
    target = registry.one("r1", 1.0)
    first = node.start()
    node.agent.assign(target)
    endpoint = node.agent.wait_serving(target).running.endpoint
    first.kill()
    registry.folder.rename(registry.folder.with_name("away"))
    reported = node.agent.status().last_report_time
    standby = node.stand_by()
    node.wait("it serves", lambda: node.servers() and answers(ask, endpoint))
    (server,) = find_all(shared_dir(node.root))
    # Its server dies: started again, without any agent.
    with server.client() as client:
        client.drain()
    before = {server.control.name}
    node.wait("another server", lambda: node.servers() and not node.servers() & before)
    node.wait("it answers", lambda: answers(ask, endpoint))
    assert node.agent.status().last_report_time == reported, "a standby reports to nobody"
    node.start()
    node.wait("the agent reports", lambda: node.agent.status().last_report_time > reported)
    node.agent.wait_serving(target)
    assert ask(endpoint) == 1.0
    standby.signal(signal.SIGTERM)
    assert standby.ended() == 0
    assert node.agent.model().restarts == 1


def test_what_was_unassigned_while_the_node_was_off_goes_with_its_files(node, registry, ask):
    one, two = registry.one("r1", 1.0), registry.one("r2", 2.0)
    first = node.start()
    node.agent.assign(one, two)
    node.agent.wait_serving(one)
    gone = node.agent.wait_serving(two, "m2").running.endpoint
    first.kill()
    node.agent.assign(one)
    node.stand_by()
    node.wait("the standby knows nothing of it", lambda: answers(ask, gone, 2.0))
    node.start()
    node.agent.wait_serving(one)
    node.wait("one server", lambda: len(node.servers()) == 1)
    node.wait("one file", lambda: len(list((node.root / "files/sha256").iterdir())) == 1)
    assert not (node.root / "models/default/m2").exists()
    assert not answers(ask, gone, 2.0)


def answers(ask, endpoint: str, value: float = 1.0) -> bool:
    import httpx

    try:
        return ask(endpoint) == value
    except httpx.HTTPError:
        return False
