"""Turns the English dialogues of the chatterbot-corpus package into messages JSONL, for the quickstart.

    python examples/make_dialogues.py --out DIR     # writes dialogues-train.jsonl and dialogues-validation.jsonl

Real text, small enough to be learnt on a CPU in half a minute. Of several answers to one question the first is kept, so
that there is one right answer to look for afterwards. The same input gives the same bytes.
"""

import argparse
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import chatterbot_corpus
import yaml

TOPICS = ("ai", "botprofile", "computers")
VALIDATION_SHARE = 8  # one dialogue in so many is held out
KEPT_FOR_TRAINING = ("What is AI?", "What is a super computer?", "Can you breathe")  # what the demo asks
LONGEST = 400  # characters of a dialogue


def corpus_folder() -> Path:
    """Where the installed package keeps its English text."""
    return Path(chatterbot_corpus.__file__).parent / "data" / "english"


def conversations(topics: tuple[str, ...] | None = None) -> Iterator[list[str]]:
    """Every conversation of the topics (default: all), as statements in turn."""
    paths = sorted(corpus_folder().glob("*.yml"))
    for path in paths:
        if topics is None or path.stem in topics:
            for statements in yaml.safe_load(path.read_text(encoding="utf-8"))["conversations"]:
                yield [" ".join(str(statement).split()) for statement in statements]


def dialogues() -> list[dict[str, list[dict[str, str]]]]:
    """The first exchange of each conversation, one for each question."""
    rows = {}
    for statements in conversations(TOPICS):
        if len(statements) < 2 or not all(statements[:2]) or sum(map(len, statements[:2])) > LONGEST:
            continue
        question, answer = statements[:2]
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        rows.setdefault(question.lower(), {"messages": messages})
    return list(rows.values())


def is_validation(row: dict[str, list[dict[str, str]]]) -> bool:
    """Decided by the question's text, so that a row keeps its side when others come or go."""
    question = row["messages"][0]["content"]
    if question in KEPT_FOR_TRAINING:
        return False
    return hashlib.sha256(question.encode()).digest()[0] % VALIDATION_SHARE == 0


def write(out: Path) -> dict[str, int]:
    """Writes both files; returns file name -> rows."""
    out.mkdir(parents=True, exist_ok=True)
    rows = dialogues()
    parts = {
        "dialogues-train.jsonl": [row for row in rows if not is_validation(row)],
        "dialogues-validation.jsonl": [row for row in rows if is_validation(row)],
    }
    for name, part in parts.items():
        lines = [json.dumps(row, ensure_ascii=False) for row in part]
        (out / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {name: len(part) for name, part in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Dialogues of the chatterbot corpus as messages JSONL.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    for name, rows in write(parser.parse_args().out).items():
        print(f"{name}: {rows} dialogues")


if __name__ == "__main__":
    main()
