"""Kubernetes' timestamps (RFC 3339, UTC, whole seconds) to and from datetime."""

from datetime import UTC, datetime


def parse(text: str) -> datetime:
    """An aware datetime in UTC."""
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def render(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def age(text: str | None, now: datetime) -> float:
    """Seconds since a timestamp; 0 for none."""
    return (now - parse(text)).total_seconds() if text else 0.0
