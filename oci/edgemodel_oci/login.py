"""Answer a registry's challenge: Basic, or a token from its token server (distribution spec, "token" and "oauth")."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import httpx

from edgemodel_api.errors import InputError

from .answers import SMALL_BODY_BYTES, AgainError, read_limited, refuse, unreachable
from .auth import Challenge, token_of
from .credentials import Credentials


class Login:
    """Knows who we are at one registry.

    Args:
        client: to ask the token server with.
        base: the registry's address.
        find: gives the credentials; called once, where the registry asks.
        check_target: refuses addresses that must not be asked.
        advice: what to change when the registry refuses us.
    """

    def __init__(
        self,
        client: httpx.Client,
        base: httpx.URL,
        find: Callable[[], Credentials | None],
        check_target: Callable[[httpx.URL], None],
        advice: str,
    ) -> None:
        self.credentials: Credentials | None = None
        self._client, self._base, self._find, self._check_target = client, base, find, check_target
        self._host = base.netloc.decode("ascii")
        self._advice = advice

    def answer(self, challenges: list[Challenge], scope: str) -> str:
        """The Authorization header that a challenge asks for.

        Raises:
            InputError: there are no credentials, or nothing that we can answer.
            AgainError: the token server fails for now.
        """
        self.credentials = self.credentials or self._find()
        for challenge in challenges:
            if challenge.scheme == "bearer" and "realm" in challenge.parameters:
                return "Bearer " + self._token(challenge.parameters, scope)
            if challenge.scheme == "basic":
                if self.credentials is None or not self.credentials.username:
                    raise InputError(f"{self._host} wants a user name and password: {self._advice}")
                return self.credentials.basic
        raise InputError(f"{self._host} refuses access and says no way to ask for it: check its configuration")

    def _token(self, parameters: Mapping[str, str], scope: str) -> str:
        try:
            realm = self._base.join(parameters["realm"])
        except (httpx.InvalidURL, ValueError):
            raise InputError(f"{self._host} names a token server that is no address: check the registry") from None
        self._check_target(realm)
        # A registry behind another name knows better what to ask its token server for.
        query = {"scope": parameters.get("scope") or scope}
        if service := parameters.get("service"):
            query["service"] = service
        credentials = self.credentials
        headers = {"Accept": "application/json"}
        if credentials is not None and credentials.identity_token:
            # OAuth2 (distribution spec, "token/oauth"): a refresh token goes into a form.
            form = {
                "grant_type": "refresh_token",
                "refresh_token": credentials.identity_token,
                "client_id": "edgemodel",
            }
            request = self._client.build_request("POST", realm, data={**form, **query}, headers=headers)
        else:
            if credentials is not None and credentials.username:
                headers["Authorization"] = credentials.basic
            request = self._client.build_request("GET", realm.copy_merge_params(query), headers=headers)
        try:
            response = self._client.send(request, stream=True)
        except httpx.TransportError as error:
            raise AgainError(unreachable(self._host, error)) from None
        try:
            if response.status_code in (400, 401, 403):
                raise InputError(
                    f"the token server of {self._host} refuses access ({response.status_code}) to {scope}:"
                    f" {self._advice} as a user who has it"
                )
            if not response.is_success:
                somebody = credentials is not None
                refuse(self._host, request.method, response, as_somebody=somebody, advice=self._advice)
            read_limited(response, SMALL_BODY_BYTES)
        finally:
            response.close()
        token = token_of(response.content)
        if token is None:
            raise InputError(f"the token server of {self._host} answers without a token: check the registry")
        return token
