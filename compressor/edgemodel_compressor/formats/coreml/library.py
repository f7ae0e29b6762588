"""coremltools, imported and called so that the user's terminal stays clean and errors stay errors.

On Linux its import logs that Apple's frameworks are missing (they only run models) and which scikit-learn it would
like (only for converters that are not used here), and its passes draw progress bars. Errors are exceptions, which
nothing here touches.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

from edgemodel_api.errors import InputError
from edgemodel_api.reasons import NOT_SUPPORTED


class _OtherThreads(io.TextIOBase):
    """stderr for every thread but the one that is to be quiet."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._quiet = threading.get_ident()

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self._quiet else self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within: no warnings, no log below ERROR, no progress bars of this thread's calls into coremltools."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            with contextlib.redirect_stderr(_OtherThreads(sys.stderr)):
                yield
        finally:
            logger.setLevel(level)


def coremltools() -> Any:
    """The module.

    Raises:
        InputError: it is not installed.
    """
    if "coremltools" in sys.modules:
        return sys.modules["coremltools"]
    try:
        with quiet():
            import coremltools  # type: ignore[import-untyped]
    except ImportError as error:
        raise InputError(
            f"Core ML needs the extra `edgemodel[coreml]` ({error}): install it, or take CoreML out of spec.formats",
            reason=NOT_SUPPORTED,
        ) from None
    return coremltools


def builder() -> Any:
    """`coremltools.converters.mil.Builder`."""
    coremltools()
    from coremltools.converters.mil import Builder  # type: ignore[import-untyped]

    return Builder
