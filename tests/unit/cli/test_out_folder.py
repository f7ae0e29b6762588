import hashlib
import json
import os

import pytest

from edgemodel_api.edgemodel import Format
from edgemodel_api.errors import InputError
from edgemodel_api.hardware import HardwareClass
from edgemodel_api.job import VariantSummary
from edgemodel_cli.embedded.out_folder import best_variant, check_out, publish

VNNI, AVX2 = HardwareClass.AMD64_VNNI, HardwareClass.AMD64_AVX2


def variant(name, *classes, platform="linux/amd64", accepted=True, digest="sha256:a"):
    return VariantSummary(platform=platform, name=name, digest=digest, accepted=accepted, hardware_classes=classes)


SOURCE, S8, U8, ANY = variant("source"), variant("s8", VNNI), variant("u8", AVX2), variant("any")
CHOICES = {
    "what was chosen here": ((SOURCE, ANY, S8), {"s8"}, "s8"),
    "first of this CPU": ((SOURCE, U8, S8, ANY), (), "s8"),
    "for all CPUs": ((SOURCE, U8, ANY), (), "any"),
    "of another CPU before the source": ((SOURCE, U8), (), "u8"),
    "only the source": ((SOURCE,), (), "source"),
    "refused ones do not count": ((SOURCE, variant("x", accepted=False), variant("y", digest=None)), {"x"}, "source"),
    "other platforms do not count": ((variant("z", platform="linux/arm64"),), {"z"}, None),
}


@pytest.mark.parametrize(("variants", "chosen", "name"), CHOICES.values(), ids=CHOICES)
def test_best_variant(variants, chosen, name):
    found = best_variant(variants, "linux/amd64", VNNI, chosen)
    assert (found and found.name) == name


def test_each_format_has_its_best():
    tflite = [variant(n, digest="sha256:t").replace(format=Format.TFLITE) for n in ("source", "tflite-int8")]
    found = (SOURCE, S8, *tflite)
    assert best_variant(found, "linux/amd64", VNNI, {"s8"}).name == "s8"
    assert best_variant(found, "linux/amd64", VNNI, {"s8"}, model_format=Format.TFLITE) == tflite[1]
    assert best_variant(found[:3], "linux/amd64", VNNI, model_format=Format.TFLITE) == tflite[0]
    assert best_variant(found, "linux/amd64", VNNI, model_format=Format.COREML) is None


def test_publish_replaces(tmp_path):
    made, out = tmp_path / "staging" / "out", tmp_path / "out"
    made.mkdir(parents=True)
    out.mkdir()
    (made / "new").write_text("")
    (out / "old").write_text("")
    publish(made, out)
    assert os.listdir(out) == ["new"]


def test_if_it_cannot_be_put_there_the_old_one_stays(tmp_path):
    made, out = tmp_path / "staging" / "out", tmp_path / "out"
    made.parent.mkdir()
    out.mkdir()
    (out / "old").write_text("")
    with pytest.raises(OSError, match="No such file"):
        publish(made, out)
    assert os.listdir(out) == ["old"]


def earlier(out):
    """What an earlier compress left, as far as it is looked at."""
    content = b"a model"
    digest = hashlib.sha256(content).hexdigest()
    blobs = out / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    (blobs / "ab").write_text(json.dumps({"layers": [{"annotations": {"digest": f"sha256:{digest}"}}]}))
    for name in ("oci-layout", "index.json", "report.json", "report.html"):
        (out / name).write_text("{}")
    (out / "m.onnx").write_bytes(content)


def test_what_an_earlier_compress_wrote_may_be_replaced(tmp_path):
    earlier(tmp_path)
    check_out(tmp_path)


@pytest.mark.parametrize("name", ["mynote", "m2.onnx", "m.tflite"])
def test_what_the_user_laid_there_is_never_lost(tmp_path, name):
    earlier(tmp_path)
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=f"holds {name}, which no compress wrote"):
        check_out(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / "folder").mkdir()
    (tmp_path / "other").write_text("mine")
    with pytest.raises(InputError, match="holds folder and 1 more"):
        check_out(tmp_path)
