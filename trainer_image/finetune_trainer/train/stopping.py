"""SIGTERM and hangs: ending a run so that nothing is lost and the exit code tells the truth."""

import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

from finetune_api import constants
from finetune_trainer.train.progress import Progress

WATCHDOG_SECONDS = 1800.0
# Loading and saving give no sign of life until they are done; a large model on a slow volume takes long.
_SLOW_PHASES = 4


class Stop:
    """Whether someone asked this process to end. While nothing is at stake (`at_once`), it ends right away."""

    def __init__(self) -> None:
        self.requested = False
        self.at_once: Callable[[], None] | None = None

    def listen(self) -> None:
        """Takes SIGTERM (Kubernetes) and SIGINT (Ctrl-C)."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._take)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if self.at_once is not None:
            self.at_once()


class Watchdog:
    """Ends a process in which nothing has moved for too long, after writing every thread's stack to the log.

    It is a thread of Python, which a library may keep from running at all (by the interpreter's lock). For that case a
    thread of the C library, wound up at every look, does the same with exit code 1 and no last words.
    """

    def __init__(self, progress: Progress, end: Callable[[str], None], seconds: float | None = None) -> None:
        self._progress = progress
        self._end = end
        self._limit = (
            seconds if seconds is not None else float(os.environ.get(constants.ENV_WATCHDOG) or WATCHDOG_SECONDS)
        )
        self._over = threading.Event()

    def start(self) -> None:
        if self._limit > 0:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        self._over.set()

    def _watch(self) -> None:
        look = min(self._limit / 4, 15.0)
        while not self._over.wait(look):
            faulthandler.dump_traceback_later(_SLOW_PHASES * self._limit + look, exit=True)
            silence, phase = self._progress.silence(), self._progress.phase
            if silence > self._limit * (1 if self._progress.steps_begun else _SLOW_PHASES):
                sys.stdout.flush()
                faulthandler.dump_traceback(all_threads=True)
                self._end(
                    f"nothing moved for {silence:.0f} s while {phase}; the stacks of all threads are in the log. The "
                    f"next attempt resumes. If a step may take so long, raise stepTimeoutSeconds ({self._limit:.0f})"
                )
                break
        faulthandler.cancel_dump_traceback_later()
