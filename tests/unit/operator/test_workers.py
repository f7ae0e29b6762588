"""One pass at a time for each key, woken by changes and by time; failures wait longer and longer."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from edgemodel_api.errors import TransientError
from edgemodel_operator.k8s import workers as module
from edgemodel_operator.k8s.client import ConflictError
from edgemodel_operator.k8s.reconcile import GoneError
from edgemodel_operator.k8s.workers import Workers
from edgemodel_operator.metrics import OperatorMetrics


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "SETTLE", timedelta(milliseconds=2))
    monkeypatch.setattr(module, "RETRY_FIRST", timedelta(milliseconds=10))


def play(run, script, seconds: float = 5.0) -> Workers:
    async def whole() -> Workers:
        workers = Workers("EdgeModel", run, threads=4, metrics=OperatorMetrics())
        async with asyncio.timeout(seconds):
            await script(workers)
        await workers.close()
        return workers

    return asyncio.run(whole())


async def until(condition) -> None:
    while not condition():  # noqa: ASYNC110 - it is threads that are waited for
        await asyncio.sleep(0.002)


def test_many_wakes_are_one_pass():
    runs = []

    async def script(workers):
        for _ in range(100):
            workers.wake("a/b")
        await asyncio.sleep(0.1)

    play(runs.append, script)
    assert runs == ["a/b"]


def test_no_two_passes_over_one_key_and_none_is_missed():
    lock, begun, runs = threading.Lock(), threading.Event(), []

    def run(key):
        assert lock.acquire(blocking=False)
        begun.set()
        time.sleep(0.05)
        lock.release()
        runs.append(key)

    async def script(workers):
        workers.wake("a/b")
        await until(begun.is_set)
        workers.wake("a/b")
        await until(lambda: len(runs) == 2)
        await asyncio.sleep(0.1)

    play(run, script)
    assert len(runs) == 2


def test_long_passes_leave_time_for_others():
    """A thousand nodes that report wake it all the time."""
    at = []

    def run(_key):
        at.append(time.monotonic())
        time.sleep(0.05)

    async def script(workers):
        while len(at) < 4:
            workers.wake("a/b")
            await asyncio.sleep(0.001)

    play(run, script)
    assert all(b - a >= 0.14 for a, b in itertools.pairwise(at))


def test_a_pass_names_its_next_time():
    at = []

    def run(_key):
        at.append(time.monotonic())
        return datetime.now(UTC) + timedelta(seconds=0.1)

    async def script(workers):
        workers.wake("a/b")
        await until(lambda: len(at) == 3)

    play(run, script)
    assert 0.1 <= at[1] - at[0] < 1


def test_who_is_gone_has_no_worker():
    def run(key):
        raise GoneError(key)

    async def script(workers):
        workers.wake("a/b")
        await until(lambda: not workers._tasks)
        workers.wake("a/b")
        assert workers._tasks
        await until(lambda: not workers._tasks)

    play(run, script)


@pytest.mark.parametrize("error", [TransientError("away"), RuntimeError("ours")], ids=["away", "an error of ours"])
def test_failures_are_tried_again_later_and_later(error):
    at = []

    def run(_key):
        at.append(time.monotonic())
        if len(at) < 5:
            raise error

    async def script(workers):
        workers.wake("a/b")
        await until(lambda: len(at) == 5)

    play(run, script)
    pauses = [b - a for a, b in itertools.pairwise(at)]
    # 10, 20, 40, 80 ms, and what the machine takes.
    assert all(pause >= 0.01 * 2**i for i, pause in enumerate(pauses))


def test_a_conflict_is_looked_at_again_at_once(monkeypatch):
    monkeypatch.setattr(module, "RETRY_FIRST", timedelta(hours=1))
    runs = []

    def run(key):
        runs.append(key)
        if len(runs) < 3:
            raise ConflictError("somebody wrote")

    async def script(workers):
        workers.wake("a/b")
        await until(lambda: len(runs) == 3)

    play(run, script)


def test_one_that_hangs_is_told_and_holds_nobody_up(monkeypatch):
    monkeypatch.setattr(module, "STUCK_SECONDS", 0.02)
    go_on, others = threading.Event(), []

    def run(key):
        others.append(key) if key != "a/slow" else go_on.wait(5)

    async def script(workers):
        workers.wake("a/slow")
        workers.wake("a/quick")
        await until(lambda: others and workers.stuck())
        assert workers.stuck() == ["a/slow"]
        go_on.set()
        await until(lambda: not workers.stuck())

    play(run, script)
