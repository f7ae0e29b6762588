"""EdgeModel from Python: `compress()` does what `edgemodel compress` does, in the same words (docs/python.md).

>>> import edgemodel
>>> done = edgemodel.compress("model.onnx", validation="v.npz", labels="y", max_quality_drop="0.5%")  # doctest: +SKIP
>>> done.path, done.candidates, done.save_html("report.html")  # doctest: +SKIP
"""

from edgemodel_api.errors import EdgeModelError, InputError, RefusedError, TransientError
from edgemodel_api.job import Progress
from edgemodel_api.report import CompressionReport

from .api import compress
from .result import CandidateRow, Compressed, CompressionRefusedError, Findings

__all__ = [
    "CandidateRow",
    "Compressed",
    "CompressionRefusedError",
    "CompressionReport",
    "EdgeModelError",
    "Findings",
    "InputError",
    "Progress",
    "RefusedError",
    "TransientError",
    "compress",
]
