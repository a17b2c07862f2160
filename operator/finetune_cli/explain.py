"""`finetune explain KEY`: what a key means, of ours or of a system that jobs come from.

KEY is a path of spec (training_args.learning_rate), its last part alone (learning_rate), or another system's own name
(max_num_checkpoints, r_value): then what it becomes is explained. So is the reason of a condition (VolumeNotOurs).
"""

from __future__ import annotations

import argparse
import difflib
import re
import textwrap
from typing import TYPE_CHECKING, Any

from finetune_cli import terminal
from finetune_cli.errors import EXIT_OK, CliError

if TYPE_CHECKING:
    from finetune_api.parameters import Parameter
    from finetune_cli.key_facts import Facts

SUPPORT = {
    "supported": "works",
    "restricted": "restricted",
    "owned": "set by the operator",
    "translated": "translated",
    "removed": "gone from transformers",
    "refused": "refused, unless it has its default",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", metavar="KEY", help="e.g. training_args.learning_rate, overlength, max_num_checkpoints")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")


def run(args: argparse.Namespace) -> int:
    from finetune_api.reasons import REASONS
    from finetune_cli.key_facts import facts

    if reason := REASONS.get(args.key):
        if args.output == "json":
            terminal.print_json({"reason": args.key, **reason._asdict()})
        else:
            print(f"{args.key}: {reason.meaning}\nWhat to do: {reason.remedy}")
        return EXIT_OK
    rows, paths = find(args.key)
    if not paths and not rows:
        raise CliError(_unknown(args.key))
    found = [facts(path) for path in paths]
    if args.output == "json":
        keys = [{**vars(one), "origins": [_row(row) for row in one.origins]} for one in found]
        terminal.print_json({"key": args.key, "sources": [_row(row) for row in rows], "keys": keys})
        return EXIT_OK
    for row in rows:
        _print_row(row)
    for one in found:
        _print_facts(one)
    return EXIT_OK


def find(text: str) -> tuple[list[Parameter], list[str]]:
    """The other systems' parameters and the keys of spec that a text means."""
    from finetune_api.parameters import all_parameters
    from finetune_cli.key_facts import all_keys

    plain = _plain(text.removeprefix("spec."))
    exact = [path for path in all_keys() if _plain(path) == plain]
    if exact:
        return [], exact
    ends = [path for path in all_keys() if f".{_plain(path)}".endswith(f".{plain}")]
    rows = [row for row in all_parameters() if plain in (_plain(row.key), _plain(row.name))]
    # A row whose key we have under the same name says nothing that the key's own origins do not.
    rows = [row for row in rows if not (row.ours and set(row.ours) <= set(ends))]
    return rows, [path for path in all_keys() if path in ends or any(path in row.ours for row in rows)]


def _plain(text: str) -> str:
    """Without indexes and in lower case: datasets[0].path is datasets[].path."""
    return re.sub(r"\[\d*\]", "", text).lower()


def _unknown(text: str) -> str:
    from finetune_api.parameters import all_parameters
    from finetune_cli.key_facts import all_keys

    names = {_plain(path): path for path in all_keys()}
    names |= {_plain(path.rpartition(".")[2]): path for path in reversed(all_keys())}
    names |= {_plain(row.key): row.key for row in all_parameters() if row.document != "003"}
    near = difflib.get_close_matches(_plain(text), names, n=4)
    hint = ", ".join(dict.fromkeys(names[one] for one in near))
    return f"there is no key {text!r}" + (f"; did you mean {hint}?" if hint else "; docs/reference lists all of them")


def _row(row: Parameter) -> dict[str, Any]:
    from finetune_api.parameters import DOCUMENTS

    return {
        "document": row.document,
        "system": DOCUMENTS[row.document],
        "name": row.name,
        "default": row.default_text,
        "becomes": list(row.ours),
        "how": row.how,
        "where": list(row.where),
    }


def _print_row(row: Parameter) -> None:
    from finetune_api.parameters import DOCUMENTS

    terminal.say(
        terminal.styled(row.key, "bold") + f" of {DOCUMENTS[row.document]} (document {row.document}): {row.name}"
    )
    _line("default", row.default_text)
    _line("becomes", ", ".join(row.ours) or "nothing")
    _line("how", row.how)
    if not row.ours:
        _line("where", ", ".join(row.where))
    terminal.say()


def _print_facts(one: Facts) -> None:
    terminal.say(terminal.styled(f"spec.{one.path}", "bold"))
    _line("meaning", one.meaning)
    _line("type", one.type)
    _line("bounds", one.bounds)
    _line("default", one.default)
    _line("support", SUPPORT[one.support] + (f": {one.reason}" if one.reason else ""))
    for row in one.origins:
        _line("origin", _origin(row))
    _line("origin", one.origin)
    _line("where", ", ".join(one.where))
    terminal.say()


def _origin(row: Parameter) -> str:
    from finetune_api.parameters import DOCUMENTS

    default = f", there {row.default_text}" if row.default_text else ""
    return f"{DOCUMENTS[row.document]} ({row.document}): {row.name}{default}" + (f" ({row.how})" if row.how else "")


def _line(title: str, text: str) -> None:
    """One fact; long ones are wrapped below themselves."""
    if text:
        terminal.say(textwrap.fill(text, 110, initial_indent=f"  {title:<9}", subsequent_indent=" " * 11))
