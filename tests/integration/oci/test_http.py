"""What only a registry that misbehaves shows: a scripted HTTP server on loopback."""

import gzip
import hashlib
import ssl
import time
from email.utils import formatdate

import pytest
import trustme

from edgemodel_api import reasons
from edgemodel_api.artifact import INDEX, MANIFEST
from edgemodel_api.errors import InputError, TransientError
from edgemodel_oci.credentials import Credentials
from edgemodel_oci.descriptor import Descriptor
from edgemodel_oci.manifests import canonical
from edgemodel_oci.pull import fetch_blob
from edgemodel_oci.reference import Reference
from edgemodel_oci.registry import Registry
from edgemodel_oci.transport import PLAIN_HTTP_VARIABLE, Transport, is_plain_http

BLOB = b"0123456789" * 1000
DIGEST = f"sha256:{hashlib.sha256(BLOB).hexdigest()}"
BLOB_PATH = f"/v2/a/b/blobs/{DIGEST}"
WANTED = Descriptor("application/x", DIGEST, len(BLOB))
DOCUMENT = canonical({"schemaVersion": 2, "mediaType": MANIFEST, "layers": []})
ENTRY = {"mediaType": MANIFEST, "digest": DIGEST, "size": 3, "artifactType": "application/x"}
LIST = canonical({"schemaVersion": 2, "mediaType": INDEX, "manifests": [ENTRY]})
SECRETS = Credentials("ali", "secret")


@pytest.fixture
def registry(scripted):
    return scripted()


@pytest.fixture
def repo(registry, open_at):
    return open_at(f"oci://{registry.host}/a/b", credentials=SECRETS)


class TestRetries:
    def test_busy_registry(self, registry, repo, no_waiting):
        registry.on("GET", "/v2/a/b/manifests/t", 429, {"Retry-After": "7"})
        registry.on("GET", "/v2/a/b/manifests/t", 503, {"Retry-After": formatdate(time.time() + 30, usegmt=True)})
        registry.on("GET", "/v2/a/b/manifests/t", 500)
        registry.on("GET", "/v2/a/b/manifests/t", 200, {"Content-Type": MANIFEST}, DOCUMENT)
        assert repo.manifest("t")[1] == DOCUMENT
        assert no_waiting[0] == 7
        assert 25 < no_waiting[1] <= 30
        assert len(no_waiting) == 3

    def test_given_up_with_the_registrys_words(self, registry, repo, no_waiting):
        content = b'{"errors": [{"code": "TOOMANYREQUESTS", "message": "pull rate limit"}]}'
        registry.on("GET", "/v2/a/b/manifests/t", 429, {}, content)
        with pytest.raises(TransientError, match=r"429 \(TOOMANYREQUESTS: pull rate limit\)"):
            repo.manifest("t")
        assert len(registry.requests) == 5

    def test_a_long_retry_after_is_cut(self, registry, repo, no_waiting):
        registry.on("GET", "/v2/a/b/manifests/t", 429, {"Retry-After": "999999999999"})
        with pytest.raises(TransientError):
            repo.manifest("t")
        assert set(no_waiting) == {60.0}

    @pytest.mark.parametrize("status", [400, 403, 405, 410, 418])
    def test_what_no_retry_mends(self, registry, repo, no_waiting, status):
        registry.on("GET", "/v2/a/b/manifests/t", status)
        with pytest.raises(InputError, match=str(status)):
            repo.manifest("t")
        assert len(registry.requests) == 1


