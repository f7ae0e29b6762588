"""tools/image_parts.py: which packages an image gets, and what is thrown away."""

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]
LOCK = """# made by uv
aiohttp==1.0 \\
    --hash=sha256:aa
    # via kopf
kopf==2.0 \\
    --hash=sha256:bb \\
    --hash=sha256:bc
    # via edgemodel (pyproject.toml)
numpy==3.0 ; python_full_version < '3.12' \\
    --hash=sha256:cc
    # via
    #   edgemodel (pyproject.toml)
    #   onnx
numpy==4.0 ; python_full_version >= '3.12' \\
    --hash=sha256:dd
    # via
    #   edgemodel (pyproject.toml)
    #   onnx
onnx==5.0 \\
    --hash=sha256:ee
    # via edgemodel (pyproject.toml)
pytest==6.0 \\
    --hash=sha256:ff
    # via edgemodel (pyproject.toml:dev)
"""


@pytest.fixture(scope="module")
def parts() -> ModuleType:
    spec = importlib.util.spec_from_file_location("image_parts", ROOT / "tools" / "image_parts.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def project(**extras: list[str]) -> dict:
    names = ("operator", "compressor", "train", "tflite", "coreml", "agent")
    return {"dependencies": [], "optional-dependencies": {**{name: [] for name in names}, **extras}}


def wanted(parts: ModuleType, lock: str, project: dict) -> dict[str, str]:
    return {f"{role}-{arch}": text for role, arch, text in parts.requirements(lock, project)}


def test_each_role_gets_its_extra_and_what_that_needs(parts: ModuleType) -> None:
    found = wanted(parts, LOCK, project(operator=["kopf>=1"], compressor=["Onnx>=2"], coreml=["pytest>=6"]))
    assert re.findall(r"(?m)^\w+", found["operator-arm64"]) == ["aiohttp", "kopf"]
    onnx = ["numpy==3.0", "numpy==4.0", "onnx==5.0"]
    assert re.findall(r"(?m)^\w+==\S+", found["compressor-arm64"]) == onnx
    assert re.findall(r"(?m)^\w+==\S+", found["compressor-amd64"]) == [*onnx, "pytest==6.0"], "no wheel for arm64"
    assert found["agent-amd64"] == ""
    assert found["operator-arm64"].count("--hash=") == 3
    assert "#" not in found["operator-arm64"]


def test_one_that_is_not_locked_has_no_hash_for_pip_to_accept(parts: ModuleType) -> None:
    found = wanted(parts, LOCK, project(agent=["starlette>=1.0"]))
    assert found["agent-amd64"] == "starlette>=1.0\n"


def test_the_real_lock_has_hashes_for_every_package_of_a_role(parts: ModuleType) -> None:
    real = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = wanted(parts, (ROOT / "requirements.lock").read_text(), real)
    assert set(found) == {f"{role}-{arch}" for role in parts.ROLES for arch in ("amd64", "arm64")}
    for text in found.values():
        blocks = re.split(r"(?m)^(?=[a-z0-9])", text)[1:]
        assert [block for block in blocks if "--hash=sha256:" not in block] == []
        assert not re.search(r"(?m)^pytest==", text)


@pytest.mark.parametrize(
    ("architecture", "library", "complaint"),
    [("arm", ("glibc", "2.36"), "arm with glibc"), ("amd64", ("", ""), "other than glibc"), ("", ("glibc", "2.36"), "unknown")],
)  # fmt: skip
def test_a_platform_without_wheels_is_refused(
    parts: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
    library: tuple[str, str],
    complaint: str,
) -> None:
    monkeypatch.setattr(parts.platform, "libc_ver", lambda: library)
    with pytest.raises(SystemExit, match=complaint):
        list(parts.pip_options(architecture))


def test_wheels_are_those_of_the_c_library_or_older(parts: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts.platform, "libc_ver", lambda: ("glibc", "2.36"))
    options = list(parts.pip_options("arm64"))
    assert options[0] == "--only-binary=:all:"
    assert options[1] == "--platform=manylinux_2_36_aarch64"
    assert "--platform=manylinux2014_aarch64" in options
    assert "--platform=manylinux_2_37_aarch64" not in options


def test_strip_keeps_what_is_imported_and_copyrights(parts: ModuleType, tmp_path: Path) -> None:
    kept = ["numpy/__init__.py", "numpy/lib/x.py", "usr/share/doc/bash/copyright", "usr/bin/python3"]
    gone = ["numpy/lib/tests/test_x.py", "bin/uvicorn", "usr/share/doc/bash/changelog.gz", "usr/bin/perl5.36"]
    for name in (*kept, *gone):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    parts.strip(tmp_path, parts.PACKAGES_CLUTTER)
    parts.strip(tmp_path, parts.BASE_CLUTTER)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == sorted(kept)


def test_the_user_has_a_name(parts: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (tmp_path / "etc/group").write_text("root:x:0:\n")
    parts.add_user(tmp_path)
    assert (tmp_path / "etc/passwd").read_text().splitlines()[1].startswith("edgemodel:x:65532:65532:")
    assert (tmp_path / "etc/group").read_text().splitlines()[1] == "edgemodel:x:65532:"


def test_the_agent_keeps_of_litert_what_its_runtime_imports(parts: ModuleType, tmp_path: Path) -> None:
    litert = ["__init__.py", "interpreter.py", "metrics_portable.py", "metrics_interface.py"]
    litert += ["_pywrap_litert_interpreter_wrapper.so", "libpywrap_litert_common.so"]
    kept = [*(f"ai_edge_litert/{name}" for name in litert), "numpy/__init__.py", "flatbuffers/table.py"]
    gone = [f"ai_edge_litert/{name}" for name in ("libLiteRt.so", "libLiteRtWebGpuAccelerator.so", "vendors/x.so")]
    gone += ["ai_edge_litert/schema_py_generated.py", "ai_edge_litert/descriptor_pb2.py", "tqdm/std.py"]
    for name in (*kept, *gone):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    parts.strip(tmp_path, parts.PACKAGES_CLUTTER + parts.ROLE_CLUTTER["agent"])
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == sorted(kept)
