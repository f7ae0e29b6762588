"""Files that there is no time for are left out, and counted: what there is can still be stored."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from edgemodel_api.edgemodel import Format
from edgemodel_api.report import Conversion
from edgemodel_compressor import conversions
from edgemodel_compressor.conversions import Base, Converter, Made
from edgemodel_compressor.formats.tflite import ENCODINGS


@pytest.fixture
def converter(monkeypatch):
    """One whose conversions take a second of a clock of its own."""
    clock = [0.0]

    def make(until: float) -> Converter:
        plan = SimpleNamespace(inputs=SimpleNamespace(calibrated=True))
        return Converter(None, plan, lambda _: None, late=lambda: clock[0] >= until)

    def made(self, wanted, base, encoding, name):
        clock[0] += 1
        row = Conversion(format=wanted.value, candidate=base.name, name=name, encoding=encoding, accepted=True)
        return Made(row, wanted, Path(name))

    monkeypatch.setattr(Converter, "_made", made)
    return make


@pytest.mark.parametrize("until", range(len(ENCODINGS) + 1))
def test_no_file_is_begun_when_the_time_is_up(converter, until):
    one = converter(until)
    found = one.encodings(Format.TFLITE, Base((), None))
    assert [m.row.encoding for m in found] == list(ENCODINGS[:until])
    assert one.skipped == len(ENCODINGS) - until


def test_what_was_not_looked_at_on_all_data_stays_unsure(converter, monkeypatch):
    """Core ML packages are judged on few samples first."""
    one = converter(0.0)
    row = Conversion(format="CoreML", candidate="source", name="a", encoding="palettized", accepted=True, size_bytes=1)
    monkeypatch.setattr(Converter, "_confirmed", lambda *_: pytest.fail("there is no time for it"))
    (found,) = one.confirmed([Made(row, Format.COREML, Path("a"))])
    assert found.unsure
    assert not found.holds
    assert conversions.picked([found], {Format.COREML: 3}) == ()
