"""Judging several files at once, each in a process of its own.

A worker is `python -m edgemodel_compressor.worker`: a new interpreter, not a fork (the runtime's threads do not survive
one) and not multiprocessing's (which would run the user's own script again). It is sent the `Court`, then tasks, as
pickles on its standard input; nothing that it reads comes from outside. A worker that dies makes its own file bad, not
the Job. Without workers the same tasks are done here, in order, with the same outcome.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import replace
from typing import Any, BinaryIO

from edgemodel_api.errors import InputError

from .formats.kept import LARGE_BYTES
from .judge import Court, Known, Task

_LENGTH = struct.Struct("<Q")
#: A worker before it has opened a file: interpreter, runtime, data in memory.
WORKER_BYTES = 300 * 2**20
#: For each byte of a file: its weights, their packed copies.
FILE_FACTOR = 4


def workers_for(cores: int, memory_bytes: int, file_bytes: int, run_bytes: int = 0) -> int:
    """How many workers: not more than cores, nor than fit into the memory that is free.

    Args:
        cores: that may be kept busy.
        memory_bytes: that may be taken.
        file_bytes: of the largest file.
        run_bytes: that running it takes.

    >>> workers_for(8, 2**30, 2**20), workers_for(8, 2**40, 2**20), workers_for(1, 2**40, 1)
    (3, 8, 1)
    """
    if file_bytes >= LARGE_BYTES:
        # One after the other: a Job's memory is told beforehand for one session of a large model.
        return 1
    return max(1, min(cores, memory_bytes // (WORKER_BYTES + FILE_FACTOR * file_bytes + run_bytes)))


class Here:
    """No workers: each task is done when it is submitted."""

    #: Tasks at a time.
    count = 1

    def __init__(self, court: Court) -> None:
        self._court = court

    def submit(self, task: Task) -> Future[Known]:
        """A future that is done."""
        future: Future[Known] = Future()
        try:
            future.set_result(self._court.judge(task))
        except InputError as error:
            future.set_exception(error)
        return future

    def drop(self) -> None:
        """Nothing is under way."""

    def close(self) -> None:
        """Nothing is left."""


class Workers:
    """Some processes, started when the first task comes."""

    def __init__(self, court: Court, count: int) -> None:
        self._court, self.count = court, count
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="judge")
        self._mine = threading.local()
        self._all: list[_Worker] = []
        self._open: list[Future[Known]] = []
        self._closed = False

    def submit(self, task: Task) -> Future[Known]:
        """Judge it as soon as a worker is free."""
        future = self._pool.submit(self._do, task)
        self._open = [f for f in self._open if not f.done()] + [future]
        return future

    def drop(self) -> None:
        """Give up what is under way and what waits: nobody wants to know any more, and clocks need a quiet machine."""
        under_way = [f for f in self._open if not f.cancel()]
        if any(not f.done() for f in under_way):
            for worker in list(self._all):
                worker.end()
        for future in under_way:
            future.exception()
        self._open.clear()

    def close(self) -> None:
        """End all workers, whatever they do; tasks that have not begun never will."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        for worker in list(self._all):
            worker.end()
        self._pool.shutdown(wait=True)

    def _do(self, task: Task) -> Known:
        worker = getattr(self._mine, "worker", None)
        try:
            if worker is None or not worker.alive:
                worker = self._mine.worker = _Worker(self._court)
                self._all.append(worker)
            if self._closed:
                worker.end()
            return worker.judge(task)
        except (EOFError, OSError, ValueError) as error:
            self._mine.worker = None
            how = worker.ending() if worker is not None else str(error)
            return replace(
                task.known, failure=f"the runtime crashed on it ({how}): use another encoding for this model"
            )


class _Worker:
    def __init__(self, court: Court) -> None:
        self._process = subprocess.Popen(
            # -P: modules that lie in the current folder are not ours.
            [sys.executable, "-P", "-m", "edgemodel_compressor.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        self._court: Court | None = court

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def judge(self, task: Task) -> Known:
        """Raises:
        EOFError, OSError: it died.
        InputError: the disk is full.
        """
        if self._court is not None:
            write(self._stdin, self._court)
            self._court = None
        write(self._stdin, task)
        answer: Known | InputError = read(self._stdout)
        if isinstance(answer, InputError):
            raise answer
        return answer

    def end(self) -> int:
        """Kill it; its exit code."""
        self._process.kill()
        code = self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError, ValueError):
                    stream.close()
        return code

    def ending(self) -> str:
        """How it died."""
        code = self.end()
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
        return f"exit code {code}"

    @property
    def _stdin(self) -> BinaryIO:
        if self._process.stdin is None:
            raise EOFError("the worker has no standard input")
        return self._process.stdin  # type: ignore[return-value]

    @property
    def _stdout(self) -> BinaryIO:
        if self._process.stdout is None:
            raise EOFError("the worker has no standard output")
        return self._process.stdout  # type: ignore[return-value]


def in_order(futures: Iterable[Future[Known]], left: Callable[[], float]) -> Iterator[Known]:
    """The results, in the order of submission, until the first that is not there when the time is up.

    Raises:
        InputError: the disk is full.
    """
    for future in futures:
        seconds = left()
        try:
            yield future.result(None if seconds == float("inf") else seconds)
        except FutureTimeoutError:
            return


def write(stream: BinaryIO, value: Any) -> None:
    """One message."""
    content = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    stream.write(_LENGTH.pack(len(content)))
    stream.write(content)
    stream.flush()


def read(stream: BinaryIO) -> Any:
    """The next message.

    Raises:
        EOFError: there is none.
    """
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError("no message")
    (size,) = _LENGTH.unpack(head)
    content = stream.read(size)
    if len(content) < size:
        raise EOFError("half a message")
    return pickle.loads(content)  # noqa: S301  our own process wrote it
