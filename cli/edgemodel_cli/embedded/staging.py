"""The folder beside --out in which a compression works: its last step is a rename. One whose process was killed is removed
by the next compression that writes the same --out.

A lock tells the dead from the living: the kernel frees it when the process ends, however it ends, also where numbers of
processes mean something else (another container that has mounted the same folder). Age says nothing: a search may take
hours.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from edgemodel_api.errors import InputError

from .job_process import JobProcess
from .workdir import Workdir, explained

_SUFFIX = ".tmp"
_LOCK = ".lock"
#: Where `out_folder.publish` lays what was in --out before.
OLD = "old"
#: The folder's Job.
JOB = "job"
#: So often the folder may be taken for a dead one's in the moment before it is locked.
_TRIES = 10


@contextlib.contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A new folder on the disk of `out`, which goes at the end.

    Raises:
        InputError: none can be made there.
    """
    folder, lock = _locked(out)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            lock.release()


def clear_stale(out: Path) -> None:
    """Remove what killed compressions with this `out` left. One that was killed between its last two renames had moved the
    old `out` into its folder: it is put back.
    """
    try:
        # What stands between has no dot: `.m.v2.….tmp` is of another --out, `m.v2`.
        mine = re.compile(rf"\.{re.escape(out.name)}\.[^.]+{re.escape(_SUFFIX)}")
        found = sorted(p for p in out.parent.iterdir() if mine.fullmatch(p.name) and (p / _LOCK).is_file())
    except OSError:
        return  # making a folder there says it better
    for folder in found:
        lock = FileLock(folder / _LOCK, timeout=0)
        # One that cannot be locked is in use, or somebody else's.
        with contextlib.suppress(Timeout, OSError, NotImplementedError):
            lock.acquire()
            try:
                _remove(folder, out)
            finally:
                lock.release()


def _remove(folder: Path, out: Path) -> None:
    """A dead one's folder; its Job may live on for some seconds, and write there."""
    with contextlib.suppress(ValueError):
        JobProcess(Workdir(folder).job(JOB)).end_leftover()
    old = folder / OLD
    if old.is_dir() and not out.exists():
        old.rename(out)
    for inside in folder.iterdir():
        if inside.name != _LOCK:
            shutil.rmtree(inside) if inside.is_dir() else inside.unlink()
    # By its lock the next one would know it, if this one did not come so far.
    shutil.rmtree(folder)


def _locked(out: Path) -> tuple[Path, FileLock | None]:
    for _ in range(_TRIES):
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=_SUFFIX, dir=out.parent))
        except OSError as error:
            raise InputError(f"--out {out} cannot be written: {explained(error)}") from None
        lock = FileLock(folder / _LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            continue
        except (OSError, NotImplementedError):
            if not folder.is_dir():
                continue
            # A file system without locks: nobody can tell whether we live, so nobody removes it for us.
            (folder / _LOCK).unlink(missing_ok=True)
            return folder, None
        if folder.is_dir():
            return folder, lock
        lock.release()
    raise InputError(f"--out {out} is being written by another compression all the time: name another folder")
