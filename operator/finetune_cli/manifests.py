"""Reads `-f` as kubectl does (files, folders, `-`) and picks the FineTuneJobs out of it."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_cli.errors import EXIT_PROBLEMS, CliError, UsageError

if TYPE_CHECKING:
    from finetune_api.manifest import Manifest

SUFFIXES = (".yaml", ".yml", ".json")
STDIN = "-"


@dataclasses.dataclass(frozen=True)
class Job:
    """A valid FineTuneJob, with what --set changed."""

    name: str
    namespace: str
    document: dict[str, Any]

    @property
    def spec(self) -> dict[str, Any]:
        """The spec as written, unresolved."""
        spec: dict[str, Any] = self.document["spec"]
        return spec


def add_file_argument(parser: argparse.ArgumentParser, several: bool) -> None:
    """`-f`; `several`: may be repeated."""
    parser.add_argument(
        "-f",
        "--filename",
        metavar="FILE",
        required=True,
        action="append",
        help=f"manifest, folder of manifests, or - for stdin{'; may be repeated' if several else ''}",
    )


def add_job_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that choose one job and change its spec."""
    add_file_argument(parser, several=False)
    parser.add_argument("--name", help="which FineTuneJob, where the file has several")
    add_set_argument(parser)


def add_set_argument(parser: argparse.ArgumentParser) -> None:
    """`--set`, as apply_assignments takes it."""
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="assignments",
        help="change a key of spec, e.g. training_args.max_steps=10 (a YAML value; null removes the key); repeatable",
    )


def sources(filenames: list[str]) -> Iterator[tuple[str, str]]:
    """(name, text) of every file that `-f` means. Raises UsageError for one that cannot be read."""
    for filename in filenames:
        if filename == STDIN:
            yield "<stdin>", sys.stdin.read()
            continue
        path = Path(filename)
        files = sorted(one for one in path.iterdir() if one.suffix in SUFFIXES) if path.is_dir() else [path]
        if not files:
            raise UsageError(f"{filename} has no {', '.join(SUFFIXES)} files")
        for file in files:
            try:
                yield str(file), file.read_text()
            except (OSError, UnicodeDecodeError) as cause:
                raise UsageError(f"cannot read {file}: {getattr(cause, 'strerror', None) or cause}") from cause


def is_job(manifest: Manifest) -> bool:
    """Whether a document is a FineTuneJob, or is meant to be one (the kind or the group is right)."""
    from finetune_api import constants

    return manifest.kind == constants.KIND or manifest.api_version.startswith(f"{constants.GROUP}/")


def checked_job(args: argparse.Namespace) -> Job:
    """The one job that the arguments of `add_job_arguments` mean, changed by --set and valid.

    Raises:
        UsageError: no such file or job, or several to choose from.
        CliError: the manifest has problems; the message lists all of them.
    """
    from finetune_api.manifest import ManifestError, load_manifests
    from finetune_api.validation import validate_manifest
    from finetune_cli.assignments import apply_assignments

    found: list[Manifest] = []
    for name, text in sources(args.filename):
        try:
            found += [manifest for manifest in load_manifests(text, name) if is_job(manifest)]
        except ManifestError as cause:
            raise CliError(str(cause)) from cause
    manifest = _choose(found, args.name, args.filename)
    document = copy.deepcopy(manifest.document)
    if args.assignments:
        apply_assignments(document.setdefault("spec", {}), args.assignments)
    problems = validate_manifest(dataclasses.replace(manifest, document=document))
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        listed = "\n".join(str(problem) for problem in errors)
        raise CliError(f"{manifest.source or manifest.name} cannot be used:\n{listed}", EXIT_PROBLEMS)
    return Job(manifest.name, manifest.namespace or "default", document)


def _choose(found: list[Manifest], name: str | None, filenames: list[str]) -> Manifest:
    where = ", ".join(filenames)
    if not found:
        raise UsageError(f"there is no FineTuneJob in {where}")
    chosen = [manifest for manifest in found if name is None or manifest.name == name]
    names = ", ".join(manifest.name or "(unnamed)" for manifest in found)
    if not chosen:
        raise UsageError(f"there is no FineTuneJob {name!r} in {where}; there is {names}")
    if len(chosen) > 1:
        raise UsageError(f"{where} has several FineTuneJobs ({names}): give --name")
    return chosen[0]
