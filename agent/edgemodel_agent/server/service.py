"""A loaded model as a service: request bytes in, response bytes out. Knows neither HTTP servers nor processes."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from edgemodel_agent.runtimes.base import Array, Arrays, Runtime

from .metrics import ServerMetrics
from .protocol import Body, decode_request, encode_response

if TYPE_CHECKING:
    from .misbehave import Misbehaviour

DEFAULT_REQUEST_BYTES = 16 * 2**20
#: A number in JSON, with its comma: `-1.2345678901234567e-123,`.
JSON_BYTES_PER_ELEMENT = 25


class Service:
    """Answers inference requests; `run` and `infer` may be called from several threads at once."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        name: str,
        version: str,
        metrics: ServerMetrics,
        misbehaviour: Misbehaviour | None = None,
    ) -> None:
        self.runtime = runtime
        self.name = name
        self.version = version
        self.metrics = metrics
        self.misbehaviour = misbehaviour
        self._count = 0
        self._lock = threading.Lock()

    @property
    def in_flight(self) -> int:
        """Requests that wait or run."""
        return self._count

    def enter(self, limit: int) -> bool:
        """Count a request in; False: there are `limit` already."""
        with self._lock:
            if self._count >= limit:
                return False
            self._count += 1
            self.metrics.in_flight(self._count)
            return True

    def leave(self) -> None:
        """Count it out again."""
        with self._lock:
            self._count -= 1
            self.metrics.in_flight(self._count)

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> Arrays:
        """One inference.

        Raises:
            InputError: the model does not accept the feeds.
        """
        call: Callable[[], Arrays] = lambda: self.runtime.run(feeds, outputs)  # noqa: E731 - two users below
        return call() if self.misbehaviour is None else self.misbehaviour.around(call)

    def infer(self, body: bytes, header_length: str | None) -> Body:
        """Answer one request.

        Raises:
            InputError: what is wrong with it, for the client.
        """
        request = decode_request(body, header_length, self.runtime.inputs, self.runtime.outputs)
        began = time.perf_counter()
        results = self.run(request.feeds, [o.name for o in request.outputs])
        self.metrics.inferred(time.perf_counter() - began)
        return encode_response(self.name, self.version, request, results, self.runtime.outputs)


def request_limit(runtime: Runtime) -> int:
    """Bytes that a request may have: 16 MiB, or room for one JSON request of the model's own input sizes if larger."""
    elements = sum(math.prod(d or 1 for d in s.shape) for s in runtime.inputs)
    return max(DEFAULT_REQUEST_BYTES, elements * JSON_BYTES_PER_ELEMENT + 65536)
