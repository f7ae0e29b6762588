"""Steady requests from outside to every node's own address, so that a switch can be seen to lose none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

#: Of a request; an emulated CPU that also compiles something else takes seconds.
TIMEOUT = 30.0


@dataclass(frozen=True)
class Answer:
    """What came back: the revision that answered, the outputs; or what went wrong."""

    node: str
    row: int
    revision: str = ""
    values: tuple[float, ...] = ()
    problem: str = ""


@dataclass
class Load:
    """`with Load(endpoints, body): …`: `rate` requests a second to each endpoint, half over a kept connection.

    `endpoints`: node → URL that takes a POST. `body`: row number → request.
    """

    endpoints: dict[str, str]
    body: Callable[[int], dict[str, Any]]
    rate: float = 4.0
    answers: list[Answer] = field(default_factory=list)
    _end: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._threads = [
            threading.Thread(target=self._ask, args=(node, url, kept), daemon=True)
            for node, url in self.endpoints.items()
            for kept in (True, False)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(TIMEOUT + 5)

    def failed(self) -> list[Answer]:
        """Those that are no answers."""
        return [a for a in self.answers if a.problem]

    def _ask(self, node: str, url: str, kept: bool) -> None:
        row, due = 0, time.monotonic()
        with httpx.Client(timeout=TIMEOUT, trust_env=False) as client:
            while not self._end.is_set():
                self.answers.append(ask(client if kept else None, node, url, row, self.body(row)))
                row += 1
                due = max(due + 2 / self.rate, time.monotonic() - 1)
                self._end.wait(max(0.0, due - time.monotonic()))


def ask(client: httpx.Client | None, node: str, url: str, row: int, body: dict[str, Any]) -> Answer:
    """One request; None: over a connection of its own."""
    try:
        if client is None:
            with httpx.Client(timeout=TIMEOUT, trust_env=False) as own:
                answer = own.post(url, json=body)
        else:
            answer = client.post(url, json=body)
        if answer.status_code != 200:
            return Answer(node, row, problem=f"{answer.status_code} {answer.text[:200]}")
        document = answer.json()
        return Answer(node, row, document["model_version"], tuple(document["outputs"][0]["data"]))
    except (httpx.HTTPError, ValueError, KeyError) as error:
        return Answer(node, row, problem=f"{time.strftime('%X')} {type(error).__name__}: {error}")
