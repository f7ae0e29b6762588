import hashlib
import io
import tarfile
from pathlib import Path

import pytest
import zstandard

from edgemodel_api.artifact import Golden
from edgemodel_oci.artifact import ArtifactWriter
from edgemodel_oci.layout import Layout
from edgemodel_oci.reference import Reference

CONTENT = b"weights " * 10_000


@pytest.fixture
def content() -> bytes:
    return CONTENT


@pytest.fixture
def sha256():
    return lambda data: f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture
def layout(tmp_path) -> Layout:
    return Layout(Reference.parse(f"oci-layout://{tmp_path}/layout"), create=True)


@pytest.fixture
def files(tmp_path) -> tuple[Path, Path]:
    """A model file and a golden file."""
    model, golden = tmp_path / "model.onnx", tmp_path / "golden.npz"
    model.write_bytes(CONTENT)
    golden.write_bytes(b"golden cases")
    return model, golden


@pytest.fixture
def add(files):
    """Add a variant; any argument of `add_variant` may be given."""

    def run(writer: ArtifactWriter, **fields):
        defaults = {
            "platform": "linux/amd64",
            "name": "source",
            "model_file": files[0],
            "golden_file": files[1],
            "golden": Golden(cases=4, max_error=1e-3, min_agreement=0.75),
            "classes": (),
            "encoding": "float32",
            "source_name": "tiny",
        }
        return writer.add_variant(**{**defaults, **fields})

    return run


@pytest.fixture
def tar():
    """Bytes of a tar archive: members are (name, content) or a TarInfo."""

    def make(*members, kind=tarfile.PAX_FORMAT) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=kind) as archive:
            for member in members:
                if isinstance(member, tarfile.TarInfo):
                    archive.addfile(member, io.BytesIO(bytes(member.size)))
                    continue
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
        return out.getvalue()

    return make


@pytest.fixture
def zstd():
    return lambda data: zstandard.ZstdCompressor().compress(data)


@pytest.fixture
def snapshot():
    """Relative path → content of every file below a folder."""
    return lambda folder: {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
