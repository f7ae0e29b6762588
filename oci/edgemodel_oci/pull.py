"""Fetch one blob into a file: resumes where a killed or cut transfer stopped, checks the digest before the rename."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import stat
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edgemodel_api import reasons
from edgemodel_api.errors import TransientError

from .descriptor import Descriptor
from .files import CHUNK, put, sync_folder, writing
from .reference import hex_of
from .repository import Repository

PART = ".part"
#: Breaks in a row, with hardly a byte gained, after which the caller must decide.
TRIES = 5
#: Less than this is no progress: a server that gives a byte per connection must not hold a node for ever.
PROGRESS_BYTES = 1 << 16
_FIRST_WAIT_SECONDS = 0.2
#: Waits between tries; tests replace it.
SLEEP = time.sleep

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class FetchStats:
    """What a fetch cost.

    Attributes:
        bytes: received, without what an earlier call had left.
        seconds: wall time.
        retries: breaks that were resumed, and restarts because of a damaged part.
    """

    bytes: int
    seconds: float
    retries: int


class _DamagedPartError(Exception):
    """What an earlier call left was not a prefix of the blob."""


def fetch_blob(repo: Repository, descriptor: Descriptor, dest: Path, *, progress: Progress | None = None) -> FetchStats:
    """Bring a blob to `dest`, which appears whole, checked and durable. Safe to kill and to call again.

    Args:
        repo: where from.
        descriptor: its digest and size; never more than `size` bytes are written.
        dest: where to; its folder must exist. `dest.name + ".part"` holds what is here so far. One caller at a time.
        progress: called with (bytes that are here, size); may raise to stop.

    Raises:
        TransientError: the link broke `TRIES` times with hardly a byte gained (the part stays), or the content is not what
            the digest promises (reason DigestMismatch; the part is removed).
        InputError: the blob is not there, or the disk says no (reason DiskFull; the part stays).
    """
    return _Fetch(repo, descriptor, dest, progress or (lambda _done, _total: None)).run()


class _Fetch:
    """One call of `fetch_blob`."""

    def __init__(self, repo: Repository, descriptor: Descriptor, dest: Path, progress: Progress) -> None:
        hex_of(descriptor.digest)
        self._repo = repo
        self._wanted = descriptor
        self._dest = dest
        self._part = dest.with_name(dest.name + PART)
        self._progress = progress
        self._received = 0
        self._retries = 0

    def run(self) -> FetchStats:
        start = time.monotonic()
        try:
            self._attempt()
        except _DamagedPartError:
            # A power cut can leave a part of the right length with other bytes: that is no fault of the registry's.
            self._retries += 1
            self._attempt()
        with writing(self._dest):
            os.replace(self._part, self._dest)
            sync_folder(self._dest.parent)
        return FetchStats(self._received, time.monotonic() - start, self._retries)

    def _attempt(self) -> None:
        with self._opened() as f:
            digest = hashlib.sha256()
            had = self._resume(f, digest)
            done = had
            self._progress(done, self._wanted.size)
            with contextlib.closing(self._rest(had)) as rest:
                for chunk in rest:
                    digest.update(chunk)
                    put(f, chunk, self._part)
                    done += len(chunk)
                    self._progress(done, self._wanted.size)
            with writing(self._part):
                f.flush()
                os.fsync(f.fileno())
        actual = f"sha256:{digest.hexdigest()}"
        if actual != self._wanted.digest:
            self._discard()
            if had:
                raise _DamagedPartError
            raise self._mismatch(f"has the digest {actual}")

    def _rest(self, offset: int) -> Generator[bytes, None, None]:
        """The bytes from `offset` to the end, over as many connections as it takes."""
        breaks = 0
        while offset < self._wanted.size:
            gained = 0
            try:
                with contextlib.closing(_generator(self._repo.open_blob(self._wanted.digest, offset))) as chunks:
                    for chunk in chunks:
                        if offset + len(chunk) > self._wanted.size:
                            self._discard()
                            raise self._mismatch(f"is longer than the {self._wanted.size} bytes that were promised")
                        offset += len(chunk)
                        gained += len(chunk)
                        self._received += len(chunk)
                        yield chunk
                if offset == self._wanted.size:
                    return
                error = TransientError(
                    f"{self._wanted.digest} from {self._repo.reference} ended after {offset} of {self._wanted.size} bytes"
                )
            except TransientError as caught:
                if caught.reason == reasons.DIGEST_MISMATCH:
                    raise
                error = caught
            breaks = 1 if gained >= PROGRESS_BYTES else breaks + 1
            if breaks >= TRIES:
                raise error
            self._retries += 1
            SLEEP(random.uniform(0, _FIRST_WAIT_SECONDS * 2**breaks))

    @contextlib.contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        """The part, for reading and writing; whatever is no regular file, or too long to be a prefix, goes first."""
        with writing(self._part):
            with contextlib.suppress(FileNotFoundError):
                found = os.lstat(self._part)
                if not stat.S_ISREG(found.st_mode) or found.st_size > self._wanted.size:
                    os.unlink(self._part)
            fd = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        # Unbuffered: what was received is in the file if this process is killed, and closing cannot fail.
        with os.fdopen(fd, "r+b", buffering=0) as f:
            yield f

    def _resume(self, f: BinaryIO, digest: hashlib._Hash) -> int:
        had = 0
        with writing(self._part):
            while chunk := f.read(CHUNK):
                digest.update(chunk)
                had += len(chunk)
        return had

    def _discard(self) -> None:
        with writing(self._part):
            self._part.unlink(missing_ok=True)

    def _mismatch(self, what: str) -> TransientError:
        return TransientError(
            f"what {self._repo.reference} sent for {self._wanted.digest} {what}: the registry or something before it"
            " changed it; nothing was kept, push the artifact again",
            reason=reasons.DIGEST_MISMATCH,
        )


def _generator(chunks: Iterator[bytes]) -> Generator[bytes, None, None]:
    """`chunks`, closed with the generator that is given back, so that a connection is not left to the collector."""
    try:
        yield from chunks
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()
