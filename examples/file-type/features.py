"""What magika's model looks at: the first and the last bytes of a file, as numbers. Only numpy is needed.

The same as `magika.Magika._extract_features_from_seekable` (features v2), by the numbers of its model config.
"""

from __future__ import annotations

import numpy as np

BEGINNING = 1024
END = 1024
BLOCK = 4096
PADDING = 256
#: Shorter files tell too little; magika answers for them without its model.
SMALLEST = 8


def features(content: bytes) -> np.ndarray:
    """Bytes of a whole file → int32 of shape (2048,): 0…255 are bytes, 256 is padding.

    Whitespace at both ends does not count, and of a large file only the first and last 4096 bytes are read.
    """
    beginning = content[:BLOCK].lstrip()[:BEGINNING]
    end = content[-BLOCK:].rstrip()[-END:]
    out = np.full(BEGINNING + END, PADDING, np.int32)
    out[: len(beginning)] = np.frombuffer(beginning, np.uint8)
    out[len(out) - len(end) :] = np.frombuffer(end, np.uint8)
    return out
