"""One instant query to Prometheus' HTTP API (or what speaks it: Thanos, Mimir, VictoriaMetrics), bounded in time and size."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from edgemodel_api.errors import InputError, TransientError

TIMEOUT_SECONDS = 10.0
MAX_BYTES = 1 << 20
MAX_SERIES = 1000
_MESSAGE_LIMIT = 300


class QueryError(TransientError):
    """No numbers came back: no answer, an error, or something that is none."""

    reason = "PrometheusUnavailable"


@dataclass
class Prometheus:
    """The server at `url`; `token_file`: a bearer token, read anew each time as tokens rotate. Belongs to one event loop.

    Certificates are checked against the system's store, or the file that SSL_CERT_FILE names.
    """

    url: str
    token_file: Path | None = None
    timeout: float = TIMEOUT_SECONDS
    _client: httpx.AsyncClient | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Raises InputError: it is no http or https URL."""
        try:
            parsed = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise InputError(f"--prometheus-url is no URL ({error}): give http://host:port") from None
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise InputError("--prometheus-url is no URL of a server: give http://host:port or https://host/path")
        self._target = f"{str(parsed.copy_with(query=None, fragment=None)).rstrip('/')}/api/v1/query"
        self._shown = f"{parsed.scheme}://{parsed.netloc.decode()}"

    async def query(self, query: str) -> tuple[float, ...]:
        """The numbers of an instant query's result, in the order of their series' labels; empty: no series.

        Raises:
            QueryError: says what Prometheus said, or that it did not.
        """
        try:
            async with asyncio.timeout(self.timeout):
                status, content = await self._post(query)
        except TimeoutError:
            raise QueryError(f"Prometheus {self._shown} does not answer within {self.timeout:g} s") from None
        except (httpx.HTTPError, OSError) as error:
            text = str(error)[:_MESSAGE_LIMIT] or type(error).__name__
            raise QueryError(f"Prometheus {self._shown} cannot be reached: {text}") from None
        return _numbers(status, content, self._shown)

    async def close(self) -> None:
        """End its connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _post(self, query: str) -> tuple[int, bytes]:
        if self._client is None:
            # Retries, redirects and proxies are for others: a query that fails is asked again anyway.
            self._client = httpx.AsyncClient(timeout=self.timeout, limits=httpx.Limits(max_connections=8))
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if self.token_file is not None:
            headers["Authorization"] = f"Bearer {self.token_file.read_text().strip()}"
        data = {"query": query, "timeout": f"{self.timeout:g}s"}
        found = bytearray()
        async with self._client.stream("POST", self._target, data=data, headers=headers) as answer:
            async for chunk in answer.aiter_raw():
                found += chunk
                if len(found) > MAX_BYTES:
                    raise QueryError(
                        f"the answer has more than {MAX_BYTES >> 20} MiB: aggregate, such as by sum(…) or max(…)"
                    )
        return answer.status_code, bytes(found)


def _numbers(status: int, content: bytes, server: str) -> tuple[float, ...]:
    """As Prometheus' documentation of its HTTP API has it; anything may come, as a wrong URL names any server."""
    try:
        answer = json.loads(content)
        if answer["status"] == "error":
            raise QueryError(f"Prometheus {server} refuses the query: {str(answer['error'])[:_MESSAGE_LIMIT]}")
        if status != httpx.codes.OK:
            raise QueryError(f"{server} answers {status}: is --prometheus-url right?")
        kind, result = answer["data"]["resultType"], answer["data"]["result"]
        if kind == "scalar":
            return (_number(result),)
        if kind != "vector":
            raise QueryError(f"the result is a {str(kind)[:20]}, not a vector: ask for its last value, not for a range")
        if len(result) > MAX_SERIES:
            raise QueryError(f"{len(result)} series, more than {MAX_SERIES}: aggregate, such as by sum(…) or max(…)")
        series = sorted((json.dumps(one["metric"], sort_keys=True), _number(one["value"])) for one in result)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        raise QueryError(f"{server} answers {status}, but not as Prometheus: is --prometheus-url right?") from None
    return tuple(number for _, number in series)


def _number(sample: Any) -> float:
    """`[time, "0.5"]`."""
    text = sample[1]
    if not isinstance(text, str):
        raise TypeError("a sample without a number")
    return float(text.replace("Inf", "inf")) if text != "NaN" else math.nan
