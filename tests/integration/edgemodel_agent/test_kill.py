"""kill -9 of the agent at any instant: it ends right, nothing partly written is ever loaded, no server is left over."""

import hashlib
import random
import threading
import time
from pathlib import Path

import psutil
import pytest

from edgemodel_agent.processes import SERVER_MODULE

BALLAST = 4_000_000


class Watcher(threading.Thread):
    """Looks all the time at what every server of the node has been given, and hashes it: its name is its digest."""

    def __init__(self, runtime: Path) -> None:
        super().__init__(daemon=True)
        self.runtime = runtime.name
        self.wrong: list[str] = []
        self.seen: set[str] = set()
        self.done = threading.Event()

    def run(self) -> None:
        checked: set[int] = set()
        while not self.done.wait(0.01):
            for process in psutil.process_iter():
                try:
                    if process.pid in checked:
                        continue
                    line = process.cmdline()
                    if SERVER_MODULE not in line or f"/{self.runtime}/" not in " ".join(line):
                        continue
                    path = Path(line[line.index("--model") + 1])
                    content = path.read_bytes()
                except (psutil.Error, OSError):
                    continue
                checked.add(process.pid)
                self.seen.add(path.name)
                if hashlib.sha256(content).hexdigest() != path.name:
                    self.wrong.append(str(path))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_at_random_instants(agent, registry, ask, seed):
    rng = random.Random(seed)
    targets = [registry.one(f"r{i}", float(i), ballast=BALLAST) for i in (1, 2, 3)]
    agent.start()
    agent.assign(targets[0])
    endpoint = agent.wait_serving(targets[0]).running.endpoint
    watcher = Watcher(agent.runtime)
    watcher.start()
    for turn in range(8):
        target = targets[(turn + 1) % 3]
        agent.assign(target)
        # From the very start of an agent to some time after a usual switch.
        time.sleep(rng.uniform(0.0, 2.5))
        agent.kill()
        assert len(agent.servers()) <= 2
        if rng.random() < 0.3:
            agent.start()
            time.sleep(rng.uniform(0.0, 0.6))
            agent.kill()
        agent.start()
        if turn % 3 == 2:
            agent.wait_serving(target, timeout=60)
    last = targets[8 % 3]
    model = agent.wait_serving(last, timeout=60)
    assert model.running.endpoint == endpoint
    assert ask(endpoint) == float(8 % 3 + 1)
    agent.wait("one server", lambda a: len(a.servers()) == 1)
    watcher.done.set()
    watcher.join()
    assert watcher.wrong == []
    assert watcher.seen, "the watcher saw no server, so it proved nothing"
    for path in (agent.root / "files/sha256").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name, "a file is whole or absent"


def test_requests_go_on_while_the_agent_is_dead_and_it_adopts_the_server(agent, registry, load):
    one, two = registry.one("r1", 1.0), registry.one("r2", 2.0)
    agent.start()
    agent.assign(one)
    endpoint = agent.wait_serving(one).running.endpoint
    before = agent.servers()
    with load(endpoint) as clients:
        agent.kill()
        seen = len(clients.answers)
        agent.wait("answers without an agent", lambda _a: len(clients.answers) > seen + 50)
        first = agent.status().last_report_time
        agent.start()
        agent.wait("the new agent reports", lambda a: a.status().last_report_time > first and a.model().running)
        assert agent.servers() == before, "the same process goes on"
        assert agent.model().restarts == 0
        agent.assign(two)
        agent.wait_serving(two)
    assert clients.failures == []
    assert set(clients.answers) == {1.0, 2.0}


def test_an_adopted_server_is_supervised(agent, registry, ask):
    target = registry.one("r1", 1.0)
    agent.start()
    agent.assign(target)
    endpoint = agent.wait_serving(target).running.endpoint
    agent.kill()
    agent.start()
    (pid,) = agent.servers()
    agent.wait("adopted", lambda a: (m := a.model()) and m.running and "goes on serving" in a.log.read_text())
    psutil.Process(pid).kill()
    agent.wait("another server", lambda a: (m := a.model()) and m.restarts == 1 and m.running)
    assert ask(endpoint) == 1.0


def test_servers_are_left_to_the_next_agent_on_request(agent, registry, load):
    target = registry.one("r1", 1.0)
    agent.start("--leave-servers")
    agent.assign(target)
    endpoint = agent.wait_serving(target).running.endpoint
    with load(endpoint) as clients:
        assert agent.stop() == 0
        before = agent.servers()
        agent.start()
        agent.wait("adopted", lambda a: "goes on serving" in a.log.read_text())
    assert agent.servers() == before
    assert len(before) == 1
    assert clients.failures == []


def test_a_server_that_nobody_wants_any_more_is_drained_at_start(agent, registry):
    one = registry.one("r1", 1.0)
    agent.start()
    agent.assign(one)
    agent.wait_serving(one)
    agent.kill()
    assert len(agent.servers()) == 1
    (agent.root / "models/default/m/state.json").unlink()  # as if killed in the middle of a removal
    agent.write(agent.spec.replace(models=()))
    agent.start()
    agent.wait("it is gone", lambda a: a.servers() == [])
    agent.wait("its files too", lambda a: not list((a.root / "files/sha256").iterdir()))
