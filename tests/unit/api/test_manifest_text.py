"""What is wrong before the spec is even looked at: bytes, YAML, document, type, metadata."""

import pytest

from edgemodel_api.errors import InputError
from edgemodel_api.manifest import load

HEAD = "apiVersion: edgemodel.dev/v1alpha1\nkind: EdgeModel\n"
GOOD = HEAD + "metadata: {name: example}\nspec: {source: {uri: file:m.onnx}}\n"

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}], k{i}: 1}}\n" for i in range(1, 10)
)

BAD = {
    "empty": ("", "m.yaml: empty: expected one EdgeModel"),
    "only comments": ("# nothing\n---\n", "m.yaml: empty: expected one EdgeModel"),
    "a list": ("- a\n", "m.yaml:1: expected a mapping with apiVersion, kind, metadata and spec"),
    "a word": ("hello", "this document is 'hello'"),
    "not UTF-8": (GOOD.encode() + b"# \xff\n", "m.yaml:5: byte 114 is not UTF-8: save the manifest as UTF-8 text"),
    "UTF-16": (GOOD.encode("utf-16"), "m.yaml:1: byte 0 is not UTF-8"),
    "a model instead of a manifest": (b"\x08\x07\x12\x00" * 10, "is not allowed in YAML"),
    "control character": (GOOD + "# \x07\n", "m.yaml:5: the character U+0007 is not allowed in YAML"),
    "too large": (GOOD + "#" * 2**20, "bytes is more than a manifest may have (1048576)"),
    "tab": (HEAD + "metadata:\n\tname: x\n", "m.yaml:4: a tab cannot indent YAML: use spaces"),
    "unclosed bracket": (HEAD + "metadata: {name: x\nspec: {}\n", "m.yaml:4: not YAML"),
    "wrong indent": (HEAD + "metadata:\n   name: x\n  labels: {}\n", "m.yaml:5: not YAML"),
    "key twice": (GOOD + "spec: {}\n", "m.yaml:5: 'spec' is given twice (first on line 4): keep one"),
    "nested key twice": (HEAD + "metadata:\n  name: a\n  name: b\nspec: {}\n", "m.yaml:5: 'name' is given twice (first on line 4)"),
    "number as key": (GOOD + "5: x\n", "m.yaml:5: 5 is no text and cannot be a key: put it in quotes"),
    "yes as key": (HEAD + "metadata: {labels: {yes: x}}\n", "m.yaml:3: yes is no text and cannot be a key"),
    "list as key": (GOOD + "? [a]\n: x\n", "a list or mapping is no text"),
    "tag": (HEAD + "metadata: {name: !!python/name:os.system x}\n", "the tag !!python/name:os.system has no meaning"),
    "own tag": (HEAD + "metadata: {name: !secret x}\n", "the tag !secret has no meaning in a manifest: leave it out"),
    "binary": (HEAD + "metadata: {name: !!binary aGk=}\n", "the tag !!binary has no meaning"),
    "unknown alias": (HEAD + "metadata: *nowhere\n", "m.yaml:3: not YAML: found undefined alias"),
    "alias bomb": (BOMB, "more than 50000 values with its aliases expanded"),
    "merge bomb": (MERGE_BOMB, "more than 50000 values with its aliases expanded"),
    "alias of itself": ("a: &a [*a]\n", "nested deeper than 64 levels"),
    "merge of itself": ("a: &a {<<: *a}\n", "nested deeper than 64 levels"),
    "merge of text": (GOOD + "x: {<<: y}\n", "m.yaml:5: << takes a mapping"),
    "very deep": ("[" * 20_000, "nested deeper than 64 levels"),
    "two models": (GOOD + "---\n" + GOOD, "m.yaml: 2 EdgeModels (lines 2, 7): give one per file"),
    "a neighbour": (GOOD + "---\napiVersion: v1\nkind: ConfigMap\n", "m.yaml:7: kind is 'ConfigMap', and only an EdgeModel can be used here; keep others in other files"),
    "kind in lower case": (GOOD.replace("EdgeModel", "edgemodel"), "m.yaml:2: kind is 'edgemodel', and only an EdgeModel can be used here; did you mean EdgeModel?"),
    "no kind": ("apiVersion: edgemodel.dev/v1alpha1\n", "m.yaml:1: kind is missing: add kind: EdgeModel"),
    "no version": ("kind: EdgeModel\n", "m.yaml:1: apiVersion is missing: add apiVersion: edgemodel.dev/v1alpha1"),
    "other version": (GOOD.replace("v1alpha1", "v1"), "m.yaml:1: apiVersion is 'edgemodel.dev/v1', and this version knows edgemodel.dev/v1alpha1: write that"),
    "no metadata": (HEAD + "spec: {source: {uri: file:m.onnx}}\n", "m.yaml:1: metadata: required, but missing: a mapping of fields with name"),
    "no name": (GOOD.replace("name: example", "namespace: x"), "m.yaml:3: metadata.name: required, but missing"),
    "no spec": (HEAD + "metadata: {name: a}\n", "m.yaml:1: spec: required, but missing: a mapping of fields with source"),
    "bad name": (GOOD.replace("example", "My_Model"), 'm.yaml:3: metadata.name: "My_Model" is not a name of lower-case letters'),
    "dots in a row": (GOOD.replace("example", "a..b"), "metadata.name"),
    "number as name": (GOOD.replace("example", "123"), "metadata.name: 123 is a number, but this must be a name"),
    "misspelled metadata": (GOOD.replace("{name", "{lables: {}, name"), "m.yaml:3: metadata.lables: unknown field; did you mean labels?"),
    "misspelled top level": (GOOD + "specs: {}\n", "m.yaml:5: specs: unknown field; did you mean spec?"),
    "label as YAML 1.1's truth": (GOOD.replace("{name", "{labels: {a: y}, name"), 'metadata.labels.a: true is true or false, but this must be text; put it in quotes: "true", or as it was written: YAML reads y, n, yes, no, on and off as true or false'),
    "label as number": (GOOD.replace("{name", "{labels: {a: 1}, name"), 'metadata.labels.a: 1 is a number, but this must be text; put it in quotes: "1"'),
    "digest that looks like a number": (GOOD.replace("file:m.onnx", f"file:m.onnx, sha256: {'1' * 64}"), "spec.source.sha256: 1111"),
    "spec as text": (HEAD + "metadata: {name: a}\nspec: none\n", 'm.yaml:4: spec: "none" is not a mapping of fields'),
}  # fmt: skip


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD.keys())
def test_refused_with_the_place_and_the_remedy(content, message):
    with pytest.raises(InputError) as refused:
        load(content, file="m.yaml")
    assert message in refused.value.message
    assert refused.value.message.startswith("m.yaml:")
    assert refused.value.exit_code == 2


