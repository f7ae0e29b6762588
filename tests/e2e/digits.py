"""The example model of the repository: handwritten digits; what its variants answer, computed here."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from edgemodel_oci.reference import Reference
from edgemodel_oci.repository import open_repository
from edgemodel_oci.source import fetch_model_file

from .kube import ROOT, program, run

FOLDER = ROOT / "examples" / "digits"
#: Of one answer's ten probabilities: another CPU rounds otherwise, and an integer kernel more so.
TOLERANCE = 0.02
MAX_BYTES = 2**24


class Digits:
    """Files, requests and right answers. `rows`: how many different requests there are."""

    rows = 40

    def __init__(self) -> None:
        self.folder = FOLDER / "data"
        if not (self.folder / "validation.npz").exists():
            subprocess.run([sys.executable, FOLDER / "prepare.py"], check=True, capture_output=True)
        with np.load(self.folder / "validation.npz") as data:
            self.pixels, self.labels = data["pixels"], data["digit"]

    def sha256(self, name: str) -> str:
        """Of one of the files, hex."""
        return hashlib.sha256((self.folder / name).read_bytes()).hexdigest()

    def push(self, host: str, repository: str) -> dict[str, dict[str, str]]:
        """Model and validation data into a registry, by oras; as `spec.source` and `spec.data.validation`.

        `host`: as it is reached from here; the URIs' host is filled in by the caller.
        """
        found = {}
        for name in ("model.onnx", "validation.npz"):
            tag = name.partition(".")[0]
            reference = f"{host}/{repository}:{tag}"
            arguments = ("--artifact-type", "application/x.digits", "--format", "json")
            said = run(
                program("oras"), "push", "--plain-http", *arguments, "--disable-path-validation", reference,
                self.folder / name,
            )  # fmt: skip
            found[tag] = {"path": f"{repository}@{json.loads(said)['digest']}", "sha256": self.sha256(name)}
        return found

    def request(self, row: int) -> dict[str, Any]:
        """Of the Open Inference Protocol."""
        pixels = self.pixels[row % self.rows]
        data = [float(p) for p in pixels]
        return {"inputs": [{"name": "pixels", "shape": [1, len(data)], "datatype": "FP32", "data": data}]}

    def expected(self, reference: str, digest: str, work: Path) -> np.ndarray:
        """What a variant answers to each row, by its own file from the registry, run here: (rows, 10)."""
        path = work / f"{digest[7:19]}.onnx"
        # No TLS on the way: at the test bed's own registry, or through a forwarded port.
        os.environ["EDGEMODEL_PLAIN_HTTP_REGISTRIES"] = Reference.parse(reference).host
        with open_repository(Reference.parse(reference)) as repository:
            fetch_model_file(repository, digest, path, max_bytes=MAX_BYTES)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (out,) = session.run(None, {"pixels": self.pixels[: self.rows]})
        return np.asarray(out)

    def is_right(self, row: int, values: tuple[float, ...], expected: np.ndarray) -> bool:
        """Whether an answer is that of the variant which `expected` belongs to."""
        return bool(np.allclose(values, expected[row % self.rows], atol=TOLERANCE))
