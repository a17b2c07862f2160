"""One download or training process of a local run: its own process group, Ctrl-C passed on once, killed on the second.

A terminal sends Ctrl-C to every process of its foreground group; the trainer is in another group, so that only we
decide what reaches it: the first signal becomes the SIGTERM that Kubernetes would send (checkpoint, exit 75), the
second kills all of it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

POLL_SECONDS = 1.0
KILL_SECONDS = 5.0


class Interrupts:
    """Counts SIGINT and SIGTERM while installed, and passes them on to the child that runs."""

    def __init__(self, on_first: Callable[[], None]) -> None:
        self.count = 0
        self._on_first = on_first
        self._child: subprocess.Popen[bytes] | None = None

    @contextlib.contextmanager
    def installed(self) -> Iterator[Interrupts]:
        """Take SIGINT and SIGTERM for the length of the block."""
        previous = {number: signal.signal(number, self._received) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def reaching(self, child: subprocess.Popen[bytes]) -> Iterator[None]:
        """Signals go to `child` for the length of the block; it gets one that came just before, too."""
        self._child = child
        try:
            if self.count:
                self._pass_on()
            yield
        finally:
            self._child = None

    def _received(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count == 1:
            self._on_first()
        self._pass_on()

    def _pass_on(self) -> None:
        if self._child is None or self._child.poll() is not None:
            return
        if self.count == 1:
            self._child.send_signal(signal.SIGTERM)
        else:
            kill_group(self._child)


def run_child(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    interrupts: Interrupts,
    on_tick: Callable[[], None],
) -> int:
    """Run `command` with its output in `log`, calling `on_tick` every second; its exit code (128 + n for signal n)."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        child = subprocess.Popen(
            list(command),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            with interrupts.reaching(child):
                while (code := _wait(child)) is None:
                    on_tick()
        finally:
            kill_group(child)  # ranks that outlived their launcher; nothing there is the usual case
            child.wait(KILL_SECONDS)
    return code if code >= 0 else 128 - code


def _wait(child: subprocess.Popen[bytes]) -> int | None:
    try:
        return child.wait(POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return None


def kill_group(child: subprocess.Popen[bytes]) -> None:
    """SIGKILL to all that is left of the child's process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


def tail(log: Path, lines: int = 20) -> str:
    """The last lines of a log, for an error message."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def now() -> str:
    """The time as Kubernetes writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
