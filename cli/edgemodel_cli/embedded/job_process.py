"""The compression Job as a local process: what a batch/v1 Job is in a cluster, with its files in `jobs/<revision>/`."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from edgemodel_agent.files import read_json, write_json
from edgemodel_api.errors import TransientError
from edgemodel_api.job import RESULT_LIMIT_BYTES, JobResult, JobSpec, Outcome, Progress
from edgemodel_api.quantities import format_bytes
from edgemodel_compressor.parent import PARENT_VARIABLE

from .children import Child, ProcessRecord, last_line, process_created
from .secrets import cache_folder, with_secrets

MODULE = "edgemodel_compressor"
#: Between SIGTERM and SIGKILL.
PATIENCE_SECONDS = 5.0
#: A line of progress is short; more is not read into memory.
LINE_LIMIT = 64 * 1024
LOG_LIMIT = 16 * 2**20


class JobProcess:
    """One Job. Its folder holds job.json, result.json, report.json, log, process.json, and `work/` while it runs.

    Args:
        folder: `jobs/<revision>`.
        on_progress: called from a thread of its own for every line of progress.
    """

    def __init__(self, folder: Path, on_progress: Callable[[Progress], None] = lambda _: None) -> None:
        self.folder = folder
        self.on_progress = on_progress
        self.process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None

    @property
    def log(self) -> Path:
        """What the Job wrote to standard error, and what was no progress on standard output."""
        return self.folder / "log"

    @property
    def report(self) -> Path:
        """The report that the Job leaves, whether it was refused or not."""
        return self.folder / "report.json"

    def begin(self, job: JobSpec) -> None:
        """Start the process.

        Raises:
            TransientError: it cannot be started.
        """
        self.end_leftover()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in ("result.json", "report.json", "log"):
                (self.folder / name).unlink(missing_ok=True)
            work = self.folder / "work"
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            local = with_secrets(job).replace(work_dir=str(work), cache_dir=cache_folder())
            write_json(self.folder / "job.json", local.to_json())
            command = [sys.executable, "-m", MODULE, "--job", str(self.folder / "job.json")]
            command += ["--result", str(self.folder / "result.json"), "--report", str(self.report)]
            # It watches this process: one that is killed (a kernel that is restarted) cannot end it.
            environment = {**os.environ, PARENT_VARIABLE: str(os.getpid())}
            with open(self.log, "ab") as log:
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                )
        except OSError as error:
            raise TransientError(f"the compression Job cannot be started: {error}") from None
        record = ProcessRecord(pid=self.process.pid, created=process_created(self.process.pid))
        write_json(self.folder / "process.json", record.to_json())
        self._reader = threading.Thread(target=self._read, name="job-progress", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        if self.process is None or self.process.stdout is None:
            return
        logged = 0
        with open(self.log, "ab") as log:
            while line := self.process.stdout.readline(LINE_LIMIT):
                try:
                    self.on_progress(Progress.model_validate_json(line))
                except ValidationError:
                    logged += len(line)
                    if logged <= LOG_LIMIT:
                        log.write(line)
                        log.flush()

    def running(self) -> bool:
        """Whether the process runs. Once it has ended, there is a result: the Job's own, or what its end says."""
        if self.process is None:
            return False
        code = self.process.poll()
        if code is None:
            return True
        self._ended(code)
        return False

    def _ended(self, code: int) -> None:
        self._signal(signal.SIGKILL)  # children that a dying Job forgot; they may hold its pipe open
        self._close()
        if self.result() is None:
            write_json(self.folder / "result.json", self._without_result(code).to_json())

    def _close(self) -> None:
        if self._reader is not None:
            self._reader.join(timeout=5.0)
            # Closing the pipe under a reader that is still blocked in it would wait for ever.
            if self.process is not None and self.process.stdout is not None and not self._reader.is_alive():
                self.process.stdout.close()
        self.process = None
        self._tidy()

    def _without_result(self, code: int) -> JobResult:
        said = last_line(self.log)
        if code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
            hint = "is there enough memory? (it may need several times the size of the model)" if code == -9 else ""
        else:
            how, hint = f"ended with exit code {code} and without a result", ""
        details = "; ".join(part for part in (hint, said, f"log: {self.log}") if part)
        return JobResult(outcome=Outcome.FAILED, reason="Failed", message=f"the compression Job {how}: {details}")

    def result(self) -> JobResult | None:
        """What the Job found; None: there is no (readable) result."""
        path = self.folder / "result.json"
        with contextlib.suppress(OSError, ValidationError):
            if path.stat().st_size <= RESULT_LIMIT_BYTES:
                return JobResult.model_validate_json(path.read_bytes())
            size = format_bytes(path.stat().st_size)
            return JobResult(outcome=Outcome.FAILED, reason="Failed", message=f"the Job's result has {size}: a fault")
        return None

    def begun(self) -> bool:
        """Whether a Job was ever started here."""
        return (self.folder / "job.json").is_file()

    def forget(self) -> None:
        """As if it had never run."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def stop(self, patience: float = PATIENCE_SECONDS) -> None:
        """End it, and everything that it started. It leaves no result: it is as if it had been lost."""
        if self.process is None:
            return
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=patience)
        self._signal(signal.SIGKILL)
        self.process.wait()
        self._close()
        result = self.result()
        if result is not None and result.outcome is Outcome.FAILED:
            (self.folder / "result.json").unlink(missing_ok=True)  # it says that it was terminated

    def _signal(self, number: int) -> None:
        # The whole process group: the Job loads strange models in children.
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, number)

    def _tidy(self) -> None:
        shutil.rmtree(self.folder / "work", ignore_errors=True)
        (self.folder / "process.json").unlink(missing_ok=True)

    def end_leftover(self) -> None:
        """End the Job of a command that was killed: nobody reads its progress any more."""
        document = read_json(self.folder / "process.json")
        if not isinstance(document, dict) or self.process is not None:
            return
        child = Child(ProcessRecord.model_validate(document), self.folder / "process.json")
        if child.alive():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.record.pid, signal.SIGKILL)
            child.wait(5.0)
        self._tidy()
