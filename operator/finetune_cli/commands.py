"""Runs the programs that the demo needs (kubectl, helm, scripts): output to a log, newest line on the screen.

Each gets a process group of its own, so that Ctrl-C ends all of it and nothing stays behind.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_cli.errors import CliError

if TYPE_CHECKING:
    from finetune_cli.steps import Step

TAIL_LINES = 15
CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b-\x1f]")  # what would move a terminal's cursor


class Commands:
    """Runs commands with one environment and one folder for their logs."""

    def __init__(self, environment: Mapping[str, str], logs: Path) -> None:
        self._environment = dict(environment)
        self._logs = logs
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()

    def stream(self, step: Step, log: str, command: Sequence[str], **environment: str) -> None:
        """Run `command`; its newest line becomes the step's detail. Raises CliError with the log's tail if it fails."""
        self._logs.mkdir(parents=True, exist_ok=True)
        path = self._logs / f"{log}.log"
        tail: deque[str] = deque(maxlen=TAIL_LINES)
        with path.open("w") as log_file, self._process(command, environment, subprocess.STDOUT) as process:
            assert process.stdout is not None
            for line in process.stdout:
                log_file.write(line)
                log_file.flush()
                if line.strip():
                    tail.append(line.rstrip())
                    step.detail = " ".join(CONTROL.sub("", line).split())
        if process.returncode != 0:
            text = "\n".join(f"  {line}" for line in tail)
            raise CliError(f"{step.title}: {_shown(command)} ended with {process.returncode} (log: {path})\n{text}")
        step.detail = ""

    def output(self, command: Sequence[str], input: str | None = None, check: bool = True) -> str:
        """What `command` prints on stdout. Raises CliError with its stderr if it fails (unless not `check`)."""
        with self._process(command, {}, subprocess.PIPE) as process:
            out, err = process.communicate(input)
        if check and process.returncode != 0:
            raise CliError(f"{_shown(command)} ended with {process.returncode}: {err.strip() or out.strip()}")
        return out

    def stop(self) -> None:
        """End what still runs (another step failed, or Ctrl-C)."""
        with self._lock:
            running = list(self._running)
        for process in running:
            _signal_group(process, signal.SIGTERM)

    @contextlib.contextmanager
    def _process(
        self, command: Sequence[str], environment: Mapping[str, str], stderr: int
    ) -> Iterator[subprocess.Popen[str]]:
        try:
            process = subprocess.Popen(
                list(command),
                env={**self._environment, **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as cause:
            raise CliError(f"cannot run {command[0]}: {cause.strerror}") from cause
        with self._lock:
            self._running.add(process)
        try:
            if stderr == subprocess.STDOUT and process.stdin:
                process.stdin.close()
            yield process
            process.wait()
        except BaseException:
            _signal_group(process, signal.SIGTERM)
            process.wait()
            raise
        finally:
            with self._lock:
                self._running.discard(process)


def _signal_group(process: subprocess.Popen[str], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _shown(command: Sequence[str]) -> str:
    words = " ".join(command)
    return words if len(words) <= 160 else f"{words[:157]}..."
