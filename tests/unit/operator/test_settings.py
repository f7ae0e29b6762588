"""Flags: what they come to, and what is said of those that are of no use."""

from __future__ import annotations

from datetime import timedelta

import pytest

from edgemodel_api.errors import InputError
from edgemodel_operator.main import main
from edgemodel_operator.settings import parser, settings_of

NEEDED = ["--output", "oci://registry.example.com/models", "--job-image", "x/y:1"]


def test_defaults():
    found = settings_of(parser({}).parse_args(NEEDED))
    assert found.output_of("default", "m") == "oci://registry.example.com/models/default/m"
    assert (found.namespaces, found.job.deadline, found.offline_after) == ((), timedelta(hours=2), timedelta(minutes=1))


def test_environment_and_flags():
    environment = {"EDGEMODEL_OUTPUT": "oci://a/b", "EDGEMODEL_JOB_IMAGE": "x", "EDGEMODEL_NAMESPACES": "a, b,"}
    found = settings_of(parser(environment).parse_args(["--output", "oci://c/d"]))
    assert (found.output, found.namespaces) == ("oci://c/d", ("a", "b"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--output", ""], "give oci://host/repository"),
        (["--output", "registry.example.com/x"], "give oci://host/repository"),
        (["--output", "oci://registry.example.com/x/"], "give oci://host/repository"),
        (["--job-image", ""], "--job-image is missing"),
        (["--job-memory", "2 gigabytes"], "--job-memory '2 gigabytes'"),
        (["--job-cpu", "two"], "--job-cpu 'two': write cores"),
        (["--job-deadline", "0s"], "--job-deadline '0s': give at least 1s"),
        (["--workers", "0"], "--workers '0': give a whole number from 1 to 256"),
        (["--metrics-port", "99999"], "--metrics-port '99999'"),
    ],
)
def test_of_no_use(flags, words, capsys):
    with pytest.raises(InputError) as caught:
        settings_of(parser({}).parse_args([*NEEDED, *flags]))
    assert words in caught.value.message
    assert main([*NEEDED, *flags]) == 2
    assert words in capsys.readouterr().err
