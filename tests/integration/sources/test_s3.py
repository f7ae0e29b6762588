"""Objects of a real S3 server with a certificate of its own authority; and servers that only say they are one."""

import logging

import pytest

from edgemodel_api.errors import InputError, TransientError
from edgemodel_api.reasons import DIGEST_MISMATCH
from edgemodel_compressor import download
from edgemodel_compressor.credentials import CredentialsError

URI = "s3://models/v1/m x.onnx"


@pytest.fixture
def keys(s3, login):
    """A Secret that opens the bucket, with changes."""
    good = {"AWS_ENDPOINT_URL": s3} | {k: v for k, v in login.items() if k.startswith("AWS_")}
    return lambda **changes: good | changes


@pytest.mark.tools
def test_an_object_arrives(fetch, secret, keys):
    seen = []
    found = fetch(URI, secret(keys()), progress=lambda done, total: seen.append((done, total)))
    assert found.size == 1_024_000
    assert seen[-1] == (found.size, found.size)


@pytest.mark.tools
def test_keys_of_the_environment(fetch, s3, keys, authority, tmp_path, monkeypatch):
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    for name, value in keys().items():
        monkeypatch.setenv(name, value)
    assert fetch(URI).size == 1_024_000


@pytest.mark.tools
def test_the_environment_is_nothing_where_there_is_a_secret(fetch, secret, keys, monkeypatch):
    for name in ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID"):
        monkeypatch.setenv(name, "https://wrong.example.com")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    monkeypatch.setenv("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true")
    assert fetch(URI, secret(keys())).size == 1_024_000


# name: (what is changed, URI, error, words)
FAULTS = {
    "unknown key": ({"AWS_ACCESS_KEY_ID": "AKIDOTHER"}, URI, ("AWS_ACCESS_KEY_ID of the Secret keys is not known")),
    "wrong key": ({"AWS_SECRET_ACCESS_KEY": "wrong"}, URI, ("403 Forbidden", "AWS_SECRET_ACCESS_KEY of the Secret keys does not belong")),
    "other region": ({"AWS_REGION": "eu-west-1"}, URI, ("another region than eu-west-1: set AWS_REGION of the Secret keys to us-east-1",)),
    "no bucket": ({}, "s3://other/m.onnx", ("404 Not Found", "there is no bucket other")),
    "no object": ({}, "s3://models/v2.onnx", ("404 Not Found", "there is no such object")),
    "no keys": ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, URI, ("add AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to the Secret keys",)),
    "half of the keys": ({"AWS_SECRET_ACCESS_KEY": None}, URI, ("AWS_SECRET_ACCESS_KEY is missing in the Secret keys (it has: AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ca.crt)",)),
    "nothing in it": ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None, "AWS_ENDPOINT_URL": None, "ca.crt": None, "key": "x"}, URI, ("the Secret keys has no keys for s3 (it has: key): it needs AWS_ACCESS_KEY_ID",)),
    "endpoint without scheme": ({"AWS_ENDPOINT_URL": "s3.example.com"}, URI, ("correct AWS_ENDPOINT_URL of the Secret keys",)),
    "endpoint with a query": ({"AWS_ENDPOINT_URL": "https://s3.example.com/?x=1"}, URI, ("correct AWS_ENDPOINT_URL of the Secret keys",)),
    "region that is a host": ({"AWS_REGION": "x.evil.example/"}, URI, ("AWS_REGION of the Secret keys is no region",)),
    "two lines": ({"AWS_ACCESS_KEY_ID": "a\nb"}, URI, ("AWS_ACCESS_KEY_ID of the Secret keys is no line of text",)),
    "other authority": ({"ca.crt": None}, URI, ("is not trusted", "ca.crt of the Secret")),
    "authority that is none": ({"ca.crt": "hello"}, URI, ("ca.crt of the Secret keys holds no certificate",)),
}  # fmt: skip


@pytest.mark.tools
@pytest.mark.parametrize("name", FAULTS)
def test_what_is_wrong_is_said(fetch, secret, keys, login, name):
    changes, uri, words = FAULTS[name]
    with pytest.raises(InputError) as caught:
        fetch(uri, secret(keys(**changes)))
    for word in words:
        assert word in caught.value.message
    assert login["AWS_SECRET_ACCESS_KEY"] not in caught.value.message
    assert "Signature=" not in caught.value.message


