"""`finetune render -f FILE`: the Kubernetes objects that a manifest becomes, by the operator's own functions."""

from __future__ import annotations

import argparse
from typing import Any

from finetune_cli import terminal
from finetune_cli.errors import EXIT_OK, CliError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from finetune_cli.manifests import add_job_arguments

    add_job_arguments(parser)
    parser.add_argument("-n", "--namespace", help="namespace of the objects; default: the manifest's, else default")
    parser.add_argument("-o", "--output", choices=["yaml", "json"], default="yaml", help="json: a v1 List")
    parser.epilog = (
        "The operator's settings are its defaults, unless the environment has its variables (FINETUNE_TRAINER_IMAGE,"
        " FINETUNE_MLFLOW_URI, …; docs/contracts.md lists them)."
    )


def run(args: argparse.Namespace) -> int:
    from finetune_cli.manifests import checked_job

    job = checked_job(args)
    objects = rendered(job.spec, job.name, args.namespace or job.namespace)
    if args.output == "json":
        terminal.print_json({"apiVersion": "v1", "kind": "List", "items": objects})
    else:
        terminal.say(as_yaml(objects).rstrip("\n"))
    return EXIT_OK


def rendered(spec: dict[str, Any], name: str, namespace: str) -> list[dict[str, Any]]:
    """The objects of one job. Raises CliError for what only the operator's settings refuse (an accelerator type, …)."""
    from finetune_operator.plan.validate import InvalidSpecError
    from finetune_operator.render import render
    from finetune_operator.settings import SettingsError, load

    try:
        return render(spec, name, namespace, load())
    except (InvalidSpecError, SettingsError) as refusal:
        raise CliError(str(refusal)) from refusal


def as_yaml(objects: list[dict[str, Any]]) -> str:
    """Documents as kubectl prints them: keys in their order, texts of several lines as blocks."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Writes texts of several lines readably, and repeats objects instead of pointing at them."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return yaml.dump_all(objects, Dumper=Dumper, sort_keys=False, explicit_start=True, width=2**16, allow_unicode=True)