class TestBlobs:
    def test_ranges_are_asked_for(self, registry, repo):
        registry.on("GET", BLOB_PATH, 206, {"Content-Range": f"bytes 4000-9999/{len(BLOB)}"}, BLOB[4000:])
        assert b"".join(repo.open_blob(DIGEST, 4000)) == BLOB[4000:]
        assert registry.asked("GET", BLOB_PATH)[0]["Range"] == "bytes=4000-"

    def test_a_server_without_ranges(self, registry, repo, tmp_path):
        registry.on("GET", BLOB_PATH, 200, {}, BLOB)
        (tmp_path / "blob.part").write_bytes(BLOB[:4321])
        stats = fetch_blob(repo, WANTED, tmp_path / "blob")
        assert (tmp_path / "blob").read_bytes() == BLOB
        assert stats.bytes == len(BLOB) - 4321

    def test_another_range_than_was_asked_for(self, registry, repo, tmp_path, no_waiting):
        registry.on("GET", BLOB_PATH, 206, {"Content-Range": f"bytes 0-9999/{len(BLOB)}"}, BLOB)
        (tmp_path / "blob.part").write_bytes(BLOB[:10])
        with pytest.raises(TransientError, match="range from '0'"):
            fetch_blob(repo, WANTED, tmp_path / "blob")

    def test_content_encoding_is_not_undone(self, registry, repo, tmp_path, no_waiting):
        registry.on(
            "GET", BLOB_PATH, 200, {"Content-Encoding": "gzip"}, gzip.compress(hashlib.shake_128(b"x").digest(20_000))
        )
        with pytest.raises(TransientError) as caught:
            fetch_blob(repo, WANTED, tmp_path / "blob")
        assert caught.value.reason == reasons.DIGEST_MISMATCH
        assert registry.asked("GET", BLOB_PATH)[0]["Accept-Encoding"] == "identity"

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            pytest.param(BLOB[:-1] + b"x", reasons.DIGEST_MISMATCH, id="other bytes"),
            pytest.param(BLOB + b"x", reasons.DIGEST_MISMATCH, id="one more"),
            pytest.param(BLOB[:-1], TransientError.reason, id="one less"),
        ],
    )
    def test_wrong_bytes(self, registry, repo, tmp_path, no_waiting, content, reason):
        def answer(start: int) -> None:
            headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
            registry.on("GET", BLOB_PATH, 206 if start else 200, headers, content[start:])

        answer(0)
        if len(content) < len(BLOB):
            answer(len(content))
        with pytest.raises(TransientError) as caught:
            fetch_blob(repo, WANTED, tmp_path / "blob")
        assert caught.value.reason == reason
        assert not (tmp_path / "blob").exists()
        assert (tmp_path / "blob.part").exists() == (reason != reasons.DIGEST_MISMATCH)


class TestRedirects:
    def test_the_authorization_stays_at_home(self, registry, repo, scripted):
        store = scripted()
        store.on("GET", "/bucket/x", 200, {}, BLOB)
        registry.on("GET", BLOB_PATH, 401, {"WWW-Authenticate": 'Basic realm="x"'})
        registry.on("GET", BLOB_PATH, 307, {"Location": f"http://{store.host}/bucket/x?signature=1"})
        assert b"".join(repo.open_blob(DIGEST)) == BLOB
        assert registry.asked("GET", BLOB_PATH)[1]["Authorization"].startswith("Basic ")
        assert "Authorization" not in store.asked("GET", "/bucket/x")[0]

    def test_a_challenge_of_another_host_is_not_answered(self, registry, repo, scripted):
        store = scripted()
        store.on("GET", "/bucket/x", 401, {"WWW-Authenticate": 'Basic realm="x"'})
        registry.on("GET", BLOB_PATH, 302, {"Location": f"http://{store.host}/bucket/x"})
        with pytest.raises(InputError, match="401"):
            next(repo.open_blob(DIGEST))
        assert ["Authorization" in h for h in store.asked("GET", "/bucket/x")] == [False]

    def test_within_the_registry(self, registry, repo):
        registry.on("GET", BLOB_PATH, 308, {"Location": "/elsewhere"})
        registry.on("GET", "/elsewhere", 200, {}, BLOB)
        assert b"".join(repo.open_blob(DIGEST)) == BLOB

    @pytest.mark.parametrize(
        "location",
        ["http://blobs.example.com/x", "file:///etc/passwd", "ftp://example.com/x", "gopher://127.0.0.1/x"],
    )
    def test_not_to_plain_http_elsewhere(self, scripted, location):
        server = scripted()
        server.on("GET", BLOB_PATH, 302, {"Location": location})
        transport = Transport(server.host, lambda: None)
        transport._plain = False  # as if this registry were spoken to by TLS
        with (
            Registry(Reference.parse(f"oci://{server.host}/a/b"), transport=transport) as repo,
            pytest.raises(InputError, match="not encrypted"),
        ):
            next(repo.open_blob(DIGEST))

    def test_for_ever(self, registry, repo):
        registry.on("GET", BLOB_PATH, 302, {"Location": BLOB_PATH})
        with pytest.raises(InputError, match="redirects more than"):
            next(repo.open_blob(DIGEST))


