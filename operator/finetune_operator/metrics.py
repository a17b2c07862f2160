"""Counters and gauges in Prometheus' text format: a handful of numbers do not need a client library."""

from collections.abc import Callable

PREFIX = "finetune_operator_"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Counters by name and labels, gauges read at scrape time, and histograms of durations in seconds."""

    def __init__(self) -> None:
        self._counters: dict[tuple[str, Labels], float] = {}
        self._gauges: dict[str, Callable[[], float]] = {}
        self._histograms: dict[str, tuple[list[int], list[float]]] = {}

    def count(self, name: str, **labels: str) -> None:
        key = (name, tuple(sorted(labels.items())))
        self._counters[key] = self._counters.get(key, 0) + 1

    def value(self, name: str, **labels: str) -> float:
        return self._counters.get((name, tuple(sorted(labels.items()))), 0)

    def gauge(self, name: str, read: Callable[[], float]) -> None:
        self._gauges[name] = read

    def observe(self, name: str, seconds: float) -> None:
        counts, total = self._histograms.setdefault(name, ([0] * (len(BUCKETS) + 1), [0.0]))
        counts[next((i for i, limit in enumerate(BUCKETS) if seconds <= limit), len(BUCKETS))] += 1
        total[0] += seconds

    def text(self) -> str:
        """The page that Prometheus reads."""
        lines: list[str] = []
        typed: set[str] = set()
        for (name, labels), value in sorted(self._counters.items()):
            if name not in typed:
                typed.add(name)
                lines.append(f"# TYPE {PREFIX}{name} counter")
            lines.append(f"{PREFIX}{name}{_labels(labels)} {value:g}")
        for name, read in sorted(self._gauges.items()):
            lines += [f"# TYPE {PREFIX}{name} gauge", f"{PREFIX}{name} {read():g}"]
        for name, (counts, total) in sorted(self._histograms.items()):
            lines += _histogram(name, counts, total[0])
        return "\n".join(lines) + "\n"


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels) + "}"


def _histogram(name: str, counts: list[int], total: float) -> list[str]:
    lines = [f"# TYPE {PREFIX}{name} histogram"]
    running = 0
    for limit, count in zip((*(f"{b:g}" for b in BUCKETS), "+Inf"), counts, strict=True):
        running += count
        lines.append(f'{PREFIX}{name}_bucket{{le="{limit}"}} {running}')
    return [*lines, f"{PREFIX}{name}_sum {total:g}", f"{PREFIX}{name}_count {running}"]
