"""docs/python.md names what there is."""

import dataclasses
import inspect
import re
from pathlib import Path

import edgemodel
from edgemodel_cli.model_options import FIELDS, STEPS, flag

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "python.md").read_text()


def test_the_table_of_words_is_that_of_the_code():
    rows = re.findall(r"^\| `(\w+)` \| `(--[\w-]+)` \| `([\w.\[\]]+)`", TEXT, re.MULTILINE)
    wanted = [(name, flag(name), ".".join(path)) for name, path in FIELDS.items()]
    wanted += [(name, flag(name), f"compression.steps[].{'.'.join(path)}") for name, path in STEPS.items()]
    assert rows == wanted


def test_every_argument_result_and_error_is_named():
    names = set(inspect.signature(edgemodel.compress).parameters)
    names |= {f.name for f in dataclasses.fields(edgemodel.CandidateRow)}
    names |= {"report", "candidates", "path", "files", "targets", "out", "reference", "digest", "save_html()"}
    names |= {"InputError", "CompressionRefusedError", "TransientError", "EdgeModelError"}
    said = set(re.findall(r"`([\w()]+)`", TEXT))
    assert names <= said
