"""Running a model over a dataset, in batches whose answers equal those of single rows."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edgemodel_api.errors import InputError

from . import bad_index

Array = npt.NDArray[np.generic]
Arrays = dict[str, Array]
Run = Callable[[Arrays], Arrays]
A = TypeVar("A")
B = TypeVar("B")

#: Inputs of one batch stay under this, so that memory depends on neither samples nor their size.
BATCH_BYTES = 8 * 2**20
BATCH_ROWS = 32
#: Rows that are tried together and apart: two alone may agree by chance where a model branches on its batch.
TRIED_ROWS = 16


class Batches(Protocol):
    """The part of `data.Dataset` that measuring needs."""

    @property
    def samples(self) -> int:
        """Number of rows."""

    @property
    def labels(self) -> Array | None:
        """[samples, …], where there are labels."""

    def batches(self, size: int) -> Iterator[Arrays]:
        """In order, each with at most `size` rows."""

    def take(self, n: int, seed: int) -> Arrays:
        """`n` rows (or all, if fewer), spread over the data, the same for the same seed."""


def runner(session: Any) -> Run:
    """One inference: named inputs to named outputs, in the model's order.

    Args:
        session: an `onnxruntime.InferenceSession`.
    """
    names = [o.name for o in session.get_outputs()]

    def run(feeds: Arrays) -> Arrays:
        try:
            values = session.run(names, feeds)
        except Exception as error:  # onnxruntime raises many types of its own
            text = bad_index.in_words(error, feeds) or str(error).strip().splitlines()[-1][:300]
            raise InputError(f"the model fails on the data: {text}", reason="InvalidInput") from None
        for name, value in zip(names, values, strict=True):
            if not isinstance(value, np.ndarray):
                kind = type(value).__name__
                raise InputError(
                    f"output {name!r} is a {kind}, not a tensor: export the model with tensor outputs only"
                    " (scikit-learn: options={'zipmap': False})"
                )
        return dict(zip(names, values, strict=True))

    # For those who must open the same file otherwise: see `serving`.
    run.__dict__["path"] = getattr(session, "path", None) or getattr(session, "_model_path", None)
    # onnxruntime's sessions take several calls at a time; a lean one is closed behind another's back.
    run.__dict__["shared"] = isinstance(session, ort.InferenceSession)
    return run


def answers(run: Run, requests: Iterable[Arrays], lanes: int = 1) -> Iterator[Arrays]:
    """The answer to each request, in order; up to `lanes` are under way, where the run can be called so.

    Each run is the same as alone, so the answers are, too.

    Args:
        run: a `runner`'s, or another's, which is called by one thread.
        requests: read as they are needed.
        lanes: threads.

    Raises:
        InputError: of the run, at the place of its request.
    """
    return in_lanes(run, requests, lanes if getattr(run, "shared", False) else 1)


def in_lanes(task: Callable[[A], B], items: Iterable[A], lanes: int) -> Generator[B, None, None]:
    """What the task gives for each item, in order; items that nobody asks for any more are not begun."""
    if lanes <= 1:
        yield from map(task, items)
        return
    waiting = iter(items)
    with ThreadPoolExecutor(lanes, thread_name_prefix="lane") as pool:
        # One more than there are threads: the next item is read meanwhile.
        open_ = deque[Future[B]](pool.submit(task, i) for i in itertools.islice(waiting, lanes + 1))
        try:
            while open_:
                found = open_.popleft().result()
                open_.extend(pool.submit(task, i) for i in itertools.islice(waiting, 1))
                yield found
        finally:
            for future in open_:
                future.cancel()


def path_of(run: Run) -> Path | None:
    """The file behind a `runner`'s function; None: not known."""
    found = getattr(run, "path", None)
    return Path(found) if found else None


def fixed_rows(session: Any) -> int:
    """The batch that the model insists on, 1 if it takes any: what one golden case or one request holds."""
    first = [i.shape[0] for i in session.get_inputs() if i.shape]
    return next((d for d in first if isinstance(d, int) and d > 0), 1)


def batch_rows(run: Run, data: Batches, *, fixed: int | None, most: int = BATCH_ROWS) -> int:
    """How many rows one run may get: the answers for a batch must be those for its rows alone.

    Many files declare a free batch and yet reshape to one row, or branch or scale by what the whole batch holds. So some
    rows are tried together and apart; where the shapes or numbers differ (or the run fails), rows go one at a time.

    Args:
        run: the source.
        data: at least one row.
        fixed: the model's batch where it is a fixed number (then that is the answer).
        most: rows that fit into memory.
    """
    if fixed is not None:
        return fixed
    rows = min(most, most_rows(data))
    if rows < 2 or data.samples < 2:
        return 1
    feeds = data.take(min(rows, TRIED_ROWS), 0)
    count = min(len(a) for a in feeds.values())
    try:
        together = run(feeds)
    except InputError:
        return 1
    apart = [run({name: a[i : i + 1] for name, a in feeds.items()}) for i in range(count)]
    for name, whole in together.items():
        parts = [p[name] for p in apart]
        if any(p.ndim == 0 or p.shape[0] != 1 for p in parts) or whole.ndim == 0 or whole.shape[0] != count:
            return 1
        joined = np.concatenate(parts)
        if joined.shape != whole.shape or not _close(joined, whole):
            return 1
    return rows


def most_rows(data: Batches) -> int:
    """Of one run, whatever the model: so that inputs stay small. Hangs on the data alone."""
    row_bytes = sum(a.nbytes for a in data.take(1, 0).values())
    return int(min(BATCH_ROWS, BATCH_BYTES // max(1, row_bytes)))


def _close(a: Array, b: Array) -> bool:
    if not np.issubdtype(a.dtype, np.inexact):
        return bool(np.array_equal(a, b))
    x, y = a.astype(np.float64), b.astype(np.float64)
    scale = float(np.abs(y[np.isfinite(y)]).max(initial=0.0))
    return bool(np.allclose(x, y, rtol=1e-3, atol=1e-4 * scale, equal_nan=True))
