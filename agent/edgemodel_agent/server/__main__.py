"""`python -m edgemodel_agent.server --model FILE --name N --version REV --listen-fd FD --control SOCKET`

Started by the agent, but independent of it: standard output goes to a file, the listening socket is the process's own
duplicate, and the control socket is only answered. When the agent is killed, this goes on serving.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgemodel_agent import runtimes
from edgemodel_api.errors import EXIT_BAD_INPUT, EdgeModelError, InputError

from .app import QUEUE, InferenceApp
from .control_server import ControlServer
from .http import HttpServer
from .metrics import ServerMetrics
from .service import Service, request_limit

#: Threads of one inference. One is right for many small requests on few cores, and what compression measured with.
DEFAULT_THREADS = 1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="edgemodel-server", description="Serve one model: Open Inference Protocol v2.")
    top.add_argument("--model", required=True, type=Path, help="the model file")
    top.add_argument("--name", required=True, help="the model's name in URLs")
    top.add_argument("--version", required=True, help="the model's version in URLs: the revision")
    top.add_argument("--listen-fd", required=True, type=int, help="descriptor of a bound TCP socket")
    top.add_argument("--control", required=True, type=Path, help="path of the control socket")
    top.add_argument("--threads", type=int, default=DEFAULT_THREADS, help="threads of one inference (%(default)s)")
    top.add_argument("--max-request-bytes", type=int, help="(16 MiB, or more where the model's input is larger)")
    top.add_argument(
        "--max-memory-bytes", type=int, help="what the process should not grow beyond where it has the choice"
    )
    top.add_argument("--queue", type=int, default=QUEUE, help="requests that may wait; more get 503 (%(default)s)")
    top.add_argument("--fault", metavar="JSON", help="a fault to rehearse")
    return top


def build(given: argparse.Namespace) -> Service:
    """Load the model.

    Raises:
        InputError: it cannot be loaded, or an option is of no use.
    """
    for option, value in (("--threads", given.threads), ("--max-request-bytes", given.max_request_bytes or 1)):
        if value < 1:
            raise InputError(f"{option} {value} is not 1 or more")
    if given.queue < 0:
        raise InputError(f"--queue {given.queue} is not 0 or more")
    misbehaviour = None
    if given.fault:
        from edgemodel_agent.faults import Rehearsal

        from .misbehave import Misbehaviour

        misbehaviour = Misbehaviour(Rehearsal.parse(given.fault))
    began = time.monotonic()
    runtime = runtimes.load(given.model, threads=given.threads, copies=workers(), memory=given.max_memory_bytes)
    metrics = ServerMetrics(
        model=given.name,
        version=given.version,
        runtime=runtime.platform,
        runtime_version=runtime.version,
        file=given.model.name,
    )
    metrics.loaded(began)
    return Service(runtime, name=given.name, version=given.version, metrics=metrics, misbehaviour=misbehaviour)


def server_version() -> str:
    """The installed distribution's version."""
    try:
        return version("edgemodel")
    except PackageNotFoundError:
        return "unknown"


class Process:
    """Puts the parts together and waits for the end."""

    def __init__(self, given: argparse.Namespace, service: Service) -> None:
        self.given = given
        self.service = service
        self.http = HttpServer(socket.socket(fileno=given.listen_fd))

    def accept(self) -> None:
        """As `HttpServer.accept`; a rehearsed fault of the stage Serving begins now."""
        self.http.accept()
        faulty = self.service.misbehaviour
        if faulty is not None and not faulty.serving:
            faulty.serving = True
            if faulty.crashes_by_itself():
                from .misbehave import CRASH_AFTER_SECONDS, crash

                self.loop.call_soon_threadsafe(self.loop.call_later, CRASH_AFTER_SECONDS, crash)

    def drain(self, *, hand_over: bool) -> list[int]:
        """As `HttpServer.drain`."""
        return self.http.drain(hand_over=hand_over)

    def take(self, connections: list[int]) -> None:
        """As `HttpServer.take`."""
        self.http.take(connections)

    def listener(self) -> int:
        """As `HttpServer.listener`."""
        return self.http.listener()

    def accepting(self) -> bool:
        """As `HttpServer.accepting`."""
        return self.http.accepting()

    def draining(self) -> bool:
        """As `HttpServer.draining`."""
        return self.http.draining()

    async def run(self) -> bool:
        """Until drained; whether everything ended by itself."""
        self.loop = asyncio.get_running_loop()
        limit = self.given.max_request_bytes or request_limit(self.service.runtime)
        app = InferenceApp(
            self.service,
            limit=limit,
            workers=workers(),
            queue=self.given.queue,
            server_version=server_version(),
        )
        await self.http.start(app.asgi(self.http.draining))
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self.http.begin_drain)
        control = ControlServer(self.given.control, self.service, self)
        control.start()
        await self.http.finished.wait()
        await asyncio.to_thread(control.close)
        app.pool.shutdown(wait=False, cancel_futures=True)
        return not self.http.forced


def workers() -> int:
    """Inferences that run at once: as many as there are cores for this process."""
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def raise_descriptor_limit() -> None:
    """Each connection takes a descriptor; many systems give 1024, or fewer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main(arguments: list[str] | None = None) -> int:
    """Serve until drained; the exit code."""
    given = parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    # A hostile client must not fill the disk with "Invalid HTTP request received".
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.ERROR)
    raise_descriptor_limit()
    try:
        process = Process(given, build(given))
        ended = asyncio.run(process.run())
    except EdgeModelError as error:
        print(error.message, file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"the server cannot begin: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    if not ended:
        # An inference that never returns would be waited for.
        os._exit(0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
