"""`finetune validate -f FILE…`: every problem of every manifest at once, by the rules that the cluster applies.

With --data also every bad line of the data, by the reading of the download pod, and what else of it should be known.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from finetune_cli import terminal
from finetune_cli.errors import EXIT_OK, EXIT_PROBLEMS, CliError, UsageError

if TYPE_CHECKING:
    from finetune_api.manifest import Manifest
    from finetune_api.validation import Problem
    from finetune_cli.local_data import Inspection
    from finetune_trainer.data.files import BadLine

MAX_LINES = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from finetune_cli import local_job
    from finetune_cli.manifests import add_file_argument, add_set_argument

    add_file_argument(parser, several=True)
    add_set_argument(parser)
    parser.add_argument("--data", action="store_true", help="read the data as well, and check every line of it")
    parser.add_argument(
        "--max-lines",
        metavar="N",
        type=int,
        default=MAX_LINES,
        help=f"list so many bad lines (default {MAX_LINES}, 0: all); all are counted",
    )
    local_job.add_arguments(parser)
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")
    parser.epilog = (
        "Problems go to stdout as file:line:column. A values file of the finetune-job chart is checked as what it"
        " becomes: helm template my-job charts/finetune-job -f values.yaml | finetune validate -f -"
    )


def run(args: argparse.Namespace) -> int:
    from finetune_cli.manifests import sources

    reports: list[Report] = []
    for name, text in sources(args.filename):
        reports += check(name, text, args.assignments)
    if args.data:
        for report in reports:
            if report.valid and not report.skipped:
                report.data = read_data(report, args)
    if args.output == "json":
        terminal.print_json(
            {"valid": all_valid(reports), "manifests": [report.document() for report in reports if not report.skipped]}
        )
    else:
        for report in reports:
            report.print()
    if not any(not report.skipped for report in reports):
        terminal.error(f"there is no FineTuneJob in {', '.join(args.filename)}")
    return EXIT_OK if all_valid(reports) else EXIT_PROBLEMS


@dataclasses.dataclass
class Report:
    """What is to say of one document."""

    source: str
    kind: str
    name: str
    problems: list[Problem] = dataclasses.field(default_factory=list)
    notices: list[str] = dataclasses.field(default_factory=list)
    skipped: bool = False
    spec: dict[str, Any] = dataclasses.field(default_factory=dict)
    data: DataReport | None = None

    @property
    def valid(self) -> bool:
        """Whether the manifest can be used, and its data, as far as that was read."""
        return not any(problem.severity == "error" for problem in self.problems) and (
            self.data is None or self.data.valid
        )

    def document(self) -> dict[str, Any]:
        """For programs."""
        problems = [dataclasses.asdict(problem) for problem in self.problems]
        document = {
            "source": self.source,
            "name": self.name,
            "valid": self.valid,
            "problems": problems,
            "notices": self.notices,
        }
        return {**document, "data": self.data.document()} if self.data else document

    def print(self) -> None:
        """For people."""
        if self.skipped:
            terminal.note(
                f"{self.source}: {self.kind or 'a document without kind'} {self.name} is not a FineTuneJob: skipped"
            )
            return
        for problem in self.problems:
            terminal.say(_colored(problem))
        for notice in self.notices:
            terminal.say(f"{self.source}: {terminal.styled('notice', 'cyan')}: {notice}")
        if self.data:
            self.data.print(self.source)
        if self.valid:
            terminal.say(f"{self.source}: FineTuneJob {self.name} is {terminal.styled('valid', 'ok')}")


@dataclasses.dataclass
class DataReport:
    """What is to say of a job's data. shown: how many bad lines are listed, None for all that were kept."""

    found: Inspection
    shown: int | None

    @property
    def valid(self) -> bool:
        return self.found.plan is not None

    @property
    def listed(self) -> list[BadLine]:
        """The bad lines to list."""
        return self.found.bad.lines[: self.shown] if self.found.bad else []

    def document(self) -> dict[str, Any]:
        """For programs."""
        bad, plan = self.found.bad, self.found.plan
        return {
            "valid": self.valid,
            "badLines": bad.count if bad else 0,
            "listed": [dataclasses.asdict(line) for line in self.listed],
            "problem": self.found.problem,
            "dataset": plan.dataset_report().to_dict() if plan else None,
            "notices": list(self.found.notices),
        }

    def print(self, source: str) -> None:
        """For people."""
        error = terminal.styled("error", "error")
        if bad := self.found.bad:
            for line in self.listed:
                place = f"{line.file}:{line.line}" if line.line else line.file
                terminal.say(f"{place}: {error}: {line.reason}")
            rest = bad.count - len(self.listed)
            more = f"; {rest} more are not listed (--max-lines 0 lists all)" if rest else ""
            noun = "line" if bad.count == 1 else "lines"
            terminal.say(f"{source}: {error}: {bad.count} bad {noun} in the data{more}")
        elif self.found.problem:
            terminal.say(f"{source}: {error}: {self.found.problem}")
        for notice in self.found.notices:
            terminal.say(f"{source}: {terminal.styled('notice', 'cyan')}: {notice}")
        if plan := self.found.plan:
            data = plan.data
            terminal.say(
                f"{source}: data: {data.examples} training and {data.validation_examples} validation examples, "
                f"{data.tokens} tokens; {data.dropped or 0} too long, {data.truncated or 0} cut, "
                f"{data.duplicates or 0} repeated, {data.leaks or 0} of validation in training too"
            )


