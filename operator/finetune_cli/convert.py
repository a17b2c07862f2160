"""`finetune convert FILE`: another system's configuration as a FineTuneJob, with a note for every key.

Prints a manifest that `finetune validate` accepts, or nothing: every key without a meaning is an error, all at once.
Sources are read, never run.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_cli import terminal
from finetune_cli.errors import EXIT_OK, EXIT_PROBLEMS

if TYPE_CHECKING:
    from finetune_api.validation import Problem
    from finetune_cli.converting.conversion import Conversion

SOURCES = ("lamini", "llmforge", "helm", "training-arguments")
# The order of a manifest for readers: what and where, data, method, training, adapter, model.
FIRST = ("basemodel", "finetuningGpus", "nodes", "acceleratorType", "distributedType", "method", "data_conf")
SECOND = ("sft_args", "dpo_args", "clm_args", "batchsize_conf", "training_args", "overrides", "evaluation_conf")
THIRD = ("peft_conf", "quant_conf", "run_conf", "tracking")

MISSING = {
    "spec.basemodel": "the source names no model; give --basemodel hf://org/name, or another place",
    "spec.data_conf": "the source names no data; give --data LOCATION",
    "spec.data_conf.training_data": "the source names no data; give --data LOCATION",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="Python, JSON or YAML; - for stdin")
    parser.add_argument("--from", dest="source", choices=SOURCES, help="what FILE is; default: told by its keys")
    parser.add_argument("--name", help="name of the job; default: the file's")
    parser.add_argument("--basemodel", metavar="MODEL", help="the base model, instead of the source's")
    parser.add_argument(
        "--data", metavar="LOCATION", action="append", help="training data, instead of the source's; may be repeated"
    )
    parser.add_argument("--validation", metavar="LOCATION", action="append", help="validation data, likewise")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="assignments",
        help="change a key of spec afterwards, e.g. data_conf.chat_template_name=chat-ml; repeatable",
    )
    parser.add_argument("-o", "--output", choices=["yaml", "json"], default="yaml")
    parser.epilog = "The manifest goes to stdout, notes and errors to stderr. docs/convert.md has what becomes what."


def run(args: argparse.Namespace) -> int:
    from finetune_api.validation import validate_manifest

    conversion = read(args)
    manifest = _manifest(conversion, args)
    problems = [problem for problem in validate_manifest(manifest) if problem.severity == "error"]
    errors = [*conversion.errors, *(_said_of_the_source(conversion, problem) for problem in problems)]
    for error in errors:
        terminal.error(error)
    if errors:
        return EXIT_PROBLEMS
    for note in conversion.notes:
        terminal.note(note)
    _print(manifest, args.output)
    return EXIT_OK


def read(args: argparse.Namespace) -> Conversion:
    """The conversion of the file that the arguments name. Raises CliError if it cannot be read or told what it is."""
    from finetune_cli.converting import detect, helm, lamini, llmforge, training_arguments
    from finetune_cli.converting.conversion import Conversion
    from finetune_cli.converting.python_source import Source
    from finetune_cli.errors import UsageError
    from finetune_cli.manifests import sources

    ((name, text),) = list(sources([args.file])) if args.file == "-" or Path(args.file).is_file() else _no_file(args)
    given = detect.parse(text, name)
    source = args.source or detect.detect(given, name)
    conversion = Conversion(detect.NAMES[source])
    if isinstance(given, Source):
        if source == "lamini":
            lamini.convert(lamini.read(given) or {}, conversion)
        elif source == "training-arguments":
            training_arguments.convert_script(given, conversion)
        else:
            raise UsageError(f"{name} is Python, which {source} is not")
    else:
        converters: dict[str, Any] = {
            "lamini": lamini.convert,
            "llmforge": llmforge.convert,
            "helm": helm.convert,
            "training-arguments": training_arguments.convert,
        }
        converters[source](given, conversion)
    _flags(conversion, args)
    for step in conversion.later:
        step()
    return conversion


def _no_file(args: argparse.Namespace) -> Any:
    from finetune_cli.errors import UsageError

    raise UsageError(f"{args.file} is no file")


def _flags(conversion: Conversion, args: argparse.Namespace) -> None:
    """What the command line gives instead of the source, and what neither has."""
    from finetune_cli.converting.places import data_location, datasets, model_location

    if args.basemodel:
        conversion.put("basemodel", model_location(args.basemodel), "--basemodel", args.basemodel)
    for flag, path in (("data", "data_conf.training_data"), ("validation", "data_conf.validation_data")):
        given = getattr(args, flag) or []
        found = [place for place in (data_location(conversion, f"--{flag}", one) for one in given) if place]
        if found:
            listed = datasets([{"path": location} for location, _ in found])
            shown = ", ".join(location for location, _ in found)
            conversion.put(path, listed, f"--{flag}", ", ".join(given), found[0][1], shown=shown)
    conversion.spec.setdefault("run_conf", {})
    conversion.spec.setdefault("training_args", {})


def _manifest(conversion: Conversion, args: argparse.Namespace) -> dict[str, Any]:
    from finetune_api.constants import API_VERSION, KIND
    from finetune_cli.assignments import apply_assignments

    apply_assignments(conversion.spec, args.assignments)
    metadata: dict[str, Any] = {"name": args.name or conversion.name or _name(args.file, conversion.source)}
    if conversion.annotations:
        metadata["annotations"] = conversion.annotations
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": _ordered(conversion.spec)}


def _name(file: str, source: str) -> str:
    """A job's name of a file's: what the API takes, since the file's own may not be."""
    text = source if file == "-" else Path(file).stem
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].rstrip("-")
    return name if name[:1].isalpha() else f"job-{name}"[:40].rstrip("-")


def _ordered(spec: dict[str, Any]) -> dict[str, Any]:
    first = [key for key in FIRST if key in spec]
    last = [key for key in (*SECOND, *THIRD) if key in spec]
    middle = [key for key in spec if key not in first and key not in last]
    place = first.index("method") if "method" in first else len(first)
    return {key: spec[key] for key in (*first[:place], *middle, *first[place:], *last)}


def _said_of_the_source(conversion: Conversion, problem: Problem) -> str:
    """A problem of the manifest as one of the source's key, where it comes from one."""
    path = problem.path
    key = path.removeprefix("spec.")
    for missing, advice in MISSING.items():
        if problem.path == missing and "is required" in problem.message:
            return f"{path.removeprefix('spec.')}: {advice}"
    origin = next((conversion.origins[one] for one in _parents(key) if one in conversion.origins), None)
    hint = f" (did you mean {problem.suggestion}?)" if problem.suggestion else ""
    return f"{origin + ' -> ' if origin else ''}{path}: {problem.message}{hint}"


def _parents(path: str) -> list[str]:
    """a.b[0].c -> [a.b[0].c, a.b[0], a.b, a]"""
    found = [path]
    while cut := re.sub(r"(\.[^.\[\]]+|\[\d+\])$", "", found[-1]):
        if cut == found[-1]:
            break
        found.append(cut)
    return found


def _print(manifest: dict[str, Any], output: str) -> None:
    from finetune_cli.render import as_yaml

    if output == "json":
        terminal.print_json(manifest)
    else:
        sys.stdout.write(as_yaml([manifest]).removeprefix("---\n"))
