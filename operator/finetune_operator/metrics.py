"""Counters, gauges and histograms in Prometheus' text format: a handful of numbers do not need a client library.

CATALOGUE lists every metric with its type and its meaning; one that is not listed cannot be written, so the chart's
dashboard and alert rules can be tested against it. Units are base units, and are in the name.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata

PREFIX = "finetune_operator_"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

CATALOGUE = {
    "api_requests_total": (
        "counter",
        "Requests to the API server by verb, resource and code (none: no answer).",
    ),
    "reconcile_total": ("counter", "Reconciles by result."),
    "reconcile_duration_seconds": ("histogram", "How long reconciles took."),
    "jobs": ("gauge", "FineTuneJobs by phase, as the watch last showed them."),
    "jobs_stalled": ("gauge", "FineTuneJobs that will not get on without somebody's help, failed ones left out."),
    "jobs_ended_total": ("counter", "FineTuneJobs that this process saw end, by phase."),
    "polled_jobs": ("gauge", "Running jobs whose progress is read."),
    "queue_depth": ("gauge", "Jobs that are due and wait for a worker."),
    "queue_delayed": ("gauge", "Jobs that will be looked at again at a set time."),
    "queue_overdue_seconds": ("gauge", "For how long the most overdue job has been waiting for a worker."),
    "reconciles_running": ("gauge", "Jobs that are being worked on."),
    "watch_age_seconds": ("gauge", "Seconds since the watch of a resource last brought anything, bookmarks included."),
    "sweep_age_seconds": ("gauge", "Seconds since every job was last made due."),
    "leading": ("gauge", "1 for the operator that acts, 0 for one that stands by."),
    "build_info": ("gauge", "Always 1; the version is in the label."),
}
# Without our prefix: what dashboards know of any process.
PROCESS = {
    "process_resident_memory_bytes": ("gauge", "Resident memory of the process."),
    "process_cpu_seconds_total": ("counter", "Processor time used by the process."),
    "process_start_time_seconds": ("gauge", "When the process started, in seconds since 1970."),
}

Labels = tuple[tuple[str, str], ...]
Reading = float | Mapping[str, float]


class Metrics:
    """Counters by name and labels, gauges read at scrape time, and histograms of durations in seconds."""

    def __init__(self) -> None:
        self._counters: dict[tuple[str, Labels], float] = {}
        self._gauges: dict[str, tuple[Callable[[], Reading], str]] = {}
        self._histograms: dict[str, tuple[list[int], list[float]]] = {}
        self._started = time.time()
        self.gauge("build_info", lambda: {_version(): 1.0}, "version")

    def count(self, name: str, by: float = 1, **labels: str) -> None:
        """by=0 makes a series that starts at 0: Prometheus sees no increase in one that starts at 1."""
        _expect(name, "counter")
        key = (name, tuple(sorted(labels.items())))
        self._counters[key] = self._counters.get(key, 0) + by

    def value(self, name: str, **labels: str) -> float:
        return self._counters.get((name, tuple(sorted(labels.items()))), 0)

    def gauge(self, name: str, read: Callable[[], Reading], label: str = "") -> None:
        """`read` gives a number, or with a label a number for each of its values."""
        _expect(name, "gauge")
        self._gauges[name] = (read, label)

    def observe(self, name: str, seconds: float) -> None:
        _expect(name, "histogram")
        counts, total = self._histograms.setdefault(name, ([0] * (len(BUCKETS) + 1), [0.0]))
        counts[next((i for i, limit in enumerate(BUCKETS) if seconds <= limit), len(BUCKETS))] += 1
        total[0] += seconds

    def text(self) -> str:
        """The page that Prometheus reads."""
        return "\n".join([*self._ours(), *self._process()]) + "\n"

    def _ours(self) -> Iterator[str]:
        for name, (kind, meaning) in CATALOGUE.items():
            samples = list(self._samples(name))
            if samples:
                yield from _head(PREFIX + name, kind, meaning)
                yield from samples

    def _samples(self, name: str) -> Iterator[str]:
        for (counted, labels), value in sorted(self._counters.items()):
            if counted == name:
                yield _sample(PREFIX + name, value, labels)
        if name in self._gauges:
            read, label = self._gauges[name]
            reading = read()
            if isinstance(reading, Mapping):
                yield from (_sample(PREFIX + name, value, ((label, of),)) for of, value in sorted(reading.items()))
            else:
                yield _sample(PREFIX + name, reading)
        if name in self._histograms:
            counts, total = self._histograms[name]
            yield from _histogram(PREFIX + name, counts, total[0])

    def _process(self) -> Iterator[str]:
        memory = resident_memory()
        times = os.times()
        values = (memory, times.user + times.system, self._started)
        for (name, (kind, meaning)), value in zip(PROCESS.items(), values, strict=True):
            if value is not None:
                yield from _head(name, kind, meaning)
                yield _sample(name, value)


def resident_memory() -> float | None:
    """Bytes; None where /proc does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return float(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def _version() -> str:
    try:
        return metadata.version("finetune-operator")
    except metadata.PackageNotFoundError:
        return "unknown"


def _expect(name: str, kind: str) -> None:
    if CATALOGUE.get(name, ("", ""))[0] != kind:
        raise KeyError(f"{name} is no {kind} of metrics.CATALOGUE")


def _head(name: str, kind: str, meaning: str) -> Iterator[str]:
    yield f"# HELP {name} {meaning}"
    yield f"# TYPE {name} {kind}"


def _sample(name: str, value: float, labels: Labels = ()) -> str:
    return f"{name}{_labels(labels)} {_number(value)}"


def _number(value: float) -> str:
    """All digits: a counter that is rounded stands still and then leaps."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _histogram(name: str, counts: list[int], total: float) -> Iterator[str]:
    running = 0
    for limit, count in zip((*(f"{b:g}" for b in BUCKETS), "+Inf"), counts, strict=True):
        running += count
        yield f'{name}_bucket{{le="{limit}"}} {running}'
    yield f"{name}_sum {total!r}"
    yield f"{name}_count {running}"
