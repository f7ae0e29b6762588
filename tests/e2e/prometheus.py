"""The Prometheus of the cluster under test."""

from __future__ import annotations

from collections.abc import Callable

import httpx

from .kube import wait

Found = dict[tuple[str, ...], float]
#: Two scrapes, and a pass.
SECONDS = 40


class Prometheus:
    """Asks; the answers are by the labels that the query's `by (…)` names, in alphabetical order."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, query: str) -> Found:
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": query}, timeout=10).json()
        assert answer["status"] == "success", answer
        return {
            tuple(v for k, v in sorted(one["metric"].items()) if k != "__name__"): float(one["value"][1])
            for one in answer["data"]["result"]
        }

    def until(self, query: str, good: Callable[[Found], bool], seconds: float = SECONDS) -> Found:
        wait(lambda: good(self.ask(query)), lambda: f"{query}: {self.ask(query)}", seconds, 1)
        return self.ask(query)
