"""The cluster under test: the test bed of this machine, or the one that the user's KUBECONFIG names."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from .kube import ROOT, CommandError, Kube, host_kubectl, run


def testbed_settings() -> ModuleType:
    """testbed/settings.py: addresses and folders of the bed that `$EDGEMODEL_TESTBED_NUMBER` names."""
    spec = importlib.util.spec_from_file_location("testbed_settings", ROOT / "testbed" / "settings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Bed:
    """The test bed: its nodes can be cut off, rebooted and filled."""

    def __init__(self) -> None:
        self.settings = testbed_settings()
        self.kubeconfig = Path(self.settings.bed().kubeconfig)

    def command(self, *arguments: str, timeout: float = 900) -> str:
        """testbed/cluster.py; its standard output."""
        return run(sys.executable, ROOT / "testbed" / "cluster.py", *arguments, timeout=timeout)

    @contextlib.contextmanager
    def cut(self, node: str) -> Iterator[None]:
        """Its cable is pulled; plugged in again at the end."""
        self.command("cut", node)
        try:
            yield
        finally:
            self.command("heal", node)

    @property
    def registry(self) -> str:
        """The bed's own: reached from here and from pods by the same name."""
        return str(self.settings.REGISTRY)

    @property
    def prometheus(self) -> str:
        """URL."""
        return f"http://{self.settings.PROMETHEUS}"

    @property
    def gateway(self) -> str:
        """This machine's address as pods see it: servers of tests listen there."""
        return str(self.settings.GATEWAY)

    @property
    def kubectl(self) -> Path:
        """As the bed built it."""
        cache = Path(self.settings.cache_dir())
        found = sorted(cache.glob(f"kube-*-{self.settings.kube_key()}/kubectl"))
        if not found:
            raise CommandError(f"no kubectl in {cache}: make cluster")
        return found[0]


def find() -> tuple[Kube, Bed | None]:
    """The cluster; and the bed, if it is one. A KUBECONFIG of the user's own wins; else the bed is brought up."""
    bed = Bed()
    given = os.environ.get("KUBECONFIG", "")
    if given and Path(given) != bed.kubeconfig:
        return Kube(Path(given), host_kubectl()), None
    bed.command("up")
    return Kube(bed.kubeconfig, bed.kubectl), bed
