"""A Job's pod, run as a process: its user, its environment, its mounts; all else can be read only, as in its container."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgemodel_api.job import JobResult, JobSpec, Outcome
from edgemodel_operator.k8s import objects
from edgemodel_operator.k8s.job_manifest import ANNOTATION_JOB, manifest
from edgemodel_operator.settings import JobSettings

from .conftest import ROOT

DATA = ROOT / "examples" / "digits" / "data"
ENTER = """
import json, os, sys
root = sys.argv[1]
start = json.load(open(root + "/start.json"))
os.chroot(root)
os.chdir(start["cwd"])
os.setgroups([])
os.setgid(start["group"])
os.setuid(start["user"])
os.execve(start["command"][0], start["command"], start["env"])
"""


def system(root: Path) -> list[str]:
    """Commands that lay out the container's file system: this machine's programs and this checkout, to be read only."""
    commands = [f"mount --bind {root} {root}"]
    # The interpreter that the environment is made of may lie anywhere.
    base = Path(sys.base_prefix)
    for folder in [Path(f"/{name}") for name in ("usr", "lib", "lib64", "bin", "etc", "opt")] + [base]:
        inside = Path(f"{root}{folder}")
        inside.parent.mkdir(parents=True, exist_ok=True)
        if folder.is_symlink():
            inside.symlink_to(os.readlink(folder))
        elif folder.is_dir() and not inside.exists():
            inside.mkdir()
            commands += [f"mount --bind {folder} {inside}", f"mount -o remount,bind,ro {inside}"]
    for folder, inside in ((ROOT, "checkout"), (Path("/dev"), "dev"), (Path("/proc"), "proc")):
        (root / inside).mkdir()
        commands.append(f"mount --rbind {folder} {root}/{inside}")
    return [*commands, f"mount -o remount,bind,ro {root}/checkout"]


@pytest.fixture
def pod(tmp_path):
    """Run the pod of a Job; `laid` are the files of its mounts, by their path in the pod."""
    if os.geteuid() != 0:
        pytest.fail("this test makes mounts, so it needs root, as the test bed does")

    def run(model, job: JobSpec, laid: dict[str, Path]) -> tuple[JobResult, list[str], str]:
        template = manifest(model, job, JobSettings(image="registry.example.com/compressor:1"))["spec"]["template"]
        spec, container = template["spec"], template["spec"]["containers"][0]
        root = tmp_path / "root"
        for mount in container["volumeMounts"]:
            Path(f"{root}{mount['mountPath']}").mkdir(parents=True)
        for path, content in laid.items():
            shutil.copy(content, f"{root}{path}")
        contract = root / "contract" / "job.json"
        contract.write_text(template["metadata"]["annotations"][ANNOTATION_JOB])
        commands = system(root)
        for mount in container["volumeMounts"]:
            if not mount.get("readOnly"):
                inside = f"{root}{mount['mountPath']}"
                os.chown(inside, 0, spec["securityContext"]["fsGroup"])
                os.chmod(inside, 0o2775)  # as the kubelet does for fsGroup
                commands.append(f"mount --bind {inside} {inside}")
        environment = {e["name"]: e["value"] for e in container["env"]} | {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": os.pathsep.join(f"/checkout/{part}" for part in ("api", "oci", "compressor")),
        }
        python = "/checkout/" + str(Path(sys.executable).relative_to(ROOT))
        start = {
            "command": [python, *container["command"][1:], *container["args"]], "env": environment,
            "cwd": container["workingDir"], "user": spec["securityContext"]["runAsUser"],
            "group": spec["securityContext"]["runAsGroup"],
        }  # fmt: skip
        (root / "start.json").write_text(json.dumps(start))
        (tmp_path / "enter.py").write_text(ENTER)
        commands += [f"mount -o remount,bind,ro {root}", f"exec {sys.executable} {tmp_path / 'enter.py'} {root}"]
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-ec", "\n".join(commands)],
            capture_output=True, text=True, timeout=110, check=False,
        )  # fmt: skip
        path = Path(f"{root}{container['terminationMessagePath']}")
        assert path.is_file(), done.stderr[-3000:]
        left = sorted(p.name for p in (root / "work").iterdir())
        return JobResult.model_validate_json(path.read_bytes()), left, done.stderr

    return run


def edge_model(**spec):
    return objects.parse_model(
        {
            "apiVersion": "edgemodel.dev/v1alpha1",
            "kind": "EdgeModel",
            "metadata": {"name": "digits", "namespace": "default", "uid": "u"},
            "spec": spec,
        }
    )


def test_everything_that_it_writes_can_be_written(pod):
    """The root file system is read-only: TMPDIR and HOME are the work folder, and the result is there, too."""
    step = {"quantize": {"activations": "None"}}
    model = edge_model(
        source={"uri": "pvc://models/model.onnx"},
        data={"calibration": {"uri": "pvc://models/calibration.npz"}},
        compression={"steps": [step], "budget": {"maxQualityDrop": "50%", "maxSlowdown": "1000%"}},
    )
    job = JobSpec.of(
        model, revision="0123456789ab", platforms=("linux/amd64",), output="oci-layout:///work/out", base_dir="."
    )
    if not (DATA / "model.onnx").exists():
        subprocess.run([sys.executable, DATA.parent / "prepare.py"], check=True, capture_output=True)
    laid = {f"/volumes/models/{name}": DATA / name for name in ("model.onnx", "calibration.npz")}
    result, left, log = pod(model, job, laid)
    assert result.outcome is Outcome.SUCCEEDED, f"{result.message}\n{log}"
    assert left == ["out", "result.json"]
    assert "Read-only file system" not in log
    assert "ermission denied" not in log


def test_a_secret_without_its_keys(pod, tmp_path):
    """What to do is in the termination message: which keys, and how to ask for another try."""
    source = {"uri": "s3://models/m", "sha256": "a" * 64, "credentialsSecretRef": {"name": "models-s3"}}
    model = edge_model(source=source)
    job = JobSpec.of(model, revision="0123456789ab", platforms=("linux/amd64",), output="oci-layout:///work/out", base_dir=".")  # fmt: skip
    (tmp_path / "password").write_text("hidden")
    result, _, log = pod(model, job, {"/credentials/source/password": tmp_path / "password"})
    assert result.outcome is Outcome.INVALID
    assert result.message == (
        "source: the Secret models-s3 has no keys for s3 (it has: password): it needs AWS_ACCESS_KEY_ID and"
        " AWS_SECRET_ACCESS_KEY; then: kubectl annotate em digits -n default --overwrite edgemodel.dev/retry=$(date +%s)"
    )
    assert "hidden" not in log
