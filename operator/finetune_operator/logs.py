"""Log lines for people or, with FINETUNE_LOG_FORMAT=json, for a log store: one JSON object a line, with the job's key.

The key travels in a context variable that a worker sets, so that every line about a job has it, whoever writes it: the
client, the progress reader or a library.
"""

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime

TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
FORMATS = ("text", "json")

job_key: ContextVar[tuple[str, str] | None] = ContextVar("job_key", default=None)


class JsonFormatter(logging.Formatter):
    """time, level, logger, message; namespace and job where the line is about one; error with the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if key := job_key.get():
            line |= {"namespace": key[0], "job": key[1]}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure(level: str, kind: str) -> None:
    """Everything to stderr, in one format."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if kind == "json" else logging.Formatter(TEXT))
    logging.basicConfig(level=level, handlers=[handler], force=True)
