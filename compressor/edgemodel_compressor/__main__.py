"""`python -m edgemodel_compressor --job FILE --result FILE [--report FILE]`: the compression Job.

Progress is JSON lines on standard output, logs are on standard error. Exit codes: 0 succeeded, 1 refused by the
budget, 2 invalid input, 3 failed for now (`edgemodel_api.job`). The result file is written in every case but SIGKILL.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import NoReturn

from pydantic import ValidationError

from edgemodel_api.errors import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_OK, EXIT_REFUSED, EdgeModelError, InputError
from edgemodel_api.job import JobResult, JobSpec, Outcome
from edgemodel_api.report import CompressionReport

from . import summary
from .parent import end_with_parent
from .progress import Lines

log = logging.getLogger("edgemodel_compressor")

JOB_LIMIT_BYTES = 4 * 2**20
EXIT_CODES = {
    Outcome.SUCCEEDED: EXIT_OK,
    Outcome.REFUSED: EXIT_REFUSED,
    Outcome.INVALID: EXIT_BAD_INPUT,
    Outcome.FAILED: EXIT_FAILED,
}
_DISK = {
    errno.ENOSPC: "the disk is full: free some space (several times the model's size), or set another work folder",
    errno.EDQUOT: "the disk quota is used up: free some space, or set another work folder",
    errno.EROFS: "it is on a read-only file system: mount a writable volume there, or set another work folder",
    errno.EACCES: "permission denied: make it writable for this user, or set another work folder",
    errno.EPERM: "not permitted: make it writable for this user, or set another work folder",
    errno.ENOENT: "it does not exist: create it, or set another work folder",
    errno.ENOTDIR: "it is not a folder: name a folder",
}


class TerminatedError(BaseException):
    """SIGTERM or SIGINT. No `Exception`, so that nothing on the way takes it for a fault of the model."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(argv: list[str] | None = None) -> int:
    """Run one Job; the exit code."""
    parser = argparse.ArgumentParser(prog="edgemodel_compressor", description="Compress one model as a Job file says.")
    parser.add_argument("--job", type=Path, required=True, help="JobSpec as JSON")
    parser.add_argument(
        "--result", type=Path, required=True, help="where the JobResult goes (at most 4096 bytes of JSON)"
    )
    parser.add_argument("--report", type=Path, help="where the CompressionReport goes, also after a refusal")
    options = parser.parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # They log every address with its query, which may hold a signature or a token.
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _terminate)
    end_with_parent()
    report = None
    try:
        result, report = _run(options.job)
    except TerminatedError as error:
        name = signal.Signals(error.number).name
        result = summary.failed(
            Outcome.FAILED, "Terminated", f"stopped by {name}: nothing was stored; start the Job again"
        )
    # Nothing may interrupt what follows: the result has to be whole.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    try:
        if report is not None and options.report is not None:
            _write(options.report, report.model_dump_json(by_alias=True, exclude_none=True, indent=1).encode())
        _write(options.result, summary.to_bytes(result))
    except OSError as error:
        # No traceback: it is a folder that the user named.
        log.error("cannot write %s: %s", error.filename or options.result, error.strerror)  # noqa: TRY400
        return EXIT_BAD_INPUT
    level = logging.INFO if result.outcome is Outcome.SUCCEEDED else logging.ERROR
    log.log(level, "%s %s: %s", result.outcome, result.reason, result.message)
    return EXIT_CODES[result.outcome]


def _run(path: Path) -> tuple[JobResult, CompressionReport | None]:
    try:
        job = _read_job(path)
        with _work_folder(job) as work_dir:
            # Imported late: an unreadable Job is told of at once.
            from .pipeline import run_job

            return run_job(job, work_dir=work_dir, progress=Lines(sys.stdout))
    except EdgeModelError as error:
        outcome = {EXIT_REFUSED: Outcome.REFUSED, EXIT_BAD_INPUT: Outcome.INVALID}.get(error.exit_code, Outcome.FAILED)
        return summary.failed(outcome, error.reason, error.message), None
    except MemoryError:
        message = "memory ran out: give the Job more (several times the model's size), or fewer and smaller samples"
        return summary.failed(Outcome.FAILED, "OutOfMemory", message), None
    except OSError as error:
        where = error.filename or "the work folder"
        if error.errno in _DISK:
            return summary.failed(Outcome.INVALID, "InvalidInput", f"cannot write {where}: {_DISK[error.errno]}"), None
        return summary.failed(Outcome.FAILED, "Failed", f"{where}: {error.strerror or error}; try again"), None
    except Exception as error:  # the process's rim: whoever waits for the Job needs a result, not a traceback
        log.exception("an error in EdgeModel")
        text = (
            f"an error in EdgeModel ({type(error).__name__}: {str(error)[:300]}): please report it with the Job's log"
        )
        return summary.failed(Outcome.FAILED, "InternalError", text), None


def _read_job(path: Path) -> JobSpec:
    try:
        with path.open("rb") as file:
            content = file.read(JOB_LIMIT_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read --job {path}: {error.strerror}") from None
    if len(content) > JOB_LIMIT_BYTES:
        raise InputError(f"--job {path} has more than {JOB_LIMIT_BYTES} bytes: is it the right file?")
    try:
        return JobSpec.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(p) for p in first["loc"])
        raise InputError(f"--job {path} is no JobSpec: {place + ': ' if place else ''}{first['msg']}") from None


class _work_folder(contextlib.AbstractContextManager[Path]):  # noqa: N801  a context manager reads as a function
    """A temporary folder under the Job's, removed whatever happens."""

    def __init__(self, job: JobSpec) -> None:
        self._parent = job.work_dir
        self._path: Path | None = None

    def __enter__(self) -> Path:
        where = self._parent or tempfile.gettempdir()
        try:
            self._path = Path(tempfile.mkdtemp(prefix="edgemodel-", dir=self._parent))
            with tempfile.TemporaryFile(dir=self._path) as file:
                file.write(b"\0" * 4096)
        except OSError as error:
            self.__exit__()
            why = _DISK.get(error.errno or 0, error.strerror)
            raise InputError(f"the work folder {where} cannot be written: {why}") from None
        return self._path

    def __exit__(self, *_: object) -> None:
        if self._path is not None:
            shutil.rmtree(self._path, ignore_errors=True)


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all. A target that is no plain file (/dev/termination-log) is written in place."""
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        if error.errno not in (errno.EBUSY, errno.EXDEV):
            raise
        path.write_bytes(content)  # a mounted file cannot be replaced


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    # A second signal must not cut the cleaning up short.
    for other in (signal.SIGTERM, signal.SIGINT):
        signal.signal(other, signal.SIG_IGN)
    raise TerminatedError(number)


if __name__ == "__main__":
    sys.exit(main())
