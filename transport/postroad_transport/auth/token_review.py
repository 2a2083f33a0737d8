"""Asking a Kubernetes API server whose token it is (``authentication.k8s.io/v1`` TokenReview)."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from postroad_transport.auth.accounts import AuthUnavailableError
from postroad_transport.auth.client_tls import client_context
from postroad_transport.auth.json_http import JsonHttp

#: Seconds that one review may take, with the wait for its turn.
TIMEOUT = 5.0
#: Reviews at one time; those beyond wait, and no more than so many.
CONCURRENT = 8
MAX_PENDING = 256

_DIRECTORY = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"


@dataclass(frozen=True, slots=True)
class ApiServer:
    """Where the API server is, and the files by which this pod knows it and is known to it."""

    url: str
    token_file: Path
    ca_file: Path

    @classmethod
    def of_pod(cls, environment: Mapping[str, str] = os.environ) -> ApiServer | None:
        """Return the one of the cluster that this process runs in; None: it runs in none.

        ``POSTROAD_SERVICE_ACCOUNT_DIRECTORY`` stands for where the kubelet puts the files.
        """
        host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT")
        if not host or not port:
            return None
        directory = Path(environment.get("POSTROAD_SERVICE_ACCOUNT_DIRECTORY") or _DIRECTORY)
        bracketed = f"[{host}]" if ":" in host else host
        return cls(f"https://{bracketed}:{port}", directory / "token", directory / "ca.crt")


class TokenReviewer:
    """Has tokens reviewed, as the service account of this pod."""

    def __init__(self, api: ApiServer, *, timeout: float = TIMEOUT) -> None:
        self._api = api
        self._timeout = timeout
        self._http = JsonHttp(self._context, timeout=timeout)
        self._places = asyncio.Semaphore(CONCURRENT)
        self._pending = 0

    async def review(self, token: str, audience: str) -> str:
        """Return the user name that `token` stands for; empty: it is not good, or not meant for `audience`.

        Raises
        ------
        AuthUnavailableError
            The API server is down, slow or refuses to tell.
        """
        if self._pending >= MAX_PENDING:
            raise AuthUnavailableError("too many tokens are being reviewed")
        self._pending += 1
        try:
            async with asyncio.timeout(self._timeout), self._places:
                answer = await self._http.request(
                    "POST",
                    self._api.url + _REVIEWS,
                    headers={"Authorization": f"Bearer {self._own_token()}"},
                    body={
                        "apiVersion": "authentication.k8s.io/v1",
                        "kind": "TokenReview",
                        "spec": {"token": token, "audiences": [audience]},
                    },
                )
        except TimeoutError as error:
            raise AuthUnavailableError("the API server does not answer in time") from error
        finally:
            self._pending -= 1
        return reviewed_user(answer, audience)

    async def close(self) -> None:
        """Let go of connections."""
        await self._http.close()

    def _own_token(self) -> str:
        # Read each time: the kubelet replaces it about every hour, and the file is small and in memory.
        try:
            return self._api.token_file.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise AuthUnavailableError("the pod's own token cannot be read") from error

    def _context(self) -> ssl.SSLContext:
        return client_context(self._api.ca_file.read_text("ascii"))


def reviewed_user(review: Mapping[str, Any], audience: str) -> str:
    """Return the user name of a TokenReview that was answered; empty: the token is not good.

    An authenticator that knows no audiences names none in its answer: then the token may have been issued for
    anybody, and is not good either.

    Raises
    ------
    AuthUnavailableError
        The API server could not tell, or its answer has another form.
    """
    status = review.get("status")
    if not isinstance(status, dict):
        raise AuthUnavailableError("the API server's answer is no TokenReview")
    if status.get("authenticated") is not True:
        return ""
    user, audiences = status.get("user"), status.get("audiences")
    name = user.get("username") if isinstance(user, dict) else None
    if not isinstance(name, str) or not isinstance(audiences, list) or audience not in audiences:
        return ""
    return name
