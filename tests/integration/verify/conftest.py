"""Kinds of CPU that this machine can emulate."""

from __future__ import annotations

import os

import pytest

from edgemodel_api.hardware import HardwareClass
from edgemodel_compressor.verify import Machine, Machines, machines

from ...unit.compressor_verify.conftest import v  # noqa: F401, TID252


@pytest.fixture(scope="session")
def fleet() -> Machines:
    with pytest.MonkeyPatch.context() as patch:
        # tests/conftest.py turns emulation off for all others.
        patch.delenv("EDGEMODEL_EMULATION", raising=False)
        return machines()


@pytest.fixture
def emulated(fleet: Machines):
    """kind → the machine; without it the test is skipped, or fails where tools are required."""

    def get(kind: HardwareClass) -> Machine:
        found = fleet.of(kind)
        if found is not None:
            return found
        message = f"{kind}: {fleet.missing[kind]}"
        if os.environ.get("EDGEMODEL_REQUIRE_TOOLS") == "1":
            pytest.fail(message)
        pytest.skip(message)

    return get
