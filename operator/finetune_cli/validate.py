"""`finetune validate -f FILE…`: every problem of every manifest at once, by the rules that the cluster applies."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from finetune_cli import terminal
from finetune_cli.errors import EXIT_OK, EXIT_PROBLEMS

if TYPE_CHECKING:
    from finetune_api.manifest import Manifest
    from finetune_api.validation import Problem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from finetune_cli.manifests import add_file_argument

    add_file_argument(parser, several=True)
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")
    parser.epilog = (
        "Problems go to stdout as file:line:column. A values file of the finetune-job chart is checked as what it"
        " becomes: helm template my-job charts/finetune-job -f values.yaml | finetune validate -f -"
    )


def run(args: argparse.Namespace) -> int:
    from finetune_cli.manifests import sources

    reports: list[Report] = []
    for name, text in sources(args.filename):
        reports += check(name, text)
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

    @property
    def valid(self) -> bool:
        return not any(problem.severity == "error" for problem in self.problems)

    def document(self) -> dict[str, Any]:
        """For programs."""
        problems = [dataclasses.asdict(problem) for problem in self.problems]
        return {
            "source": self.source,
            "name": self.name,
            "valid": self.valid,
            "problems": problems,
            "notices": self.notices,
        }

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
        if self.valid:
            terminal.say(f"{self.source}: FineTuneJob {self.name} is {terminal.styled('valid', 'ok')}")


def all_valid(reports: list[Report]) -> bool:
    """Whether there is at least one FineTuneJob, and no problem in any."""
    jobs = [report for report in reports if not report.skipped]
    return bool(jobs) and all(report.valid for report in jobs)


def check(source: str, text: str) -> list[Report]:
    """A report for each document of a file."""
    from finetune_api.manifest import ManifestError, load_manifests
    from finetune_api.validation import Problem

    try:
        return [_check_document(manifest) for manifest in load_manifests(text, source)]
    except ManifestError as cause:
        problem = Problem("", cause.message, cause.line, cause.column, source=source)
        return [Report(source, "", "", [problem])]


def _check_document(manifest: Manifest) -> Report:
    from finetune_api.validation import validate_manifest
    from finetune_cli.manifests import is_job

    report = Report(manifest.source, manifest.kind, manifest.name)
    if not is_job(manifest):
        report.skipped = True
        return report
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
