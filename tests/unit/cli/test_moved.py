"""A workdir that was moved."""

import json

from edgemodel_cli.embedded.moved import follow
from edgemodel_cli.embedded.workdir import Workdir


def test_references_follow_the_registry(tmp_path):
    workdir = Workdir(tmp_path)
    before = {"artifact": {"reference": "oci-layout:///old/registry", "digest": "sha256:1"}}
    files = {
        "objects/edgemodels/default/m/status.json": {**before, "history": [before]},
        "objects/edgenodes/n/spec.json": {"generation": 3, "spec": {"models": [{"target": before["artifact"]}]}},
        "jobs/0123/result.json": {"reference": "oci-layout:///old/registry"},
        "objects/edgemodels/default/m/spec.json": {"spec": {"source": {"uri": "oci-layout:///old/registry"}}},
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    assert follow(workdir)
    for name, content in files.items():
        old = json.dumps(content)
        new = old if name.endswith("m/spec.json") else old.replace("oci-layout:///old/registry", workdir.output)
        assert json.loads((tmp_path / name).read_text()) == json.loads(new), name
    assert not follow(workdir)
