"""What an API request can fail with, told apart by what the caller does next."""

from typing import Any


class ApiError(Exception):
    """The API server answered with an error. `reason` is Kubernetes' own (AlreadyExists, Conflict, Forbidden…)."""

    def __init__(self, status: int, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after = retry_after

    @classmethod
    def from_response(cls, status: int, body: Any, retry_after: str | None) -> "ApiError":
        """From a Status object, or from whatever a proxy in between has answered."""
        wait = float(retry_after) if retry_after and retry_after.isdigit() else None
        if isinstance(body, dict) and body.get("kind") == "Status":
            return cls(status, str(body.get("reason", "")), str(body.get("message", "")), wait)
        return cls(status, "", str(body)[:500], wait)

    @property
    def not_found(self) -> bool:
        return self.status == 404

    @property
    def already_exists(self) -> bool:
        return self.status == 409 and self.reason == "AlreadyExists"

    @property
    def conflict(self) -> bool:
        """Someone else wrote first (resourceVersion), or the object is another one of that name (uid)."""
        return self.status == 409 and not self.already_exists

    @property
    def over_quota(self) -> bool:
        return self.status == 403 and "exceeded quota" in self.message

    @property
    def refused(self) -> bool:
        """The content was refused (schema, policy, webhook, permission): the same request will fail again."""
        return self.status in (400, 403, 422)


class UnreachableError(Exception):
    """No answer from the API server: whether a write has happened is not known."""