ACCEPTED = {
    "bytes": GOOD.encode(),
    "byte order mark": b"\xef\xbb\xbf" + GOOD.encode(),
    "carriage returns": GOOD.replace("\n", "\r\n"),
    "document markers": f"---\n{GOOD}---\n# nothing more\n",
    "JSON": '{"apiVersion": "edgemodel.dev/v1alpha1", "kind": "EdgeModel", "metadata": {"name": "example"}, "spec": {"source": {"uri": "file:m.onnx"}}}',
    "status of a cluster": GOOD + "status: {observedGeneration: 3, whatever: [1]}\n",
    "metadata of a cluster": GOOD.replace("{name", "{creationTimestamp: 2026-01-01T00:00:00Z, managedFields: [], name"),
    "anchor and merge": HEAD + "metadata: {name: example}\nspec:\n  source: &s {uri: file:m.onnx}\n  data: {calibration: {<<: *s}}\n",
    "unicode comment": GOOD + "# größer\n",
}  # fmt: skip


@pytest.mark.parametrize("content", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_accepted(content):
    model = load(content)
    assert model.key == "default/example"
    assert model.spec.source.uri == "file:m.onnx"
    assert model.status.observed_generation == 0


def test_own_field_wins_over_a_merged_one():
    model = load(
        HEAD + "metadata: {name: a}\nspec:\n  source: &s {uri: file:a}\n  data: {calibration: {<<: *s, uri: file:b}}\n"
    )
    assert model.spec.data.calibration.uri == "file:b"


def test_words_that_yaml_likes_to_convert_stay_words():
    model = load(
        HEAD
        + "metadata: {name: a, labels: {day: 2026-01-01, time: 12:30, version: 1.2.3}}\nspec: {source: {uri: file:a}}\n"
    )
    assert model.metadata.labels == {"day": "2026-01-01", "time": "12:30", "version": "1.2.3"}
