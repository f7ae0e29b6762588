"""What the Dockerfile's build stages ask for. Standard library only: it runs in the base image, before anything is installed.

python3 image_parts.py requirements FOLDER   ROLE-ARCH.txt for each role, and the project's own metadata, into FOLDER
python3 image_parts.py install ROLE ARCH FOLDER     those of /lock into site-packages, wheels for amd64 or arm64 whatever runs it, without
                                             what that role never reads, compiled
python3 image_parts.py strip-base FOLDER     the same for a base image's files, and add the user that containers run as
"""

from __future__ import annotations

import itertools
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

#: Extras of each role, and those that are there for one architecture only (coremltools has no wheel for arm64 on Linux).
ROLES = {"operator": ("operator",), "compressor": ("compressor", "train", "tflite"), "agent": ("agent",)}
EXTRAS_ON = {("compressor", "amd64"): ("coreml",)}
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
USER = 65532
#: Below site-packages: what weighs and is never imported by us.
PACKAGES_CLUTTER = (
    "**/*.pyi",
    "**/tests",
    "bin",
    "kubernetes/e2e_test",
    "ai_edge_litert/libLiteRtWebGpu*",
    "ai_edge_litert/tools",
    "coremltools/test",
    "numpy/**/*.a",
    "numpy/_core/include",
    "numpy/distutils",
    "onnx/**/*.h",
    "onnx/**/*.proto*",
    "onnx/backend/test",
    "onnx/test",
    # For C programs: Python's module, beside it, has all of it inside once more.
    "onnxruntime/capi/libonnxruntime.so.*",
    "onnxruntime/datasets",
    "onnxruntime/tools",
    "sympy/**/benchmarks",
    # For PyPy.
    "zstandard/_cffi*",
)
#: The compressor quantizes, and onnxruntime.quantization imports onnxruntime.transformers; it reads TFLite's schema; and coremltools
#: (by scipy) asks numpy for all that it has. Of LiteRT the agent needs the interpreter alone, which is in libpywrap_litert_common:
#: not its other interface (libLiteRt), nor what compiles for accelerators, nor what only these import.
ROLE_CLUTTER = {
    "agent": (
        "ai_edge_litert/*_pb2.py",
        "ai_edge_litert/aot",
        "ai_edge_litert/libLiteRt*",
        "ai_edge_litert/schema_py_generated.py",
        "ai_edge_litert/tflite",
        "ai_edge_litert/vendors",
        "ml_dtypes",
        "numpy/f2py",
        "onnxruntime/quantization",
        "onnxruntime/transformers",
        "tqdm",
    )
}
#: Below the base's root, whether Debian's Python or the official image's. Copyright files stay, as their licences ask.
BASE_CLUTTER = (
    "dev/*",
    "etc/apt/apt.conf.d/docker-*",
    "usr/bin/apt*",
    "usr/bin/perl*",
    "usr/lib/apt",
    "usr/lib/*-linux-gnu/libapt-*",
    "usr/lib/*-linux-gnu/perl*",
    "usr/lib/python3*/ensurepip",
    "usr/lib/python3*/idlelib",
    "usr/lib/python3*/lib2to3",
    "usr/lib/python3*/test",
    "usr/lib/python3*/tkinter",
    "usr/lib/python3/dist-packages/*",
    "usr/local/bin/2to3*",
    "usr/local/bin/idle*",
    "usr/local/bin/pip*",
    "usr/local/bin/pydoc*",
    "usr/local/bin/python*-config",
    "usr/local/include/*",
    "usr/local/lib/libpython*.a",
    "usr/local/lib/pkgconfig",
    "usr/local/lib/python3*/config-*",
    "usr/local/lib/python3*/ensurepip",
    "usr/local/lib/python3*/idlelib",
    "usr/local/lib/python3*/lib2to3",
    "usr/local/lib/python3*/site-packages/*",
    "usr/local/lib/python3*/test",
    "usr/local/lib/python3*/tkinter",
    "usr/local/lib/python3*/turtledemo",
    "usr/share/bash-completion",
    "usr/share/doc/*/[!c]*",
    "usr/share/doc/*/c[!o]*",
    "usr/share/info/*",
    "usr/share/lintian",
    "usr/share/locale/*",
    "usr/share/man/*",
    "usr/share/perl*",
    "usr/share/python-wheels",
    "var/cache/*/*",
    "var/lib/apt/lists/*",
    "var/log/*",
)


