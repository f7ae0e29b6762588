"""A fleet of agents in one event loop: EdgeNodes that download, check, switch, go silent and fail, and report as agents do.

They write what the real agent writes (a status at each step, a heartbeat 20 s after the last one) and read what it reads
(their spec, by a watch; one for all of them here).
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import json
import random
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

PATH = "/apis/edgemodel.dev/v1alpha1/edgenodes"
HEARTBEAT = 20.0
CLASSES = (("linux/amd64", "amd64-vnni"), ("linux/arm64", "arm64-dotprod"))
Json = dict[str, Any]


def stamp(ago: float = 0.0) -> str:
    return (datetime.now(UTC) - timedelta(seconds=ago)).isoformat()


@dataclass
class Node:
    """One machine. `slow`: its link. `bad`: what it downloads fails its checks there. `silent`: it reports nothing."""

    name: str
    index: int
    slow: bool = False
    bad: bool = False
    silent: bool = False
    target: Json | None = None
    trial: Json | None = None
    state: str = "Pending"
    step: int = 0
    running: Json | None = None
    results: Json | None = None
    reported: float = 0.0
    writes: int = 0

    def status(self) -> Json:
        platform, hardware_class = CLASSES[self.index % 2]
        found: Json = {
            "hardware": {"platform": platform, "hardwareClass": hardware_class},
            "runtimes": {"onnxruntime": "1.32.0"},
            "lastReportTime": stamp(),
            "models": [self._model(self.target)] if self.target is not None else [],
            "trials": [self.results] if self.results is not None else [],
        }
        return found

    def _model(self, assigned: Json) -> Json:
        target = assigned["target"]
        model = {
            "namespace": assigned["namespace"], "name": assigned["name"], "revision": target["revision"],
            "variant": target["variant"], "digest": target["digest"], "attempt": assigned.get("attempt", 1),
            "state": self.state, "reason": "GoldenMismatch" if self.state == "Failed" else "",
        }  # fmt: skip
        return model | ({"running": self.running} if self.running is not None else {})


@dataclass
class Fleet:
    """All of them. `run` until cancelled."""

    server: str
    context: ssl.SSLContext
    token: str
    pool: str
    count: int
    seed: int = 1
    concurrency: int = 32
    nodes: dict[str, Node] = field(default_factory=dict)
    writes: int = 0
    failed_writes: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.due: list[tuple[float, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.queue: asyncio.Queue[Node] = asyncio.Queue()
        self.queued: set[str] = set()
        self.wakes = asyncio.Event()
        for i in range(self.count):
            name = f"{self.pool}-{i:05d}"
            # The first ones of each wave are among the good, so that it is the fleet that is measured.
            share = self.rng.random()
            self.nodes[name] = Node(name, i, slow=share < 0.05, bad=0.05 <= share < 0.06, silent=0.06 <= share < 0.09)

    async def run(self, made: asyncio.Event) -> None:
        headers = {"Authorization": f"Bearer {self.token}"}
        limits = httpx.Limits(max_connections=self.concurrency + 4)
        async with httpx.AsyncClient(
            base_url=self.server, verify=self.context, headers=headers, limits=limits, timeout=30, trust_env=False
        ) as self.http:
            await self._make()
            made.set()
            writers = [self._write() for _ in range(self.concurrency)]
            await asyncio.gather(self._watch(), self._keep_time(), self._heartbeats(), *writers)

    async def delete(self, http: httpx.AsyncClient) -> None:
        await http.delete(PATH, params={"labelSelector": f"pool={self.pool}"}, timeout=300)

    def come_back(self) -> None:
        """Those that were silent report again."""
        for node in self.nodes.values():
            if node.silent:
                node.silent = False
                self.say(node)

    # --- the API

    async def _make(self) -> None:
        gate = asyncio.Semaphore(self.concurrency)

        async def make(node: Node) -> None:
            body = {"apiVersion": "edgemodel.dev/v1alpha1", "kind": "EdgeNode",
                    "metadata": {"name": node.name, "labels": {"pool": self.pool}}}  # fmt: skip
            async with gate:
                (await self.http.post(PATH, json=body)).raise_for_status()
                status = node.status() | ({"lastReportTime": stamp(600)} if node.silent else {})
                await self._patch(node, status)

        await asyncio.gather(*(make(n) for n in self.nodes.values()))

    async def _patch(self, node: Node, status: Json) -> bool:
        kind = {"Content-Type": "application/merge-patch+json"}
        answer = await self.http.patch(
            f"{PATH}/{node.name}/status", content=json.dumps({"status": status}), headers=kind
        )
        node.reported = asyncio.get_running_loop().time()
        node.writes += 1
        self.writes += 1
        return answer.status_code == httpx.codes.OK

    async def _write(self) -> None:
        while True:
            node = await self.queue.get()
            self.queued.discard(node.name)
            if node.silent:
                continue
            try:
                written = await self._patch(node, node.status())
            except httpx.HTTPError:
                written = False
            if not written:
                # As agents do: the newest status is tried again until it is written.
                self.failed_writes += 1
                self.later(1.0, lambda node=node: self.say(node))

    async def _watch(self) -> None:
        """List and watch, anew whenever the stream ends, as it does when the API server is short of time."""
        while True:
            with contextlib.suppress(httpx.HTTPError, KeyError):
                await self._look()
            await asyncio.sleep(1)

    async def _look(self) -> None:
        query = {"labelSelector": f"pool={self.pool}"}
        listed = (await self.http.get(PATH, params=query)).json()
        version = listed["metadata"]["resourceVersion"]
        for body in listed["items"]:
            self._told(body)
        params = {**query, "watch": "true", "resourceVersion": version, "allowWatchBookmarks": "true"}
        async with self.http.stream("GET", PATH, params=params, timeout=None) as answer:
            async for line in answer.aiter_lines():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return
                if event["type"] in ("ADDED", "MODIFIED"):
                    self._told(event["object"])

    # --- what agents do

    def say(self, node: Node) -> None:
        if node.name not in self.queued:
            self.queued.add(node.name)
            self.queue.put_nowait(node)

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.due, (asyncio.get_running_loop().time() + seconds, next(self.order), what))
        self.wakes.set()

    def _told(self, body: Json) -> None:
        node, spec = self.nodes[body["metadata"]["name"]], body.get("spec", {})
        model = next(iter(spec.get("models", [])), None)
        trial = next(iter(spec.get("trials", [])), None)
        if trial != node.trial:
            node.trial, node.results = trial, None
            if trial is not None:
                self.later(1.0, lambda: self._measured(node, trial))
        before, node.target = node.target, model
        if model is None:
            node.running = None
        elif before is None or before["target"]["digest"] != model["target"]["digest"]:
            self._enter(
                node, "Downloading", self.rng.uniform(8, 15) if node.slow else self.rng.uniform(0.5, 2), "Downloaded"
            )
        elif (before["swap"], before.get("attempt", 1)) != (model["swap"], model.get("attempt", 1)):
            self._activate(node)

    def _enter(self, node: Node, state: str, seconds: float, then: str) -> None:
        node.state = state
        node.step += 1
        step = node.step
        self.say(node)
        self.later(seconds, lambda: self._reach(node, step, then))

    def _reach(self, node: Node, step: int, state: str) -> None:
        if node.step != step or node.target is None:
            return
        node.state = state
        target = node.target["target"]
        if state == "Serving":
            node.running = {"revision": target["revision"], "variant": target["variant"], "digest": target["digest"],
                            "since": stamp()}  # fmt: skip
        self.say(node)
        if state == "Downloaded":
            self._activate(node)

    def _activate(self, node: Node) -> None:
        if node.target is not None and node.target["swap"] == "Activate" and node.state in ("Downloaded", "Failed"):
            self._enter(node, "Checking", self.rng.uniform(0.5, 1.5), "Failed" if node.bad else "Serving")

    def _measured(self, node: Node, trial: Json) -> None:
        if node.trial != trial:
            return
        results = []
        for c in trial["candidates"]:
            measured = {"latencyMedianSeconds": "0.01"}
            if c["variant"] != "source":
                measured |= {"slowdown": "-0.2", "slowdownLow": "-0.21"}
            results.append({"digest": c["digest"], "variant": c["variant"], "passed": True, "measured": measured})
        node.results = {"namespace": trial["namespace"], "name": trial["name"], "revision": trial["revision"],
                        "done": True, "results": results}  # fmt: skip
        self.say(node)

    async def _keep_time(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while self.due and self.due[0][0] <= loop.time():
                heapq.heappop(self.due)[2]()
            self.wakes.clear()
            seconds = self.due[0][0] - loop.time() if self.due else 3600
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.wakes.wait(), max(0.0, seconds))

    async def _heartbeats(self) -> None:
        loop = asyncio.get_running_loop()
        for node in self.nodes.values():
            node.reported = loop.time() - self.rng.uniform(0, HEARTBEAT)
        while True:
            for node in self.nodes.values():
                if loop.time() - node.reported >= HEARTBEAT:
                    node.reported = loop.time()
                    self.say(node)
            await asyncio.sleep(0.5)
