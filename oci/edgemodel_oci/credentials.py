"""User name and password for a registry, as `docker login`, `podman login` and `oras login` store them.

Read in this order: `$REGISTRY_AUTH_FILE`, `$DOCKER_CONFIG/config.json` (or `~/.docker/config.json`), and
`$XDG_RUNTIME_DIR/containers/auth.json`. A mounted Secret of type kubernetes.io/dockerconfigjson has the same format.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgemodel_api.errors import InputError

_FILE_LIMIT_BYTES = 1 << 20
_HELPER_SECONDS = 30
_HELPER = re.compile(r"[A-Za-z0-9_.-]{1,64}")
#: What `docker login` without a host writes.
_DOCKER_HUB = ("docker.io", "index.docker.io", "registry-1.docker.io")
#: A helper gives an identity token with this user name.
_TOKEN_USER = "<token>"  # noqa: S105  a marker of the helper protocol, no secret


@dataclass(frozen=True)
class Credentials:
    """What proves who we are; never shown in messages.

    Attributes:
        username: may be empty with an identity token.
        password: password or access token.
        identity_token: an OAuth2 refresh token, which wins over the password.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str | None = field(default=None, repr=False)

    @property
    def basic(self) -> str:
        """The value of an Authorization header (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


def find_credentials(host: str) -> Credentials | None:
    """What is stored for `host[:port]`; None if nothing is.

    Raises:
        InputError: a file is broken, or a credential helper fails.
    """
    for path in _files():
        if (document := _read(path)) is not None and (found := _lookup(document, host, path)) is not None:
            return found
    return None


def credentials_from_file(path: Path, host: str) -> Credentials | None:
    """What one file in Docker's format holds for `host[:port]`.

    Raises:
        InputError: it cannot be read, or is broken.
    """
    document = _read(path)
    if document is None:
        raise InputError(f"there is no file {path} with registry credentials: mount the secret, or run docker login")
    return _lookup(document, host, path)


def _files() -> list[Path]:
    environment = os.environ
    found = [Path(environment["REGISTRY_AUTH_FILE"])] if environment.get("REGISTRY_AUTH_FILE") else []
    if environment.get("DOCKER_CONFIG"):
        found.append(Path(environment["DOCKER_CONFIG"]) / "config.json")
    else:
        found.append(Path(os.path.expanduser("~")) / ".docker" / "config.json")
    if environment.get("XDG_RUNTIME_DIR"):
        found.append(Path(environment["XDG_RUNTIME_DIR"]) / "containers" / "auth.json")
    return found


def _read(path: Path) -> dict[str, Any] | None:
    try:
        with open(path, "rb") as f:
            document = json.loads(f.read(_FILE_LIMIT_BYTES))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}): check its rights") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path} is no JSON: run docker login, podman login or oras login again") from None
    return document if isinstance(document, dict) else None


def _lookup(document: dict[str, Any], host: str, path: Path) -> Credentials | None:
    names = _DOCKER_HUB if host in _DOCKER_HUB else (host,)
    for name in names:
        helper = _object(document, "credHelpers").get(name) or document.get("credsStore")
        if isinstance(helper, str) and helper and (found := _ask_helper(helper, name)) is not None:
            return found
    auths = {_host_of(key): value for key, value in _object(document, "auths").items() if isinstance(value, dict)}
    for name in names:
        if (entry := auths.get(name)) is not None:
            return _entry(entry, name, path)
    return None


def _entry(entry: dict[str, Any], host: str, path: Path) -> Credentials | None:
    token = entry.get("identitytoken")
    token = token if isinstance(token, str) and token else None
    username, password = entry.get("username"), entry.get("password")
    if isinstance(auth := entry.get("auth"), str) and auth:
        try:
            username, _, password = base64.b64decode(auth, validate=True).decode().partition(":")
        except ValueError:
            raise InputError(f"the entry for {host} in {path} is not base64: log in again") from None
    if not isinstance(username, str) or not isinstance(password, str):
        return Credentials(identity_token=token) if token else None
    return Credentials(username, password.rstrip("\0"), token)


def _ask_helper(helper: str, host: str) -> Credentials | None:
    """The protocol of docker-credential-helpers: `get` with the host on standard input, JSON on standard output."""
    if _HELPER.fullmatch(helper) is None:
        raise InputError(f"{helper[:80]!r} is no name of a credential helper: correct credsStore or credHelpers")
    program = f"docker-credential-{helper}"
    try:
        run = subprocess.run(
            [program, "get"], input=host.encode(), capture_output=True, timeout=_HELPER_SECONDS, check=False
        )
        if run.returncode:
            # "credentials not found" is an answer; an unlocked keyring is another matter, but looks the same.
            return None
        document = json.loads(run.stdout)
        username, secret = str(document["Username"]), str(document["Secret"])
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(
            f"the credential helper {program} does not run ({error}): install it, or log in again"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"the credential helper {program} answers no user name and secret: log in again") from None
    return Credentials(identity_token=secret) if username == _TOKEN_USER else Credentials(username, secret)


def _object(document: dict[str, Any], key: str) -> dict[str, Any]:
    found = document.get(key)
    return found if isinstance(found, dict) else {}


def _host_of(key: str) -> str:
    """`https://index.docker.io/v1/` and `registry.example.com/team` → the host."""
    return key.removeprefix("https://").removeprefix("http://").partition("/")[0].lower()
