"""Running a file on a machine: requests in, answers out; however the process ends, that is a verdict and no traceback."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from edgemodel_api.errors import InputError
from edgemodel_api.quantities import format_bytes
from edgemodel_api.report import VerifiedHow
from edgemodel_compressor.evaluate.runner import Arrays
from edgemodel_oci.companion import companion
from edgemodel_oci.files import writing

from . import child
from .machines import INSTALL, Machine

#: Address space: Python, the runtime and the emulator map about 2 GiB before they do anything.
BASE_BYTES = 6 * 2**30
#: A model is in memory as a file, as a graph, and packed for its kernels.
TIMES_FILE = 8
#: What `child` says that it was doing.
DOING = {"start": "starting", "load": "loading the model", "run": "running the model"}


@dataclass(frozen=True)
class Ran:
    """How it went.

    Attributes:
        answers: of the first requests, as many as were answered.
        failure: why not all; empty: all were.
        started: whether the runtime itself came up: if not, nothing is known of the model.
        late: whether time ran out.
    """

    answers: tuple[Arrays, ...]
    failure: str = ""
    started: bool = True
    late: bool = False


def run_on(
    machine: Machine,
    path: Path,
    feeds: Sequence[Arrays],
    *,
    work_dir: Path,
    seconds: float,
    memory_bytes: int | None = None,
    threads: int = 1,
) -> Ran:
    """Load a file there and answer the requests.

    Args:
        machine: where.
        path: an ONNX file.
        feeds: one after the other.
        work_dir: for requests and answers; nothing is left there.
        seconds: for all of it, wall clock; what was answered until then counts.
        memory_bytes: of address space; None: by the size of the file.
        threads: of the runtime.

    Raises:
        InputError: the disk is full.
    """
    limit = memory_bytes or BASE_BYTES + TIMES_FILE * _size(path)
    with writing(work_dir / "requests"):
        holder = tempfile.TemporaryDirectory(prefix=".verify-", dir=work_dir)
    with holder as name:
        folder = Path(name)
        request = folder / "requests.npz"
        with writing(request):
            np.savez(request, **_packed(feeds))
        command = [*machine.command, "-s", "-P", child.__file__, str(path), str(request), name, str(threads)]
        lines, code, errors = _child(command, machine, folder, seconds, limit)
        last = lines[-1] if lines else {}
        count = max((int(line.get("done", 0)) for line in lines), default=0)
        outputs: list[str] = next((line["outputs"] for line in reversed(lines) if "outputs" in line), [])
        answers = tuple(_read(folder / f"{i}.npz", outputs) for i in range(count))
    if code == 0 and count == len(feeds):
        return Ran(answers)
    stage = str(last.get("stage", "start"))
    started = any("onnxruntime" in line for line in lines)
    # The line says what is done; what failed without a word is what would have come next.
    doing = DOING.get(
        stage if "error" in last else {"start": "load", "load": "run"}.get(stage, "run") if started else "start", stage
    )
    if code is None:
        return Ran(answers, f"{doing} took more than {seconds:.0f} s there", started, late=True)
    if not started:
        why = str(last.get("error", "")) or errors or _ending(code, limit)
        hint = "" if machine.how is VerifiedHow.NATIVE else f": run `{INSTALL} --check`"
        return Ran(answers, f"{machine.cpu} does not start Python with onnxruntime ({why}){hint}", started)
    why = " ".join(str(last.get("error", "")).split())[:300] or _ending(code, limit)
    return Ran(answers, f"{doing} fails there: {why}", started)


def _size(path: Path) -> int:
    """Of the file, and of its tensors where they lie beside it."""
    try:
        beside = companion(path)
    except InputError:
        beside = None  # what is wrong with it, the runtime says better
    return path.stat().st_size + (beside.size if beside is not None else 0)


def _packed(feeds: Sequence[Arrays]) -> dict[str, Any]:
    names = list(feeds[0]) if feeds else []
    made: dict[str, Any] = {"inputs": np.asarray(json.dumps(names)), "count": np.asarray(len(feeds))}
    for index, feed in enumerate(feeds):
        for i, name in enumerate(names):
            value = np.asarray(feed[name])
            made[f"{index}/{i}"] = value.astype(str) if value.dtype == object else value
    return made


def _read(path: Path, outputs: Sequence[str]) -> Arrays:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[str(i)] for i, name in enumerate(outputs)}


def _child(
    command: list[str], machine: Machine, folder: Path, seconds: float, memory: int
) -> tuple[list[dict[str, Any]], int | None, str]:
    """Lines that the child said, its exit code (None: out of time), and the last line of its errors."""
    kept = {
        k: v
        for k, v in os.environ.items()
        if k in ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH")
    }
    one = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    errors = folder / "errors"
    with (
        errors.open("wb") as sink,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=sink,
            cwd=folder,
            env={**kept, **one, **machine.environment},
            start_new_session=True,
        ) as process,
    ):
        # From outside: QEMU ignores what the emulated program asks for.
        _limit(process.pid, memory)
        out = process.stdout
        lines: list[dict[str, Any]] = []
        reader = threading.Thread(target=lambda: lines.extend(_lines(out)), daemon=True)
        reader.start()
        code: int | None
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        reader.join(10)
    said = [
        line for line in errors.read_text(errors="replace").splitlines() if line.strip() and "TCG doesn't" not in line
    ]
    return lines, code, said[-1].strip()[:300] if said else ""


def _limit(pid: int, memory: int) -> None:
    if not hasattr(resource, "prlimit"):  # Linux has it
        return
    for what, wanted in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(OSError, ValueError):
            hard = resource.prlimit(pid, what)[1]
            value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.prlimit(pid, what, (value, value))


def _lines(output: IO[bytes] | None) -> Iterator[dict[str, Any]]:
    for line in output or ():
        with contextlib.suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict):
                yield value


def _ending(code: int, memory: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hints = {
        "SIGILL": ", an instruction that this CPU does not have",
        "SIGKILL": ", as it took too much memory",
        "SIGABRT": f", as it took more than {format_bytes(memory)} or met a bug",
    }
    return name + hints.get(name, "")