class TestTokens:
    @pytest.fixture
    def token_server(self, scripted, registry):
        server = scripted()
        challenge = f'Bearer realm="http://{server.host}/token",service="reg, istry",scope="repository:a/b:pull"'
        registry.on("GET", "/v2/a/b/manifests/t", 401, {"WWW-Authenticate": challenge})
        registry.on("GET", "/v2/a/b/manifests/t", 200, {"Content-Type": MANIFEST}, DOCUMENT)
        return server

    def test_basic_at_the_token_server_bearer_at_the_registry(self, token_server, registry, repo):
        token_server.on("GET", "/token", 200, {}, b'{"token": "abc.def"}')
        assert repo.manifest("t")[1] == DOCUMENT
        assert repo.manifest("t")[1] == DOCUMENT
        _, path, headers, _ = token_server.requests[0]
        assert len(token_server.requests) == 1
        assert path == "/token?scope=repository%3Aa%2Fb%3Apull&service=reg%2C+istry"
        assert headers["Authorization"] == SECRETS.basic
        sent = [h.get("Authorization") for h in registry.asked("GET", "/v2/a/b/manifests/t")]
        assert sent == [None, "Bearer abc.def", "Bearer abc.def"]

    def test_anonymous(self, token_server, registry, open_at):
        token_server.on("GET", "/token", 200, {}, b'{"access_token": "abc"}')
        open_at(f"oci://{registry.host}/a/b").manifest("t")
        assert "Authorization" not in token_server.requests[0][2]

    def test_identity_token(self, token_server, registry, open_at):
        token_server.on("POST", "/token", 200, {}, b'{"access_token": "abc"}')
        open_at(f"oci://{registry.host}/a/b", credentials=Credentials(identity_token="re/fresh")).manifest("t")
        form = token_server.requests[0][3].decode()
        assert "refresh_token=re%2Ffresh" in form
        assert "grant_type=refresh_token" in form

    def test_an_expired_token_is_renewed(self, token_server, registry, repo):
        for n in (1, 2):
            token_server.on("GET", "/token", 200, {}, b'{"token": "t%d"}' % n)
        repo.manifest("t")
        registry.answers["GET", "/v2/a/b/manifests/t"].insert(
            0, (401, {"WWW-Authenticate": f'Bearer realm="http://{token_server.host}/token"'}, b"")
        )
        repo.manifest("t")
        assert registry.asked("GET", "/v2/a/b/manifests/t")[-1]["Authorization"] == "Bearer t2"

    @pytest.mark.parametrize(
        ("status", "content", "message"),
        [
            pytest.param(401, b"", "docker login", id="refused"),
            pytest.param(200, b"{}", "without a token", id="no token"),
            pytest.param(200, b'{"token": "a\\r\\nX-Injected: 1"}', "without a token", id="header injection"),
            pytest.param(200, b"[" * 100_000, "without a token", id="deep JSON"),
        ],
    )
    def test_token_server_misbehaves(self, token_server, repo, status, content, message):
        token_server.on("GET", "/token", status, {}, content)
        with pytest.raises(InputError, match=message) as caught:
            repo.manifest("t")
        assert "secret" not in caught.value.message


class TestManifests:
    @pytest.mark.parametrize(
        ("headers", "content", "error", "message"),
        [
            pytest.param({"Content-Type": INDEX}, DOCUMENT, InputError, "calls itself", id="type confusion"),
            pytest.param({}, b" " * (4 * 2**20 + 1), InputError, "more than 4194304", id="too large"),
            pytest.param({}, b"<html>", InputError, "no JSON object", id="html"),
            pytest.param({}, b"[" * 100_000, InputError, "no JSON object", id="deep"),
            pytest.param(
                {"Docker-Content-Digest": DIGEST}, DOCUMENT, TransientError, "was asked for", id="other digest"
            ),
        ],
    )
    def test_broken(self, registry, repo, headers, content, error, message):
        registry.on("GET", "/v2/a/b/manifests/t", 200, headers, content)
        with pytest.raises(error, match=message):
            repo.manifest("t")

    def test_other_bytes_than_the_digest_asked_for(self, registry, repo):
        registry.on("GET", f"/v2/a/b/manifests/{DIGEST}", 200, {}, DOCUMENT)
        with pytest.raises(TransientError) as caught:
            repo.manifest(DIGEST)
        assert caught.value.reason == reasons.DIGEST_MISMATCH

    @pytest.mark.parametrize("name", ["../../x", "t?x", "", "sha256:1"])
    def test_names_that_would_change_the_address(self, repo, registry, name):
        with pytest.raises(InputError):
            repo.manifest(name)
        assert registry.requests == []

    def test_a_registry_that_stored_something_else(self, registry, repo):
        registry.on("PUT", "/v2/a/b/manifests/t", 201, {"Docker-Content-Digest": DIGEST})
        with pytest.raises(TransientError) as caught:
            repo.put_manifest(DOCUMENT, MANIFEST, "t")
        assert caught.value.reason == reasons.DIGEST_MISMATCH


