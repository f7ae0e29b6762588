"""The compressor: fetch, compress, measure, gate, pack."""

import os

# onnxruntime ≥ 1.29 tells its maker about each process and model, unless this is set before it is imported. Whoever wants that sets 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