def read_data(report: Report, args: argparse.Namespace) -> DataReport:
    """The data of a valid manifest, or why it cannot be read here."""
    from finetune_cli.local_data import Inspection, inspect

    try:
        found = inspect(report.spec, report.name, args, quiet=True)
    except UsageError:
        raise
    except CliError as problem:
        found = Inspection(problem=str(problem))
    return DataReport(found, args.max_lines or None)


def all_valid(reports: list[Report]) -> bool:
    """Whether there is at least one FineTuneJob, and no problem in any."""
    jobs = [report for report in reports if not report.skipped]
    return bool(jobs) and all(report.valid for report in jobs)


def check(source: str, text: str, assignments: Sequence[str] = ()) -> list[Report]:
    """A report for each document of a file, with what --set changes."""
    from finetune_api.manifest import ManifestError, load_manifests
    from finetune_api.validation import Problem

    try:
        return [_check_document(_assigned(manifest, assignments)) for manifest in load_manifests(text, source)]
    except ManifestError as cause:
        problem = Problem("", cause.message, cause.line, cause.column, source=source)
        return [Report(source, "", "", [problem])]


def _assigned(manifest: Manifest, assignments: Sequence[str]) -> Manifest:
    from finetune_cli.assignments import apply_assignments
    from finetune_cli.manifests import is_job

    if not assignments or not is_job(manifest) or not isinstance(manifest.document.get("spec"), dict):
        return manifest
    document = copy.deepcopy(manifest.document)
    apply_assignments(document["spec"], list(assignments))
    return dataclasses.replace(manifest, document=document)


def _check_document(manifest: Manifest) -> Report:
    from finetune_api.validation import validate_manifest
    from finetune_cli.manifests import is_job

    report = Report(manifest.source, manifest.kind, manifest.name)
    if not is_job(manifest):
        report.skipped = True
        return report
    report.spec = manifest.spec
    report.problems = validate_manifest(manifest)
    if report.valid:
        report.notices = _notices(manifest)
    return report


def _notices(manifest: Manifest) -> list[str]:
    from finetune_api.resolve import resolve
    from finetune_api.spec import FineTuneJobSpec

    resolved = resolve(FineTuneJobSpec.model_validate(manifest.spec))
    return [*resolved.notices, *resolved.warnings]


def _colored(problem: Problem) -> str:
    style = "error" if problem.severity == "error" else "warning"
    return str(problem).replace(f" {problem.severity}:", f" {terminal.styled(problem.severity, style)}:", 1)
