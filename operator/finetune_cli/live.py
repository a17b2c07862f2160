"""The progress of one job as it happens, from its status document: a redrawn panel on a terminal, lines in a pipe.

`watch`, `run` and `demo` all show a job with this, since all three have the same status document, whether it comes
from the API server or from the local run's status.json.
"""

from __future__ import annotations

import itertools
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

from finetune_cli import terminal

if TYPE_CHECKING:
    from rich.console import RenderableType

SPARKS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 24
MAX_LOSSES = 512
PLAIN_SECONDS = 5.0
# Conditions that say nothing beyond the phase while all goes well.
QUIET_WHEN_TRUE = {"Reconciling", "Complete", "Ready"}
PHASE_STYLES = {"Succeeded": "green", "Failed": "red", "Suspended": "yellow", "Stalled": "yellow"}

Status = dict[str, Any]


class View(Protocol):
    """Something that shows successive status documents of one job; use it as a context manager."""

    def __enter__(self) -> View: ...
    def __exit__(self, *exc: object) -> None: ...
    def update(self, status: Status) -> None: ...
    def message(self, text: str) -> None: ...


def job_view(name: str) -> View:
    """The view that suits stdout."""
    return TerminalView(name) if terminal.is_terminal(sys.stdout) else PlainView()


def progress_text(progress: Status) -> str:
    """One line of numbers: step, loss, learning rate, speed and time left, as far as they are known."""
    parts = []
    if progress.get("totalSteps"):
        percent = f" ({progress['percent']:.0f}%)" if progress.get("percent") is not None else ""
        parts.append(f"step {progress.get('step', 0)}/{progress['totalSteps']}{percent}")
    if progress.get("loss") is not None:
        first = f" (first {terminal.number(progress['firstLoss'])})" if progress.get("firstLoss") is not None else ""
        parts.append(f"loss {terminal.number(progress['loss'])}{first}")
    if progress.get("evalLoss") is not None:
        parts.append(f"eval loss {terminal.number(progress['evalLoss'])}")
    if progress.get("learningRate") is not None:
        parts.append(f"lr {progress['learningRate']:.2e}")
    if progress.get("tokensPerSecond") is not None:
        parts.append(f"{progress['tokensPerSecond']:,.0f} tokens/s")
    if progress.get("etaSeconds") is not None:
        parts.append(f"ETA {terminal.duration(progress['etaSeconds'])}")
    return "  ".join(parts)


def dataset_text(dataset: Status) -> str:
    """What the download found in the data, in one line."""
    if dataset.get("examples") is None:
        return ""
    parts = [f"{dataset['examples']} examples"]
    if dataset.get("validationExamples"):
        parts.append(f"{dataset['validationExamples']} for validation")
    if dataset.get("tokens"):
        parts.append(f"{dataset['tokens']:,} tokens")
    if dataset.get("dropped"):
        parts.append(f"{dataset['dropped']} dropped as too long")
    if dataset.get("totalSteps"):
        parts.append(f"{dataset['totalSteps']} steps")
    return "data: " + ", ".join(parts)


def noteworthy_conditions(status: Status) -> list[str]:
    """What the conditions say that a person should read: '<reason>: <message>', each once.

    While all goes well that is one line at most (what the job waits for); a failure or a stall always shows.
    """
    lines: list[str] = []
    for condition in status.get("conditions") or []:
        if condition.get("status") != "True" or not condition.get("message"):
            continue
        quiet = condition["type"] in QUIET_WHEN_TRUE
        if quiet and (condition["type"] != "Reconciling" or (status.get("progress") or {}).get("step")):
            continue
        line = f"{condition.get('reason') or condition['type']}: {condition['message']}"
        if line not in lines:
            lines.append(line)
    return lines


def needs_attention(status: Status) -> bool:
    """Whether a condition says more than what the job waits for."""
    conditions = status.get("conditions") or []
    return any(one.get("status") == "True" and one["type"] not in QUIET_WHEN_TRUE for one in conditions)


