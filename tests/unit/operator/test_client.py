"""Answers of the API server as errors. The texts are those of Kubernetes 1.34."""

from __future__ import annotations

import json

import pytest

from edgemodel_api.errors import TransientError
from edgemodel_operator.k8s.client import ConflictError, ForbiddenError, NotFoundError, RejectedError, error_of


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (404, 'edgemodels.edgemodel.dev "m" not found', NotFoundError),
        (409, "the object has been modified; please apply your changes to the latest version", ConflictError),
        (422, "the server rejected our request due to an error in our request", ConflictError),
        (422, 'EdgeNode.edgemodel.dev "n1" is invalid: metadata.uid: Invalid value: "1": field is immutable', ConflictError),
        (422, 'EdgeModel.edgemodel.dev "m" is invalid: status.observedGeneration: Invalid value', RejectedError),
        (400, "bad", RejectedError),
        (403, "events is forbidden: because it is being terminated", ForbiddenError),
        (429, "storage is (re)initializing", TransientError),
        (500, "etcdserver: request timed out", TransientError),
    ],
)  # fmt: skip
def test_kinds(status, message, kind):
    error = error_of(status, "PATCH /x", json.dumps({"message": message}).encode())
    assert type(error) is kind
    assert message in error.message


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b"\xff"])
def test_an_answer_that_is_no_status(content):
    assert isinstance(error_of(502, "GET /x", content), TransientError)
