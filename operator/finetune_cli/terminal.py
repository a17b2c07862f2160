"""What the commands print: rich on a terminal, plain lines in a pipe, JSON where a program reads, errors to stderr.

rich takes a tenth of a second to import, so it is imported only when stdout really is a terminal.
"""

from __future__ import annotations

import json
import os
import sys
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

STYLES = {"error": "31", "warning": "33", "ok": "32", "dim": "2", "bold": "1", "cyan": "36"}


def is_terminal(stream: IO[str]) -> bool:
    """True if `stream` shows colours and can redraw (NO_COLOR and TERM=dumb mean plain output)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def styled(text: str, style: str, stream: IO[str] | None = None) -> str:
    """`text` in a style of STYLES where `stream` (stdout) is a terminal, else unchanged."""
    if not is_terminal(stream or sys.stdout):
        return text
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m"


def console() -> Console:
    """A rich console on stdout; call it only where `is_terminal(sys.stdout)` holds."""
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False)


def say(text: str = "") -> None:
    """One line on stdout, at once (a pipe would otherwise show it at the end)."""
    print(text, flush=True)


def warn(text: str) -> None:
    """One line on stderr: what the user should know beside the result."""
    print(f"{styled('warning:', 'warning', sys.stderr)} {text}", file=sys.stderr, flush=True)


def note(text: str) -> None:
    """One line on stderr that is no warning: what was skipped, ignored or chosen."""
    print(f"{styled('note:', 'cyan', sys.stderr)} {text}", file=sys.stderr, flush=True)


def error(text: str) -> None:
    """The error that ends the command, on stderr."""
    print(f"{styled('error:', 'error', sys.stderr)} {text}", file=sys.stderr, flush=True)


def print_json(document: Any, compact: bool = False) -> None:
    """`document` as JSON on stdout: indented, or on one line (`compact`) where documents follow each other."""
    text = json.dumps(document, separators=(",", ":")) if compact else json.dumps(document, indent=2)
    print(text, flush=True)


def duration(seconds: float | None) -> str:
    """12 -> '12s', 75 -> '1m15s', 3700 -> '1h01m'; nothing for None."""
    if seconds is None:
        return ""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def number(value: float | None, digits: int = 4) -> str:
    """A loss for people: four digits after the point; '-' where there is none yet."""
    return "-" if value is None else f"{value:.{digits}f}"
