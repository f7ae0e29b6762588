"""A child process that runs TFLite files: kernels end the process where they meet what they did not expect.

Messages on standard input and output are 8 bytes of length and an `.npz`: `model` (a path) and `feed:NAME` in; `out:NAME`
or `error` out. Each model is run with the default delegate (XNNPACK) and without, as devices have both.
"""

from __future__ import annotations

import atexit
import io
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np

from edgemodel_api.errors import InputError
from edgemodel_compressor.evaluate.runner import Arrays, Run
from edgemodel_compressor.formats.child_process import ending

_LENGTH = struct.Struct("<Q")


#: One run gets so long at least, and for each row so much more, and the time to read the file once, on a busy machine.
LEAST_SECONDS, ROW_SECONDS, BYTES_PER_SECOND = 300.0, 10.0, 5 * 2**20


def patience(size: int, rows: int) -> float:
    """Seconds that a run may take.

    Args:
        size: bytes of the file.
        rows: that it gets at once.

    >>> patience(0, 1), patience(50 * 2**20, 32)
    (310.0, 940.0)
    """
    return LEAST_SECONDS + rows * (ROW_SECONDS + size / BYTES_PER_SECOND)


class Worker:
    """One child, started when it is needed and again after a crash.

    Args:
        patience: seconds for one run, from the file's bytes and the number of rows.
        program: what the child does; by default `serve`.
    """

    def __init__(self, patience: Callable[[int, int], float] = patience, program: str = "") -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._patience = patience
        self._program = program

    def run(self, path: Path, feeds: Arrays, *, delegates: bool, threads: int = 1) -> Arrays:
        """Run a model once.

        Raises:
            InputError: it fails, ends the process, or does not end in time.
        """
        request = {f"feed:{n}": a for n, a in feeds.items()}
        request["model"] = np.asarray(str(path))
        request["settings"] = np.asarray([int(delegates), threads])
        with self._lock:
            process = self._running()
            seconds = self._patience(_size(path), max((len(a) for a in feeds.values() if a.ndim), default=1))
            late = threading.Event()

            def end() -> None:
                late.set()
                process.kill()

            timer = threading.Timer(seconds, end)
            timer.daemon = True
            timer.start()
            try:
                _send(process.stdin, request)
                answer = _receive(process.stdout)
            except (OSError, EOFError):
                code = self.close()
                if late.is_set():
                    raise InputError(f"LiteRT did not end a run within {seconds:.0f} s: give a smaller model") from None
                raise InputError(f"LiteRT crashed ({ending(code)})") from None
            finally:
                timer.cancel()
            if late.is_set():  # after its last answer
                self.close()
        if "error" in answer:
            raise InputError(str(answer["error"]))
        return {n.removeprefix("out:"): a for n, a in answer.items()}

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            paths = [p for p in sys.path if p]
            code = self._program or f"import sys; sys.path[:0] = {paths!r}; from {__name__} import serve; serve()"
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return self._process

    def close(self) -> int:
        """End the child, and say how it ended."""
        process, self._process = self._process, None
        if process is None:
            return 0
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue  # what was not sent to a dead child
        try:
            return process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


WORKER = Worker()
atexit.register(WORKER.close)


def _size(path: Path) -> int:
    """0 where there is no such file: LiteRT says it better."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def isolated_run(path: Path, *, delegates: bool) -> Run:
    """As `open_run`, in the child; the file must not change."""
    return lambda feeds: WORKER.run(path, feeds, delegates=delegates)


def serve() -> None:
    """In the child: answer until the input ends."""
    from .run import open_run

    source, sink = sys.stdin.buffer, sys.stdout.buffer
    known: tuple[Path, bool, int] | None = None
    run: Run | None = None
    while True:
        try:
            request = _receive(source)
        except EOFError:
            return
        path = Path(str(request.pop("model")))
        delegates, threads = (int(v) for v in request.pop("settings"))
        feeds = {n.removeprefix("feed:"): a for n, a in request.items()}
        try:
            if run is None or known != (path, bool(delegates), threads):
                run = open_run(path, threads=threads, delegates=bool(delegates))
                known = (path, bool(delegates), threads)
            answer = {f"out:{n}": a for n, a in run(feeds).items()}
        except InputError as error:
            answer = {"error": np.asarray(str(error))}
        _send(sink, answer)


def _send(pipe: IO[bytes] | None, arrays: Arrays) -> None:
    if pipe is None:
        raise EOFError
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    content = buffer.getbuffer()
    pipe.write(_LENGTH.pack(len(content)))
    pipe.write(content)
    pipe.flush()


def _receive(pipe: IO[bytes] | None) -> Arrays:
    head = pipe.read(_LENGTH.size) if pipe is not None else b""
    if pipe is None or len(head) < _LENGTH.size:
        raise EOFError
    length = _LENGTH.unpack(head)[0]
    content = pipe.read(length)
    if len(content) < length:
        raise EOFError
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {n: arrays[n] for n in arrays.files}
