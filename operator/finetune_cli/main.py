"""The command line: parse, dispatch to one module per command, turn failures into messages and exit codes.

Only argparse and the chosen command are imported, so that `finetune --help` is there at once.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from finetune_cli import terminal
from finetune_cli.errors import EXIT_CANCELLED, EXIT_USAGE, CliError

COMMANDS = {
    "validate": "check manifests; every problem with file, line and a suggestion",
    "convert": "turn another system's configuration into a manifest, with a note for every key",
    "explain": "what a key means: type, default, origin, where it acts",
    "plan": "what a training will be: steps, tokens, batches, memory, hours",
    "render": "print the Kubernetes objects that a manifest becomes",
    "run": "train from a manifest on this machine, without a cluster",
    "watch": "follow a job in the cluster until it ends",
    "demo": "from nothing to a fine-tuned model on a local cluster",
}
EPILOG = """exit codes: 0 done · 1 problems found, or the job failed · 2 wrong usage · 130 stopped by Ctrl-C.
`run` gives the trainer's own: 65 bad data, 66 input missing, 69 service unavailable, 70 internal error,
75 interrupted (running it again resumes), 78 bad configuration, 79 out of GPU memory."""


def build_parser(chosen: str | None) -> argparse.ArgumentParser:
    """The parser; only the command in `chosen` gets its arguments, since each lives in a module of its own."""
    program = os.path.basename(sys.argv[0])
    parser = argparse.ArgumentParser(
        prog="kubectl finetune" if program.startswith("kubectl-") else "finetune",
        description="Fine-tune language models from a FineTuneJob manifest.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, summary in COMMANDS.items():
        command = subparsers.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name == chosen:
            importlib.import_module(f"finetune_cli.{name}").add_arguments(command)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (the console scripts pass it to sys.exit)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    parser = build_parser(chosen)
    args = parser.parse_args(arguments)
    if args.version:
        return _print_version()
    if args.command is None:
        parser.print_help(sys.stderr)
        return EXIT_USAGE
    try:
        code: int = importlib.import_module(f"finetune_cli.{args.command}").run(args)
        sys.stdout.flush()
        return code
    except CliError as failure:
        terminal.error(str(failure))
        return failure.code
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return EXIT_CANCELLED
    except BrokenPipeError:
        # The reader (`head`, say) has gone: nobody to tell, and Python must not complain at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_CANCELLED


def _print_version() -> int:
    from importlib.metadata import version

    terminal.say(f"finetune {version('finetune-operator')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
