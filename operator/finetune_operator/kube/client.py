"""A small asynchronous client: JSON in, JSON out, errors as ApiError, every request counted.

No retries here: reconcile is level-based, so a failed request fails the reconcile and the queue comes back to it with
backoff. That keeps one place where waiting is decided.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from ..metrics import Metrics
from .config import KubeConfig
from .errors import ApiError, UnreachableError
from .resources import Resource

REQUEST_SECONDS = 30.0
LIST_PAGE = 500
JSON = "application/json"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

Object = dict[str, Any]


class KubeClient:
    """One connection pool to one API server. Use as an asynchronous context manager."""

    def __init__(self, config: KubeConfig, metrics: Metrics, field_manager: str, connections: int = 64) -> None:
        self._config = config
        self._metrics = metrics
        self._manager = field_manager
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "KubeClient":
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._config.ssl_context(), limit=self._connections),
            timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS),
            headers={"User-Agent": self._manager},
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._session:
            await self._session.close()

    async def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        """An object, or None when there is none of that name."""
        try:
            return await self.request("GET", resource.path(namespace, name), resource.plural)
        except ApiError as error:
            if error.not_found:
                return None
            raise

    async def list(self, resource: Resource, namespace: str, **selectors: str) -> list[Object]:
        """All objects that match labelSelector= and fieldSelector=."""
        return [item async for item in self.pages(resource, namespace, **selectors)]

    def pages(self, resource: Resource, namespace: str, **selectors: str) -> AsyncIterator[Object]:
        """The same in pages, one object at a time, so that a sweep over thousands does not hold them all."""
        return self._pages(resource, namespace, JSON, selectors)

    def metadata(self, resource: Resource, namespace: str, **selectors: str) -> AsyncIterator[Object]:
        """As pages(), but nothing of the objects than their metadata."""
        return self._pages(resource, namespace, METADATA_LIST, selectors)

    async def _pages(
        self, resource: Resource, namespace: str, accept: str, selectors: dict[str, str]
    ) -> AsyncIterator[Object]:
        query = {"limit": str(LIST_PAGE), **selectors}
        while True:
            page = await self.request("GET", resource.path(namespace), resource.plural, query=query, accept=accept)
            for item in page.get("items") or []:
                yield item
            token = page.get("metadata", {}).get("continue")
            if not token:
                return
            query["continue"] = token

    async def create(self, resource: Resource, namespace: str, body: Object) -> Object:
        query = {"fieldManager": self._manager}
        return await self.request("POST", resource.path(namespace), resource.plural, query=query, body=body)

    async def apply(self, resource: Resource, namespace: str, body: Object) -> Object:
        """Server-side apply under our own field manager: only for real drift in fields that are ours."""
        query = {"fieldManager": self._manager, "force": "true"}
        path = resource.path(namespace, body["metadata"]["name"])
        return await self.request("PATCH", path, resource.plural, query=query, body=body, content=APPLY_PATCH)

    async def replace(self, resource: Resource, namespace: str, name: str, body: Object) -> Object:
        query = {"fieldManager": self._manager}
        return await self.request("PUT", resource.path(namespace, name), resource.plural, query=query, body=body)

    async def patch_status(self, resource: Resource, namespace: str, name: str, body: Object) -> Object:
        """Merge patch of the status subresource; put resourceVersion and uid into the body's metadata to guard it."""
        path = resource.path(namespace, name, "status")
        query = {"fieldManager": self._manager}
        return await self.request("PATCH", path, resource.plural, query=query, body=body, content=MERGE_PATCH)

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str, policy: str) -> None:
        """Delete that very object (by uid), with propagation policy Foreground or Background; gone already is fine."""
        options = {"propagationPolicy": policy, "preconditions": {"uid": uid}}
        try:
            await self.request("DELETE", resource.path(namespace, name), resource.plural, body=options)
        except ApiError as error:
            if not (error.not_found or error.conflict):
                raise

    async def serves(self, group: str) -> str | None:
        """The API server's preferred version of an API group, None if it does not know the group: how the presence of
        Kueue is told without watching its kinds."""
        try:
            found = await self.request("GET", f"/apis/{group}", "apigroups")
        except ApiError as error:
            if error.not_found:
                return None
            raise
        return str((found.get("preferredVersion") or {}).get("version") or "") or None

    async def request(
        self,
        method: str,
        path: str,
        plural: str,
        *,
        query: dict[str, str] | None = None,
        body: Object | None = None,
        content: str = JSON,
        accept: str = JSON,
    ) -> Object:
        """One request; raises ApiError on an error answer and UnreachableError on none."""
        assert self._session is not None, "use the client as a context manager"
        headers = {"Accept": accept, **({"Content-Type": content} if body is not None else {})}
        if token := self._config.bearer_token():
            headers["Authorization"] = f"Bearer {token}"
        data = json.dumps(body, separators=(",", ":")).encode() if body is not None else None
        url = self._config.server.rstrip("/") + path
        try:
            async with self._session.request(method, url, params=query, data=data, headers=headers) as response:
                self._metrics.count("api_requests_total", verb=method, resource=plural, code=str(response.status))
                raw = await response.read()
                answer = _parse(raw)
                if response.status >= 400:
                    raise ApiError.from_response(response.status, answer, response.headers.get("Retry-After"))
                return answer if isinstance(answer, dict) else {}
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            self._metrics.count("api_requests_total", verb=method, resource=plural, code="none")
            raise UnreachableError(f"{method} {path}: {error or type(error).__name__}") from error


def _parse(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return raw[:500].decode(errors="replace")