def sparkline(values: list[float], width: int = SPARK_WIDTH) -> str:
    """The course of `values` as a row of blocks, oldest first, averaged down to `width`."""
    if len(values) < 2:
        return ""
    count = min(width, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, span = min(means), (max(means) - min(means)) or 1.0
    return "".join(SPARKS[round((mean - low) / span * (len(SPARKS) - 1))] for mean in means)


class PlainView:
    """A line for each change, for pipes and logs; while only the step moves on, a line every few seconds."""

    def __init__(self) -> None:
        self._last = ""
        self._phase: str | None = None
        self._said: set[str] = set()
        self._next = 0.0

    def __enter__(self) -> PlainView:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def update(self, status: Status) -> None:
        phase, progress = status.get("phase") or "Pending", status.get("progress") or {}
        line = "  ".join(filter(None, [phase, progress_text(progress)]))
        moment = time.monotonic()
        is_last = progress.get("step") is not None and progress.get("step") == progress.get("totalSteps")
        if line != self._last and (phase != self._phase or is_last or moment >= self._next):
            self._last, self._phase, self._next = line, phase, moment + PLAIN_SECONDS
            self.message(line)
        for text in [dataset_text(status.get("dataset") or {}), *noteworthy_conditions(status)]:
            if text and text not in self._said:
                self._said.add(text)
                self.message(text)

    def message(self, text: str) -> None:
        terminal.say(f"{time.strftime('%H:%M:%S')} {text}")


class TerminalView:
    """A small panel that is redrawn in place: phase, bar, loss curve, conditions, elapsed time."""

    def __init__(self, name: str) -> None:
        from rich.live import Live

        self._name = name
        self._started = time.monotonic()
        self._status: Status = {}
        self._losses: list[float] = []
        self._live = Live(console=terminal.console(), get_renderable=self._draw, refresh_per_second=4)

    def __enter__(self) -> TerminalView:
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()

    def update(self, status: Status) -> None:
        loss = (status.get("progress") or {}).get("loss")
        if loss is not None and (not self._losses or loss != self._losses[-1]):
            self._losses.append(loss)
            del self._losses[:-MAX_LOSSES]
        self._status = status

    def message(self, text: str) -> None:
        self._live.console.print(text)

    def _draw(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        rows: list[RenderableType] = [self._headline()]
        if found := dataset_text(self._status.get("dataset") or {}):
            rows.append(Text(f"  {found}", style="dim"))
        progress = self._status.get("progress") or {}
        if progress.get("totalSteps"):
            rows.append(self._bar(progress))
        numbers = [part for part in progress_text(progress).split("  ") if not part.startswith(("step ", "ETA "))]
        if numbers and numbers[0]:
            rows.append(Text("  " + "   ".join(filter(None, [*numbers, sparkline(self._losses)])), no_wrap=True))
        style = "yellow" if needs_attention(self._status) else "dim"
        rows.extend(Text(f"  {text}", style=style) for text in noteworthy_conditions(self._status))
        return Group(*rows)

    def _headline(self) -> RenderableType:
        from rich.text import Text

        phase = self._status.get("phase") or "Pending"
        attempt = self._status.get("attempt")
        elapsed = terminal.duration(time.monotonic() - self._started)
        return Text.assemble(
            "  ",
            (self._name, "bold"),
            "  ",
            (phase, PHASE_STYLES.get(phase, "cyan")),
            f"  attempt {attempt}" if attempt and attempt > 1 else "",
            (f"  {elapsed}", "dim"),
        )

    def _bar(self, progress: Status) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        step, total = progress.get("step") or 0, progress["totalSteps"]
        eta = f"ETA {terminal.duration(progress['etaSeconds'])}" if progress.get("etaSeconds") is not None else ""
        row = Table.grid(padding=(0, 1))
        row.add_row("  ", ProgressBar(total=total, completed=step, width=40), f"step {step}/{total}", eta)
        return row


class SilentView:
    """Shows nothing: for `-o json`, where stdout belongs to the document."""

    def __enter__(self) -> SilentView:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def update(self, status: Status) -> None:
        """The status document at the end says it all."""

    def message(self, text: str) -> None:
        terminal.note(text)
