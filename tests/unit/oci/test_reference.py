import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemodel_api.errors import InputError
from edgemodel_oci.reference import LAYOUT, REGISTRY, Reference

HEX = "ab" * 32
DIGEST = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("oci://registry.example.com/a/b", Reference(REGISTRY, "registry.example.com", "a/b")),
        ("oci://registry.example.com:5000/a:v1", Reference(REGISTRY, "registry.example.com:5000", "a", "v1")),
        (f"oci://localhost/a@{DIGEST}", Reference(REGISTRY, "localhost", "a", None, DIGEST)),
        (f"oci://localhost/a:v1@{DIGEST}", Reference(REGISTRY, "localhost", "a", "v1", DIGEST)),
        ("oci://[::1]:5000/a_b/c-d.e__f", Reference(REGISTRY, "[::1]:5000", "a_b/c-d.e__f")),
        ("oci-layout:///data/registry", Reference(LAYOUT, "", "/data/registry")),
        ("oci-layout:///data/registry/", Reference(LAYOUT, "", "/data/registry")),
        ("oci-layout:///data/registry:r1", Reference(LAYOUT, "", "/data/registry", "r1")),
        (f"oci-layout:///d:1/x y@z@{DIGEST}", Reference(LAYOUT, "", "/d:1/x y@z", None, DIGEST)),
        ("oci-layout:///data/a:b/", Reference(LAYOUT, "", "/data/a:b")),
        ("oci-layout:///data/a:b/:tag", Reference(LAYOUT, "", "/data/a:b", "tag")),
        ("oci-layout:///data/a@b:tag", Reference(LAYOUT, "", "/data/a@b", "tag")),
    ],
)
def test_parse(text, expected):
    assert Reference.parse(text) == expected
    assert Reference.parse(str(expected)) == expected


def test_the_host_is_lower_case():
    assert Reference.parse("oci://Registry.Example.com/a").host == "registry.example.com"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no registry"),
        ("registry.example.com/a", "write oci://HOST"),
        ("docker://a/b", "names no registry"),
        ("oci:/a", "names no registry"),
        ("oci://", "no host name"),
        ("oci:///a", "no host name"),
        ("oci://user@host/a", "no host name"),
        ("oci://-x/a", "no host name"),
        ("oci://host", "repository name ''"),
        ("oci://host/", "repository name ''"),
        ("oci://host/Upper", "lower-case"),
        ("oci://host/a//b", "lower-case"),
        ("oci://host/../b", "lower-case"),
        ("oci://host/" + "a" * 256, "at most 255"),
        ("oci://host/a:", "has the tag ''"),
        ("oci://host/a:.x", "has the tag"),
        ("oci://host/a:" + "x" * 129, "has the tag"),
        ("oci://host/a@sha256:12", "64 hex digits"),
        (f"oci://host/a@sha512:{HEX}{HEX}", "64 hex digits"),
        (f"oci://host/a@SHA256:{HEX}", "lower-case"),
        ("oci://host/a?x=1", "lower-case"),
        ("oci://host/a\nb", "control characters"),
        ("oci-layout://relative/dir", "three slashes"),
        ("oci-layout:///", "three slashes"),
        ("oci-layout:///a\0b", "control characters"),
        ("oci-layout:///a:t g", "has the tag"),
    ],
)
def test_refused_with_how_to_write_it(text, message):
    with pytest.raises(InputError) as caught:
        Reference.parse(text)
    assert message in caught.value.message
    assert "oci-layout:///FOLDER" in caught.value.message


component = st.from_regex(r"[a-z0-9]{1,5}(([._]|__|-{1,3})[a-z0-9]{1,5}){0,2}", fullmatch=True)
tags = st.none() | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
digests = st.none() | st.text("0123456789abcdef", min_size=64, max_size=64).map("sha256:{}".format)
folders = st.lists(
    st.text(st.characters(min_codepoint=32, blacklist_characters="/\x7f", blacklist_categories=("Cs",)), min_size=1),
    min_size=1,
    max_size=4,
).map(lambda parts: "/" + "/".join(parts))


@settings(deadline=None)
@given(st.lists(component, min_size=1, max_size=3).map("/".join), tags, digests)
def test_registry_references_round_trip(repository, tag, digest):
    reference = Reference(REGISTRY, "registry.example.com:5000", repository, tag, digest)
    assert Reference.parse(str(reference)) == reference


@settings(deadline=None)
@given(folders, tags, digests)
def test_layout_references_round_trip(folder, tag, digest):
    reference = Reference(LAYOUT, "", folder, tag, digest)
    assert Reference.parse(str(reference)) == reference


@settings(deadline=None)
@given(st.text())
def test_any_text_parses_and_round_trips_or_is_refused(text):
    for candidate in (text, f"oci://{text}", f"oci-layout:///{text}"):
        try:
            reference = Reference.parse(candidate)
        except InputError:
            continue
        assert Reference.parse(str(reference)) == reference


def test_targets():
    reference = Reference.parse(f"oci://localhost/a:v1@{DIGEST}")
    assert reference.target == DIGEST
    assert str(reference.with_tag("v2")) == "oci://localhost/a:v2"
    assert str(reference.without_target()) == "oci://localhost/a"
    assert reference.without_target().with_digest(DIGEST).target == DIGEST
    for call in (lambda: reference.with_tag("a b"), lambda: reference.with_digest("sha256:x")):
        with pytest.raises(InputError):
            call()
