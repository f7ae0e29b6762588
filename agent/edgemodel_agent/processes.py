"""Model server processes: start, adopt, drain, kill, find strays; and the listening socket that they share."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from edgemodel_api import reasons
from edgemodel_api.errors import RefusedError

from .runtime_dir import SHARED
from .server.control import ControlClient

SERVER_MODULE = "edgemodel_agent.server"
BACKLOG = 1024
LOG_TAIL = 2000


def bind_listener(address: str, port: int | None) -> socket.socket:
    """A bound socket that does not listen yet, so that clients are refused, not kept waiting, until one serves.

    Raises:
        RefusedError: the port is taken.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port or 0))
    except OSError as error:
        listener.close()
        raise port_error(address, port, error) from error
    return listener


def port_error(address: str, port: int | None, error: OSError) -> RefusedError:
    """What the system says of a port, and what to change."""
    holder = _holder(port) if error.errno == errno.EADDRINUSE and port else ""
    return RefusedError(
        f"port {port} at {address or 'any address'} cannot be used ({error.strerror}{holder}):"
        " free it, or set another serving.port",
        reason=reasons.PORT_UNAVAILABLE,
    )


def _holder(port: int) -> str:
    """Who listens there, for a message: another model's server, or a program that this user may look at."""
    with contextlib.suppress(psutil.Error, OSError):
        for found in psutil.net_connections("tcp"):
            if found.status != psutil.CONN_LISTEN or tuple(found.laddr)[1:2] != (port,) or not found.pid:
                continue
            process = psutil.Process(found.pid)
            line = process.cmdline()
            if SERVER_MODULE in line and "--name" in line:
                return f" by the model {line[line.index('--name') + 1]}"
            return f" by {process.name()}, process {found.pid}"
    return ""


def port_of(listener: socket.socket) -> int:
    """The port that a listener is bound to."""
    return int(listener.getsockname()[1])


def control_name(key: str, digest: str) -> str:
    """A new name for a control socket; from it an agent that was started again sees whose it is."""
    return f"{key_hash(key)}-{digest.partition(':')[2][:12]}-{secrets.token_hex(3)}.sock"


def key_hash(key: str) -> str:
    """8 hex digits of a model's key."""
    return hashlib.sha256(key.encode()).hexdigest()[:8]


def belongs(control: Path, key: str, digest: str) -> bool:
    """Whether a control socket's name says that its server runs this variant of this model."""
    return control.name.startswith(f"{key_hash(key)}-{digest.partition(':')[2][:12]}-")


@dataclass(eq=False)
class ServerProcess:
    """One model server, started by this agent or adopted."""

    pid: int
    created: float
    control: Path
    digest: str = ""
    process: subprocess.Popen[bytes] | None = None
    log: Path | None = None
    started: float = 0.0
    accepted: bool = False
    borrowed: bool = False
    """Taken over while another agent hosts it: to be replaced by one of our own, as it ends with that agent."""

    def alive(self) -> bool:
        """Whether the process runs; reaps it if it is ours and dead."""
        if self.process is not None:
            return self.process.poll() is None
        try:
            found = psutil.Process(self.pid)
            return found.create_time() == self.created and found.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def client(self, timeout: float = 10.0) -> ControlClient:
        """Talk to it."""
        return ControlClient(self.control, timeout=timeout)

    def signal(self, number: int) -> None:
        """Send a signal; a process that is gone already is fine, another one with its number is left alone."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self, wait: float = 5.0) -> None:
        """End it at once and wait for its end."""
        self.signal(signal.SIGKILL)
        deadline = time.monotonic() + wait
        while self.alive() and time.monotonic() < deadline:
            time.sleep(0.005)
        self.control.unlink(missing_ok=True)

    def peak_memory(self) -> int | None:
        """Peak resident bytes so far; None where the kernel does not tell."""
        try:
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        except (OSError, ValueError):
            pass
        return None

    def last_words(self) -> str:
        """How it ended: exit code or signal, and the last line of its log."""
        code = self.process.returncode if self.process is not None else None
        if code is None:
            how = "it is gone"
        else:
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        tail = ""
        if self.log is not None:
            with contextlib.suppress(OSError):
                with open(self.log, "rb") as f:
                    f.seek(max(0, os.fstat(f.fileno()).st_size - LOG_TAIL))
                    lines = f.read().decode(errors="replace").strip().splitlines()
                # What LiteRT tells of itself when it begins is no reason to end.
                tail = next((line[:300] for line in reversed(lines) if not line.startswith("INFO: ")), "")
        return f"{how}: {tail}" if tail else how


def spawn(
    *,
    model: Path,
    name: str,
    version: str,
    digest: str,
    listener: socket.socket,
    control: Path,
    log: Path,
    threads: int | None = None,
    memory: int | None = None,
    fault: str | None = None,
) -> ServerProcess:
    """Start a server that loads `model`, checked by the caller, and answers on `control` but not yet on `listener`."""
    command = [sys.executable, "-m", SERVER_MODULE, "--model", str(model), "--name", name, "--version", version]
    command += ["--listen-fd", str(listener.fileno()), "--control", str(control)]
    command += ["--threads", str(threads)] if threads else []
    command += ["--max-memory-bytes", str(memory)] if memory else []
    command += ["--fault", fault] if fault else []
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)  # the last start's may still be written to
    with open(log, "ab") as out:  # appended to: `server_logs` shortens it meanwhile
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            pass_fds=(listener.fileno(),),
            start_new_session=True,  # a Ctrl-C at the agent's terminal must not end servers before they are drained
        )
    try:
        created = psutil.Process(process.pid).create_time()
    except psutil.Error:
        created = time.time()
    return ServerProcess(process.pid, created, control, digest, process, log, time.monotonic())


def find_servers(runtime: Path) -> Iterator[ServerProcess]:
    """Every living server whose control socket lies in `runtime`, whoever started it."""
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
            if SERVER_MODULE not in line or process.status() == psutil.STATUS_ZOMBIE:
                continue
            control = Path(line[line.index("--control") + 1])
            # The folder's name is the root's hash; the base may differ with the environment of the earlier agent.
            if control.parent == runtime or runtime.name == control.parent.name != SHARED:
                yield ServerProcess(process.pid, process.create_time(), control)
        except (psutil.Error, ValueError, IndexError):
            continue