def requirements(lock: str, project: dict[str, object]) -> Iterator[tuple[str, str, str]]:
    """(role, architecture, the lines of the lock file that are its extras and what those need).

    What needs what is in the lock's own comments ("via"), so no index is asked. Were one missing, pip itself would
    refuse, as all versions come with hashes.
    """
    blocks: dict[str, str] = {}
    via: dict[str, set[str]] = {}
    for block in re.split(r"(?m)^(?=[a-z0-9])", lock):
        if match := re.match(r"[a-z0-9._-]+(?===)", block):
            lines = [line for line in block.splitlines(keepends=True) if not line.lstrip().startswith("#")]
            # One package may have several versions, for several Pythons; markers tell them apart.
            blocks[match[0]] = blocks.get(match[0], "") + "".join(lines)
            via.setdefault(match[0], set()).update(re.findall(r"(?m)^ +#(?: via|  ) +([a-z0-9._-]+)", block))
    for role, architecture in itertools.product(ROLES, MACHINES):
        texts = [*project["dependencies"]]
        for extra in (*ROLES[role], *EXTRAS_ON.get((role, architecture), ())):
            texts += project["optional-dependencies"][extra]
        direct = {_name(text): text for text in texts}
        inside = set(direct)
        while more := {name for name, parents in via.items() if parents & inside} - inside:
            inside |= more
        # One that was not locked yet stands here without a hash: pip says which, and only in the images that need it.
        yield role, architecture, "".join(blocks.get(name) or f"{direct[name]}\n" for name in sorted(inside))


def _name(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]+", requirement)[0]).lower()


def pip_options(architecture: str) -> Iterator[str]:
    """For `pip install --target`: wheels for that architecture and this image's C library.

    Raises:
        SystemExit: no wheels are built for it.
    """
    library, version = platform.libc_ver()
    if architecture not in MACHINES or library != "glibc":
        wanted = f"{architecture or 'an unknown architecture'} with {library or 'a C library other than glibc'}"
        sys.exit(
            f"onnxruntime has no wheels for {wanted}: build for linux/{' or linux/'.join(MACHINES)} on a Debian base"
        )
    machine = MACHINES[architecture]
    yield "--only-binary=:all:"
    for minor in range(int(version.split(".")[1]), 4, -1):
        yield f"--platform=manylinux_2_{minor}_{machine}"
    for old in ("manylinux2014", "manylinux2010", "manylinux1", "linux"):
        yield f"--platform={old}_{machine}"


def install(role: str, architecture: str, site: str) -> None:
    """A role's packages into the folder `site`."""
    pip = [
        "/opt/pip/bin/pip",
        "install",
        "--disable-pip-version-check",
        "--root-user-action=ignore",
        "--require-hashes",
    ]
    pip += [*pip_options(architecture), "--no-compile", "--target", site, "-r", f"/lock/{role}-{architecture}.txt"]
    subprocess.run(pip, check=True)
    strip(Path(site), PACKAGES_CLUTTER + ROLE_CLUTTER.get(role, ()))
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", site], check=True
    )


def strip(folder: Path, patterns: tuple[str, ...]) -> None:
    """Remove what the patterns name."""
    for pattern in patterns:
        for path in list(folder.glob(pattern)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def add_user(root: Path) -> None:
    """The user of our containers, so that libraries that ask for its name or home get an answer."""
    for name, line in (
        ("passwd", f"edgemodel:x:{USER}:{USER}::/tmp:/usr/sbin/nologin"),
        ("group", f"edgemodel:x:{USER}:"),
    ):
        path = root / "etc" / name
        path.write_text(f"{path.read_text().rstrip()}\n{line}\n")


def main() -> None:
    """As the module says."""
    command, *arguments = sys.argv[1:]
    argument = arguments[-1]
    if command == "requirements":
        project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
        folder = Path(argument)
        for role, architecture, text in requirements(Path("requirements.lock").read_text(), project):
            (folder / f"{role}-{architecture}.txt").write_text(text)
        metadata = folder / f"{project['name']}-{project['version']}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        )
    elif command == "install":
        install(*arguments)
    elif command == "strip-base":
        strip(Path(argument), BASE_CLUTTER)
        add_user(Path(argument))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
