"""The demo's list of steps: what runs now, for how long, what is done; some steps run side by side.

On a terminal the running steps are redrawn with their newest line of output; in a pipe each step says when it starts,
when it ends, and every few seconds that it is still alive.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

from finetune_cli import terminal

if TYPE_CHECKING:
    from rich.console import RenderableType

HEARTBEAT_SECONDS = 10.0
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
SPINS_PER_SECOND = 8
DETAIL_WIDTH = 90


class Step:
    """One running step; `detail` is the newest thing to say about it."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.detail = ""
        self.started = time.monotonic()
        self.ended: float | None = None
        self.failed = False

    @property
    def seconds(self) -> float:
        return (self.ended or time.monotonic()) - self.started


class Steps:
    """Runs steps and shows them; a context manager, since a terminal's display has to be taken down again."""

    def __init__(self) -> None:
        self._active: list[Step] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._terminal = terminal.is_terminal(sys.stdout)
        self._live: Any = None

    def __enter__(self) -> Steps:
        if self._terminal:
            from rich.live import Live

            self._live = Live(
                console=terminal.console(), get_renderable=self._draw, refresh_per_second=8, transient=True
            )
            self._live.start()
        else:
            threading.Thread(target=self._heartbeat, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing.set()
        if self._live:
            self._live.stop()

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Show `title` as running until the block ends, then as done or failed with the time it took."""
        step = Step(title)
        with self._lock:
            self._active.append(step)
        if not self._terminal:
            terminal.say(f"... {title}")
        try:
            yield step
        except BaseException:
            step.failed = True
            raise
        finally:
            step.ended = time.monotonic()
            with self._lock:
                self._active.remove(step)
            self._say_ended(step)

    def side_by_side(self, *tasks: Callable[[], None], on_failure: Callable[[], None]) -> None:
        """Run `tasks` at the same time. When one fails, `on_failure` has to end the others; the failure is raised."""
        with ThreadPoolExecutor(len(tasks)) as pool:
            futures = [pool.submit(task) for task in tasks]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            failed = next((future for future in done if future.exception()), None)
            if failed:
                on_failure()
        if failed:
            failed.result()

    def _say_ended(self, step: Step) -> None:
        took = terminal.duration(step.seconds)
        detail = f" ({step.detail})" if step.detail and not step.failed else ""
        if self._terminal:
            mark = "[red]✗[/red]" if step.failed else "[green]✓[/green]"
            from rich.markup import escape

            self._live.console.print(f"{mark} {escape(step.title + detail)} [dim]{took}[/dim]")
        else:
            terminal.say(f"{'failed' if step.failed else 'ok'}  {step.title}{detail} [{took}]")

    def _draw(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        with self._lock:
            active = list(self._active)
        frame = SPINNER[int(time.monotonic() * SPINS_PER_SECOND) % len(SPINNER)]
        rows = []
        for step in active:
            # One line each, cut at the terminal's edge: a wrapped line would leave its rest behind when redrawn.
            row = Text.assemble((frame, "cyan"), " ", step.title, (f" {terminal.duration(step.seconds)}", "dim"))
            row.append(f"  {step.detail}", style="dim")
            row.no_wrap, row.overflow = True, "ellipsis"
            rows.append(row)
        return Group(*rows)

    def _heartbeat(self) -> None:
        while not self._closing.wait(HEARTBEAT_SECONDS):
            with self._lock:
                active = list(self._active)
            for step in active:
                if step.seconds >= HEARTBEAT_SECONDS:
                    terminal.say(f"... {step.title} [{terminal.duration(step.seconds)}] {step.detail[:DETAIL_WIDTH]}")
