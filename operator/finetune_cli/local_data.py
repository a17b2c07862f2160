"""Reads a job's data on this machine as its download pod would, for `finetune plan` and `finetune validate --data`.

In this process and without torch; of a remote model only the outline is fetched (no weights).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from finetune_cli.errors import CliError

if TYPE_CHECKING:
    from finetune_api.resolve import ResolvedSpec
    from finetune_trainer.data.files import BadLines
    from finetune_trainer.planning import Plan


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What was found. bad: lines that cannot be trained on; problem: any other reason why training would fail."""

    resolved: ResolvedSpec | None = None
    plan: Plan | None = None
    notices: tuple[str, ...] = ()
    bad: BadLines | None = None
    problem: str | None = None


def inspect(
    spec: dict[str, Any],
    name: str,
    args: argparse.Namespace,
    *,
    tokens_per_second: float | None = None,
    quiet: bool = False,
) -> Inspection:
    """Brings and reads what the job needs. Raises CliError where only a cluster could, or a service does not answer."""
    from finetune_api.job_config import JobConfig
    from finetune_cli import local_job
    from finetune_trainer import download
    from finetune_trainer.data.files import BadRows
    from finetune_trainer.errors import Interrupted, TrainerError, Unavailable

    resolved = local_job.resolve_here(spec, args, quiet=quiet)
    folders = local_job.folders(args, name)
    places = download.Places(folders.work, folders.model_cache, folders.model_cache)
    config = JobConfig(name=name, spec=resolved.spec.to_dict(), notices=resolved.notices)
    with local_job.only_one(folders.work), _telling(resolved):
        try:
            model_dir, notices = download.bring_inputs(resolved.spec, places, outline=True)
            plan, found = download.examine(config, resolved, places, model_dir, tokens_per_second)
        except BadRows as error:
            return Inspection(resolved, bad=error.bad)
        except (Unavailable, Interrupted) as error:
            raise CliError(error.message) from error
        except TrainerError as error:
            return Inspection(resolved, problem=error.message)
    return Inspection(resolved, plan, (*notices, *found))


@contextlib.contextmanager
def _telling(resolved: ResolvedSpec) -> Iterator[None]:
    """Where something has to be fetched, the trainer says on stderr what it fetches: it may take a while."""
    from finetune_api.locations import parse_location
    from finetune_cli.local_job import locations

    remote = any(parse_location(place).scheme != "local" for _, place in locations(resolved.spec.to_dict()))
    logger = logging.getLogger("finetune_trainer")
    handler = logging.StreamHandler()
    before = logger.level
    if remote:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
