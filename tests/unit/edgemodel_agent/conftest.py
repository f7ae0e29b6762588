"""Builders of what the agent's unit tests talk about."""

import hashlib
from datetime import UTC, datetime, timedelta

import pytest

from edgemodel_agent.state import Deployed, Failure, ModelState
from edgemodel_api.edgenode import ArtifactTarget, AssignedModel

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def digest_of(name: str) -> str:
    return "sha256:" + hashlib.sha256(name.encode()).hexdigest()


class Build:
    """Short names for long objects: variants are letters."""

    start = START
    digest = staticmethod(digest_of)

    @staticmethod
    def at(seconds: float) -> datetime:
        return START + timedelta(seconds=seconds)

    @staticmethod
    def target(name: str) -> ArtifactTarget:
        return ArtifactTarget(
            revision=f"rev-{name}", reference="oci-layout:///nowhere", digest=digest_of(name), variant=f"variant-{name}"
        )

    @classmethod
    def assigned(cls, name: str, **fields) -> AssignedModel:
        return AssignedModel(namespace="default", name="m", target=cls.target(name), **fields)

    @classmethod
    def deployed(cls, name: str, **fields) -> Deployed:
        return Deployed(**{"target": cls.target(name), "since": START, "port": 8000, **fields})

    @classmethod
    def failure(cls, name: str, attempt: int = 1) -> Failure:
        return Failure(digest=digest_of(name), attempt=attempt, reason="GoldenMismatch", message="0.5 > 0.1", at=START)

    @classmethod
    def state(cls, running: str = "", previous: str = "", **fields) -> ModelState:
        return ModelState(
            namespace="default",
            name="m",
            running=cls.deployed(running) if running else None,
            previous=cls.deployed(previous) if previous else None,
            **fields,
        )


@pytest.fixture(scope="session")
def build() -> type[Build]:
    return Build
