"""`import edgemodel` is quick, and its examples hold."""

import doctest
import subprocess
import sys

import pytest

import edgemodel
from edgemodel import api
from edgemodel_cli import model_options


def test_importing_it_loads_nothing_heavy():
    code = (
        "import sys, edgemodel\n"
        "print(sorted({'onnx', 'onnxruntime', 'matplotlib', 'jinja2', 'jax', 'coremltools'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


@pytest.mark.parametrize("module", [api, model_options], ids=lambda m: m.__name__)
def test_examples_in_docstrings(module):
    found = doctest.testmod(module)
    assert (found.failed, found.attempted > 0) == (0, True)


def test_what_is_public_is_there():
    assert all(hasattr(edgemodel, name) for name in edgemodel.__all__)
