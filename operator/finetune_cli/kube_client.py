"""A small HTTPS client for the Kubernetes API: read, delete, and follow one object with the watch API.

Only what the commands need, over the standard library, since they have to start at once.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode, urlsplit

from finetune_cli.errors import CliError
from finetune_cli.kubeconfig import Connection

CONNECT_TIMEOUT = 15.0
WATCH_SECONDS = 280  # the server ends a watch after that; it is then taken up again
FIRST_RETRY = 1.0
LAST_RETRY = 30.0


class ApiError(CliError):
    """The API server's refusal: HTTP status, its reason word and message."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class Unreachable(CliError):
    """The API server did not answer."""


class KubeClient:
    """Requests to one API server; each opens its own connection, so that a client may be shared between threads."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._url = urlsplit(connection.server)
        self._context = _tls_context(connection) if self._url.scheme == "https" else None

    def get(self, path: str, **query: str) -> dict[str, Any]:
        """The object or list at `path`. Raises ApiError, Unreachable."""
        return self._json("GET", path, query)

    def delete(self, path: str, propagation: str = "Background") -> dict[str, Any]:
        """Delete the object at `path`. Raises ApiError, Unreachable."""
        return self._json("DELETE", path, {"propagationPolicy": propagation})

    def text(self, path: str, **query: str) -> str:
        """The body at `path` as text (a pod's log). Raises ApiError, Unreachable."""
        with self._response("GET", path, query, CONNECT_TIMEOUT) as response:
            return response.read().decode(errors="replace")

    def watch(self, path: str, **query: str) -> Iterator[dict[str, Any]]:
        """Watch events of the collection at `path` until the server ends the watch. Raises ApiError, Unreachable."""
        query |= {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH_SECONDS)}
        with self._response("GET", path, query, WATCH_SECONDS + CONNECT_TIMEOUT) as response:
            try:
                while line := response.readline():
                    if line.strip():
                        yield json.loads(line)
            except (OSError, http.client.HTTPException, ValueError) as cause:
                raise Unreachable(f"the watch on {self.connection.server} broke: {cause}") from cause

    def _json(self, method: str, path: str, query: dict[str, str]) -> dict[str, Any]:
        with self._response(method, path, query, CONNECT_TIMEOUT) as response:
            document: dict[str, Any] = json.loads(response.read())
            return document

    @contextlib.contextmanager
    def _response(
        self, method: str, path: str, query: dict[str, str], timeout: float
    ) -> Iterator[http.client.HTTPResponse]:
        target = self._url.path.rstrip("/") + path + (f"?{urlencode(query)}" if query else "")
        connection = self._connect(timeout)
        try:
            try:
                connection.request(method, target, headers={"Accept": "application/json", **self.connection.headers})
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as cause:
                raise Unreachable(f"the API server {self.connection.server} does not answer: {cause}") from cause
            if response.status >= 400:
                raise _refusal(response)
            yield response
        finally:
            connection.close()

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        tunnel = None
        if self.connection.proxy:
            proxy = urlsplit(self.connection.proxy)
            if proxy.scheme != "http":
                raise CliError(f"the kubeconfig's proxy-url {self.connection.proxy} is not http://")
            tunnel = (host, port or 443)
            host, port = proxy.hostname or "", proxy.port
        if self._context is None:
            return http.client.HTTPConnection(host, port, timeout=timeout)
        connection = _TlsConnection(host, port, timeout=timeout, context=self._context)
        connection.server_name = self.connection.server_name
        if tunnel:
            connection.set_tunnel(*tunnel)
        return connection


class _TlsConnection(http.client.HTTPSConnection):
    """HTTPS that may check the certificate for another name than the address (kubeconfig's tls-server-name)."""

    server_name: str | None = None

    def connect(self) -> None:
        if self.server_name is None:
            super().connect()
            return
        http.client.HTTPConnection.connect(self)
        self.sock: socket.socket = self._context.wrap_socket(self.sock, server_hostname=self.server_name)  # type: ignore[attr-defined]


def _tls_context(connection: Connection) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cadata=connection.ca) if connection.ca else ssl.create_default_context()
        if not connection.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if connection.client_certificate and connection.client_key:
            _load_client_certificate(context, connection.client_certificate, connection.client_key)
    except (ssl.SSLError, ValueError) as cause:
        raise CliError(f"the kubeconfig's certificates for {connection.server} cannot be used: {cause}") from cause
    return context


def _load_client_certificate(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """ssl reads certificates from files only: a private one, gone again at once."""
    handle, path = tempfile.mkstemp(prefix="finetune-")
    try:
        with os.fdopen(handle, "w") as pem:
            pem.write(certificate.rstrip() + "\n" + key)
        context.load_cert_chain(path)
    finally:
        os.unlink(path)


def _refusal(response: http.client.HTTPResponse) -> ApiError:
    body = response.read()
    try:
        status = json.loads(body)
        return ApiError(response.status, status.get("reason") or "", status.get("message") or response.reason)
    except (ValueError, AttributeError):
        return ApiError(response.status, response.reason, f"{response.status} {response.reason}")


def _after_error(status: dict[str, Any]) -> str:
    """An error inside a watch: '' (read anew) for a version the server has forgotten, else Unreachable."""
    if status.get("code") == 410:
        return ""
    raise Unreachable(f"the watch ended: {status.get('message') or status}")


def follow(
    client: KubeClient, collection: str, name: str, on_trouble: Callable[[str], None]
) -> Iterator[dict[str, Any] | None]:
    """The object `name` of `collection` now and after every change; None when it is not there (any more).

    Reads once, then watches from that resourceVersion: no polling. A lost connection is taken up again with growing
    pauses, after telling `on_trouble`; a resourceVersion that the server has forgotten (410) is read anew.

    Raises:
        ApiError: the server refuses (no such resource, not allowed).
        Unreachable: the first read fails.
    """
    selector = f"metadata.name={name}"
    first, pause = True, FIRST_RETRY
    while True:
        try:
            listing = client.get(collection, fieldSelector=selector)
            first, pause = False, FIRST_RETRY
            yield listing["items"][0] if listing["items"] else None
            version = listing["metadata"]["resourceVersion"]
            while version:
                for event in client.watch(collection, fieldSelector=selector, resourceVersion=version):
                    if event["type"] == "ERROR":
                        version = _after_error(event["object"])
                        break
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        yield None if event["type"] == "DELETED" else event["object"]
        except Unreachable as cause:
            if first:
                raise
            on_trouble(f"{cause}; trying again in {pause:.0f} s")
            time.sleep(pause)
            pause = min(LAST_RETRY, pause * 2)
        except ApiError as cause:
            if cause.status != 410:
                raise
