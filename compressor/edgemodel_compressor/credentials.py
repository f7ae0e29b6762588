"""What a Secret holds for a source or for data: its keys as files in a folder, as Kubernetes mounts it.

`https`: `username` and `password`, or `token`. `oci`: `.dockerconfigjson`. `s3`: `AWS_ACCESS_KEY_ID` and
`AWS_SECRET_ACCESS_KEY`, where needed `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL`. For all of them `ca.crt`.
Messages name the Secret and its keys, never a value.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from edgemodel_api.errors import InputError
from edgemodel_oci.credentials import Credentials, credentials_from_file

USERNAME, PASSWORD, TOKEN = "username", "password", "token"
DOCKER_CONFIG = ".dockerconfigjson"
AUTHORITY = "ca.crt"
ACCESS_KEY, SECRET_KEY = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"
SESSION_TOKEN, REGION, ENDPOINT = "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL"
#: A Secret has 1 MiB at most.
_LIMIT_BYTES = 2**20


class CredentialsError(InputError):
    """A Secret has to be corrected, or the server's side of it: with the same spec, another try may then go well."""


@dataclass(frozen=True)
class Secret:
    """One Secret.

    Attributes:
        name: as credentialsSecretRef has it.
        folder: its keys as files; None: there is no such folder.
    """

    name: str
    folder: Path | None

    def __str__(self) -> str:
        return f"the Secret {self.name}"

    def text(self, key: str) -> str | None:
        """The value of a key, without the line break that `--from-file` leaves at its end; None: there is no such key.

        Raises:
            CredentialsError: it cannot be read, is empty, or is no line of text.
        """
        content = self._read(key)
        if content is None:
            return None
        try:
            value = content.decode().rstrip("\r\n")
        except ValueError:
            value = "\0"
        if not value or not value.isprintable():
            what = "is empty" if not value else "is no line of text"
            raise CredentialsError(f"{key} of {self} {what}: write it again (kubectl create secret … --from-literal)")
        return value

    def has(self, key: str) -> bool:
        """Whether there is such a key."""
        return self.folder is not None and (self.folder / key).exists()

    def keys(self) -> str:
        """Its keys, for messages."""
        if self.folder is None:
            return "none"
        try:
            names = sorted(n for n in os.listdir(self.folder) if not n.startswith(".."))
        except OSError:
            return "none that can be listed"
        return ", ".join(name[:60] for name in names[:10]) or "none"

    def _read(self, key: str) -> bytes | None:
        if self.folder is None:
            return None
        try:
            with open(self.folder / key, "rb") as file:
                content = file.read(_LIMIT_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CredentialsError(
                f"{key} of {self} cannot be read ({self.folder / key}: {error.strerror}): make it readable for user"
                f" {os.geteuid()}"
            ) from None
        if len(content) > _LIMIT_BYTES:
            raise CredentialsError(f"{key} of {self} has more than {_LIMIT_BYTES} bytes: give the right file")
        return content


def authorities(secret: Secret | None) -> ssl.SSLContext:
    """Whose certificates count: the system's authorities (or SSL_CERT_FILE's), and the Secret's `ca.crt`.

    Raises:
        CredentialsError: one of the two cannot be used.
    """
    try:
        context = httpx.create_ssl_context()
    except (OSError, ssl.SSLError) as error:
        raise CredentialsError(
            f"the certificates of SSL_CERT_FILE cannot be read ({error}): correct or unset it"
        ) from None
    content = secret._read(AUTHORITY) if secret is not None else None
    if content is not None:
        try:
            context.load_verify_locations(cadata=content.decode("ascii"))
        except (ValueError, ssl.SSLError):
            raise CredentialsError(
                f"{AUTHORITY} of {secret} holds no certificate: give the authority's in PEM (-----BEGIN CERTIFICATE-----)"
            ) from None
    return context


def authorization(secret: Secret) -> str | None:
    """The Authorization header for an https server; None: the Secret holds an authority alone.

    Raises:
        CredentialsError: the Secret lacks a key, or holds too many.
    """
    token = secret.text(TOKEN)
    username, password = secret.text(USERNAME), secret.text(PASSWORD)
    if token is not None and (username is not None or password is not None):
        raise CredentialsError(f"{secret} holds both {TOKEN} and {USERNAME} or {PASSWORD}: keep one of them")
    if token is not None:
        if not token.isascii():
            raise CredentialsError(f"{TOKEN} of {secret} has letters that no header takes: write it again")
        return f"Bearer {token}"
    if username is not None and password is not None:
        return Credentials(username, password).basic
    if username is None and password is None and secret.has(AUTHORITY):
        return None
    raise _lacks(secret, "https", f"{USERNAME} and {PASSWORD}, or {TOKEN}")


def registry_credentials(secret: Secret, host: str) -> Credentials | None:
    """What to show a registry; None: the Secret holds an authority alone, look elsewhere.

    Raises:
        CredentialsError: the Secret has nothing for this registry, or nothing that can be read.
    """
    if secret.folder is None or not secret.has(DOCKER_CONFIG):
        if secret.has(AUTHORITY):
            return None
        raise _lacks(secret, "oci", f"{DOCKER_CONFIG} (kubectl create secret docker-registry)")
    found = credentials_from_file(secret.folder / DOCKER_CONFIG, host)
    if found is None:
        raise CredentialsError(
            f"{DOCKER_CONFIG} of {secret} has nothing for {host}: create it with --docker-server={host}"
        )
    return found


@dataclass(frozen=True)
class S3Keys:
    """How to ask an S3 server.

    Attributes:
        access_key, secret_key: empty: without a signature, as public buckets allow.
        session_token: of temporary keys.
        region: part of the signature, and at AWS of the host's name.
        endpoint: the server; empty: AWS.
        origin: where they are from, for messages.
    """

    access_key: str = ""
    secret_key: str = field(default="", repr=False)
    session_token: str | None = field(default=None, repr=False)
    region: str = "us-east-1"
    endpoint: str = ""
    origin: str = "the environment"


def s3_keys(secret: Secret | None, environment: Mapping[str, str] = os.environ) -> S3Keys:
    """From the Secret alone, or where there is none from the environment.

    Raises:
        CredentialsError: one of the two keys is missing.
    """

    def find(*names: str) -> str | None:
        if secret is not None:
            return secret.text(names[0])
        return next((environment[n] for n in names if environment.get(n)), None)

    access, key = find(ACCESS_KEY), find(SECRET_KEY)
    missing = ACCESS_KEY if access is None else SECRET_KEY
    others = (AUTHORITY, ENDPOINT, REGION)
    if secret is not None and access is None and key is None and not any(secret.has(k) for k in others):
        raise _lacks(secret, "s3", f"{ACCESS_KEY} and {SECRET_KEY}")
    if (access is None) != (key is None):
        where = f"{secret} (it has: {secret.keys()})" if secret is not None else "the environment"
        raise CredentialsError(f"{missing} is missing in {where}: an s3 source needs {ACCESS_KEY} and {SECRET_KEY}")
    return S3Keys(
        access_key=access or "",
        secret_key=key or "",
        session_token=find(SESSION_TOKEN),
        region=find(REGION, "AWS_DEFAULT_REGION") or S3Keys.region,
        endpoint=find(ENDPOINT) or "",
        origin=str(secret) if secret is not None else S3Keys.origin,
    )


def stored_elsewhere(uri: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a single machine may hold credentials for such a URI where no folder does: keys in the environment for s3,
    what `docker login` stored for oci.
    """
    return uri.startswith("oci:") or (uri.startswith("s3:") and bool(environment.get(ACCESS_KEY)))


def _lacks(secret: Secret, scheme: str, needed: str) -> CredentialsError:
    if secret.folder is None:
        return CredentialsError(
            f"there is no folder of keys for {secret}: make $EDGEMODEL_CREDENTIALS/{secret.name} (or"
            f" ~/.config/edgemodel/credentials/{secret.name}) with a file for each key: {needed}"
        )
    return CredentialsError(f"{secret} has no keys for {scheme} (it has: {secret.keys()}): it needs {needed}")
