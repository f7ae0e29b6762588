"""Web servers that want a password or a token, with a certificate of their own authority."""

import pytest

from edgemodel_api.errors import InputError
from edgemodel_compressor.credentials import CredentialsError

WAYS = {
    "password": ({"username": "ali", "password": "open sesame"}),
    "with line breaks": ({"username": "ali\n", "password": "open sesame\r\n"}),
    "token": ({"token": "a-token"}),
}


@pytest.mark.parametrize("name", WAYS)
def test_credentials_open_it(fetch, secret, web, name):
    assert fetch(f"{web.url}/m.onnx?v=1", secret(WAYS[name])).size == 1_024_000


FAULTS = {
    "none": (None, "401 Unauthorized: name a Secret with username and password, or token, in credentialsSecretRef"),
    "wrong password": ({"username": "ali", "password": "wrong"}, "403 .* username and password of the Secret keys do not allow it"),
    "wrong token": ({"token": "wrong"}, "403 Forbidden: the token of the Secret keys does not allow it"),
    "authority alone": ({}, "401 Unauthorized: add username and password, or token, to the Secret keys"),
    "both": ({"token": "a-token", "username": "ali"}, "holds both token and username or password: keep one"),
    "half": ({"username": "ali"}, r"no keys for https \(it has: ca.crt, username\): it needs username and password, or token"),
    "empty": ({"token": ""}, "token of the Secret keys is empty"),
    "header in it": ({"token": "a\r\nX-Evil: 1"}, "token of the Secret keys is no line of text"),
    "of another language": ({"token": "schlüssel"}, "token of the Secret keys has letters that no header takes"),
    "other scheme": ({"AWS_ACCESS_KEY_ID": "x", "ca.crt": None}, "no keys for https .it has: AWS_ACCESS_KEY_ID.: it needs username"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_wrong_is_said(fetch, secret, web, authority, tmp_path, monkeypatch, name):
    keys, words = FAULTS[name]
    if keys is None:
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with pytest.raises(CredentialsError, match=words) as caught:
        fetch(f"{web.url}/m.onnx?token=query", secret(keys) if keys is not None else None)
    for hidden in ("wrong", "X-Evil", "query"):
        assert hidden not in caught.value.message


def test_a_secret_that_is_no_folder(fetch, secret, web):
    missing = type(secret())("web", None)
    with pytest.raises(
        CredentialsError, match=r"make \$EDGEMODEL_CREDENTIALS/web .* with a file for each key: username"
    ):
        fetch(f"{web.url}/m.onnx", missing)


def test_a_redirect_to_another_host_gets_no_credentials(fetch, secret, web):
    other = web.url.replace("localhost", "127.0.0.1")
    web.answers["/answer/m"] = (302, {"Location": f"{other}/m.onnx"}, b"")
    with pytest.raises(InputError, match="401 Unauthorized: it was redirected to, and other hosts get no credentials"):
        fetch(f"{web.url}/answer/m", secret(WAYS["token"]))
    assert web.seen == [("/answer/m", "Bearer a-token"), ("/m.onnx", None)]
    web.answers["/answer/m"] = (302, {"Location": "/m.onnx"}, b"")
    assert fetch(f"{web.url}/answer/m", secret(WAYS["token"])).size == 1_024_000