class TestReferrers:
    def test_pages(self, registry, repo):
        other = "sha256:" + "1" * 64
        second = canonical({"manifests": [{**ENTRY, "digest": other}]})
        path = f"/v2/a/b/referrers/{DIGEST}"
        registry.on("GET", path, 200, {"Content-Type": INDEX, "Link": f'<{path}?page=2>; rel="next"'}, LIST)
        registry.on("GET", path, 200, {"Content-Type": INDEX}, second)
        assert {d.digest for d in repo.referrers(DIGEST)} == {DIGEST, other}

    @pytest.mark.parametrize("status", [404, 405, 200])
    def test_fallback_tag(self, registry, repo, status):
        registry.on("GET", f"/v2/a/b/referrers/{DIGEST}", status, {"Content-Type": "text/html"}, b"<html>")
        tag = DIGEST.replace(":", "-")
        registry.on("GET", f"/v2/a/b/manifests/{tag}", 200, {"Content-Type": INDEX}, LIST)
        assert [d.digest for d in repo.referrers(DIGEST)] == [DIGEST]

    @pytest.mark.parametrize("served", [True, False])
    def test_the_fallback_is_kept_only_where_it_is_needed(self, registry, repo, served):
        content = canonical({"subject": ENTRY, "layers": []})
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        registry.on("PUT", f"/v2/a/b/manifests/{digest}", 201, {"OCI-Subject": DIGEST} if served else {})
        tag = f"/v2/a/b/manifests/{DIGEST.replace(':', '-')}"
        registry.on("GET", tag, 200, {"Content-Type": INDEX}, canonical({"manifests": [ENTRY]}))
        registry.on("PUT", tag, 201)
        repo.put_manifest(content, MANIFEST)
        written = [body for method, path, _, body in registry.requests if (method, path) == ("PUT", tag)]
        assert len(written) == (not served)
        assert all(DIGEST in w.decode() and digest in w.decode() for w in written)


class TestTls:
    @pytest.fixture
    def authority(self):
        return trustme.CA()

    @pytest.fixture
    def tls_server(self, scripted, authority):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        server = scripted(context)
        server.on("GET", "/v2/a/b/manifests/t", 200, {"Content-Type": MANIFEST}, DOCUMENT)
        return server

    def open(self, server):
        transport = Transport(server.host, lambda: None, plain_http=False)
        return Registry(Reference.parse(f"oci://{server.host}/a/b"), transport=transport)

    def test_an_authority_of_our_own(self, tls_server, authority, tmp_path, monkeypatch):
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        with self.open(tls_server) as repo:
            assert repo.manifest("t")[1] == DOCUMENT

    def test_a_stranger(self, tls_server, no_waiting):
        with self.open(tls_server) as repo, pytest.raises(TransientError, match="certificate"):
            repo.manifest("t")
        assert tls_server.requests == []


@pytest.mark.parametrize(
    ("host", "plain"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("127.0.0.1:5000", True),
        ("127.9.9.9", True),
        ("[::1]:5000", True),
        ("registry.example.com", False),
        ("localhost.example.com", False),
        ("10.0.0.1:5000", False),
        ("lab.example.com:5000", True),
        ("lab.example.com", False),
    ],
)
def test_where_http_is_plain(host, plain, monkeypatch):
    monkeypatch.setenv(PLAIN_HTTP_VARIABLE, "lab.example.com:5000, other")
    assert is_plain_http(host) is plain
