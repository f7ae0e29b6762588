"""The whole life of a model, on this machine: compressed, rolled out to three local nodes, asked, and put back.

`python examples/file-type/demo.py --workdir DIR [FILE …]`. What `make demo` runs. Nothing but `edgemodel` and plain HTTP
is used here; what is printed with a `$` can be typed.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import prepare
import yaml
from features import SMALLEST, features

HERE = Path(__file__).parent
MANIFEST = HERE / "edgemodel.yaml"
NODES = ("node-1", "node-2", "node-3")
#: The third node says no to the second revision. `after: 1`: only once it has served another one.
REHEARSAL = {"fault": "WrongOutput", "at": "Check", "after": 1}
ROLLED_OUT, REFUSED = 0, 1


class DemoError(Exception):
    """Something went another way than it should."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("files", nargs="*", type=Path, help="files to ask about; a few of this checkout by default")
    parser.add_argument("--workdir", type=Path, default=Path(".edgemodel/demo"), help="where everything is kept")
    parser.add_argument("--keep", action="store_true", help="let the nodes serve on, to be asked with curl")
    arguments = parser.parse_args()
    workdir: Path = arguments.workdir
    prepare.DATA.mkdir(exist_ok=True)
    files = [path for path in arguments.files or defaults() if path.stat().st_size >= SMALLEST]
    started = time.monotonic()
    try:
        play(workdir, files)
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    finally:
        if not arguments.keep and (workdir / "nodes").is_dir():
            say("The end: the nodes drain and stop.")
            edgemodel("stop", "--workdir", workdir)
    print(f"\nReport, with pictures: {workdir.resolve() / 'report.html'}")
    print(f"All of it took {time.monotonic() - started:.0f} s.")
    return 0


def play(workdir: Path, files: list[Path]) -> None:
    """The acts.

    Raises:
        DemoError: one of them did not end as it should.
    """
    say("A trained model, and files of known type to judge it by.")
    prepare.main()

    say("First act: the smallest variant that keeps the budget walks over three nodes, one first, then all.")
    run(workdir, MANIFEST, nodes_file(rehearse=False), expect=ROLLED_OUT)

    say("The nodes serve. Any of them is asked over HTTP (Open Inference Protocol v2), and says what a file is.")
    first = nodes(workdir)
    for i, path in enumerate(files):
        print(answer(first[i % len(first)], path))

    say("Second act: a new revision, which goes wrong on one node. It is stopped, and the fleet is put back.")
    print(f"# {NODES[-1]} rehearses a fault: {json.dumps(REHEARSAL)}")
    changed = changed_manifest()
    run(workdir, changed, nodes_file(rehearse=True), expect=REFUSED)

    say("The first revision has served all the while.")
    after = nodes(workdir)
    for node in after:
        print(answer(node, files[0]))
    if {node["revision"] for node in after} != {node["revision"] for node in first}:
        raise DemoError("a node serves another revision than before the second act")


def say(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)


def edgemodel(*arguments: object) -> int:
    """Run the command line, showing what is run."""
    command = ["edgemodel", *map(str, arguments)]
    print(f"$ {shlex.join(command)}", flush=True)
    return subprocess.run([sys.executable, "-m", "edgemodel_cli", *command[1:]], check=False).returncode


def run(workdir: Path, manifest: Path, nodes: Path, *, expect: int) -> None:
    """`edgemodel run`, whose exit code says how the revision ended."""
    code = edgemodel("run", "-f", manifest, "--nodes-file", nodes, "--workdir", workdir, "--keep-serving")
    if code != expect:
        raise DemoError(f"edgemodel run ended with exit code {code}; {expect} was expected")
    if code:
        print(f"# exit code {code}: refused by a gate or rolled back")


def nodes_file(*, rehearse: bool) -> Path:
    """Three nodes; with a rehearsal on the last one, or without."""
    listed: list[dict[str, object]] = [{"name": name} for name in NODES]
    if rehearse:
        listed[-1]["rehearse"] = REHEARSAL
    path = prepare.DATA / ("nodes-rehearsal.yaml" if rehearse else "nodes.yaml")
    path.write_text(yaml.safe_dump({"nodes": listed}, sort_keys=False))
    return path


def changed_manifest() -> Path:
    """The same model by another recipe, so that there is another revision: half precision, nothing searched."""
    document = yaml.safe_load(MANIFEST.read_text())
    spec = document["spec"]
    # Relative to the manifest, which now lies elsewhere.
    for file in (spec["source"], spec["data"]["calibration"], spec["data"]["validation"]):
        file["uri"] = f"file:{(HERE / file['uri'].removeprefix('file:')).resolve()}"
    spec["compression"]["steps"] = [{"quantize": {"precision": "Float16", "activations": "None"}}]
    path = prepare.DATA / "edgemodel-changed.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def nodes(workdir: Path) -> list[dict[str, str]]:
    """Name, endpoint, revision and variant of each node, from what its agent reports."""
    found = []
    for name in NODES:
        status = json.loads((workdir / "objects" / "edgenodes" / name / "status.json").read_bytes())
        running = next((m["running"] for m in status["models"] if m["name"] == "file-type" and m.get("running")), None)
        if running is None:
            raise DemoError(f"{name} serves nothing")
        found.append({"node": name, **{key: running[key] for key in ("endpoint", "revision", "variant")}})
    return found


def answer(node: dict[str, str], path: Path) -> str:
    """Ask a node what a file is; a line to print."""
    content = features(path.read_bytes())
    question = {
        "inputs": [{"name": "bytes", "shape": [1, len(content)], "datatype": "INT32", "data": content.tolist()}]
    }
    request = urllib.request.Request(
        f"{node['endpoint']}/infer",
        json.dumps(question).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        reply = json.load(response)
    scores = reply["outputs"][0]["data"]
    best = max(range(len(scores)), key=scores.__getitem__)
    kind = prepare.type_names()[best]
    return (
        f"{node['node']} ({reply['model_version']}, {node['variant']}): {path.name} is {kind}, {scores[best]:.1%} sure"
    )


def defaults() -> list[Path]:
    """A few files that every checkout has, and a PDF whose name says nothing."""
    import random

    import samples

    document = prepare.DATA / "unknown.bin"
    document.write_bytes(samples.pdf(random.Random("demo")))
    root = HERE.parent.parent
    return [document, root / "README.md", Path(__file__), root / "pyproject.toml"]


if __name__ == "__main__":
    sys.exit(main())