@pytest.mark.tools
def test_size_and_digest(fetch, secret, keys):
    with pytest.raises(InputError, match="1024000 bytes, and at most 1000"):
        fetch(URI, secret(keys()), max_bytes=1000)
    with pytest.raises(InputError, match="the manifest says 0000") as caught:
        fetch(URI, secret(keys()), sha256="0" * 64)
    assert caught.value.reason == DIGEST_MISMATCH


@pytest.mark.tools
def test_no_log_holds_a_signature(fetch, secret, keys, caplog):
    """As `python -m edgemodel_compressor` sets it up; at INFO, httpx would write every address."""
    caplog.set_level(logging.INFO)
    for name in ("httpx", "httpcore"):
        caplog.set_level(logging.WARNING, name)
    fetch(URI, secret(keys()))
    assert "X-Amz" not in caplog.text


@pytest.fixture
def answered(web, secret, fetch, login):
    """An S3 server that answers every object in one way; then what fetching one comes to."""

    def run(status, headers=None, body=b"", **changes):
        web.answers["/answer/models/m"] = (status, headers or {}, body)
        good = {k: v for k, v in login.items() if k.startswith("AWS_")} | {"AWS_ENDPOINT_URL": f"{web.url}/answer"}
        return fetch("s3://models/m", secret(good | changes))

    return run


def code(name):
    return f"<?xml version='1.0'?><Error><Code>{name}</Code><Message>a/secret+key</Message></Error>".encode()


# name: (status, headers, body, words)
ANSWERS = {
    "region": (301, {"x-amz-bucket-region": "eu-west-1", "Location": "https://evil.example/"}, code("PermanentRedirect"), "set AWS_REGION of the Secret keys to eu-west-1"),
    "region that is none": (301, {"x-amz-bucket-region": "x\x7f y"}, code("PermanentRedirect"), "set AWS_REGION of the Secret keys$"),
    "temporary redirect": (307, {"Location": "https://evil.example/"}, b"", "lies in another region than us-east-1"),
    "key that AWS does not know": (403, {}, code("InvalidAccessKeyId"), "403 Forbidden: InvalidAccessKeyId: AWS_ACCESS_KEY_ID of the Secret keys is not"),
    "region of AWS": (400, {}, code("AuthorizationHeaderMalformed").replace(b"</E", b"<Region>eu-north-1</Region></E"), "set AWS_REGION of the Secret keys to eu-north-1"),
    "expired": (403, {}, code("ExpiredToken"), "AWS_SESSION_TOKEN of the Secret keys has expired: make new keys"),
    "not allowed": (403, {}, code("AccessDenied"), "AccessDenied: the keys of the Secret keys do not allow s3:GetObject on models/m"),
    "no document": (403, {}, b"\xff" * 100_000, "do not allow s3:GetObject"),
    "clock": (403, {}, code("RequestTimeTooSkewed"), "the clocks of server and node differ"),
    "other code": (400, {}, code("Strange"), "400 Bad Request instead of a file"),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_refusals(answered, web, name):
    status, headers, body, words = ANSWERS[name]
    with pytest.raises(InputError, match=words) as caught:
        answered(status, headers, body)
    assert "a/secret+key" not in caught.value.message
    assert len(web.seen) == 1, "redirects are not followed"
    assert web.seen[0][1] is None
    assert "X-Amz-Signature=" in web.seen[0][0]


def test_a_session_token_is_sent(answered, web):
    with pytest.raises(CredentialsError):
        answered(403, AWS_SESSION_TOKEN="session")
    assert "X-Amz-Security-Token=session" in web.seen[0][0]


def test_a_busy_server_is_asked_again(answered, web, monkeypatch):
    monkeypatch.setattr(download.Download, "_wait", lambda *_: 0.0)
    with pytest.raises(TransientError, match=r"s3://models/m at https://localhost:\d+/answer: answers 503"):
        answered(503, body=code("SlowDown"))
    assert len(web.seen) == download.TRIES


def test_a_server_that_sends_too_much(answered):
    with pytest.raises(InputError, match="at most 2097152"):
        answered(200, body=bytes(2**21 + 1))
