"""Makes the data of all examples but the quickstart's, from the English text of the chatterbot-corpus package.

python examples/make_data.py --out DIR     # a second; the same input gives the same bytes

preferences.jsonl    a question, the right answer, and an answer to another question     method dpo
pairs.jsonl          {"input": …, "output": …}                                           method sft, as in Lamini
faq.csv              columns question and answer                                         the same, with other names
chats.parquet        conversations of several turns in a column messages                 method sft
smalltalk.jsonl      conversations as the quickstart's, of other topics                  method sft, for a mix
sentences.txt        a sentence on each line                                             method clm
sentences.jsonl      {"text": …}                                                         method clm
sentences.parquet    a column text                                                       method clm
corpus/              a dataset with configurations and splits, laid out as on Hugging Face:
                     corpus/<configuration>/<split>-00000-of-00001.parquet               method clm
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parent))  # also when imported, not run
from make_dialogues import LONGEST, conversations, dialogues

ROWS = 200  # at most, of each file
CONFIGURATIONS = {"science": ("science", "computers"), "arts": ("literature", "movies")}
SPLITS = ("train", "validation")
HELD_OUT = 5  # one sentence in so many is validation data

Row = dict[str, Any]


def chat(statements: Iterable[str]) -> list[dict[str, str]]:
    """Statements as messages, the user first."""
    return [
        {"role": "assistant" if number % 2 else "user", "content": statement}
        for number, statement in enumerate(statements)
    ]


def exchanges(*topics: str) -> list[tuple[str, str]]:
    """A question and its answer, once a question."""
    found = {}
    for question, answer, *_ in (one for one in conversations(topics) if len(one) > 1):
        if question and answer and len(question) + len(answer) <= LONGEST:
            found.setdefault(question.lower(), (question, answer))
    return list(found.values())[:ROWS]


def sentences(*topics: str) -> list[str]:
    """Statements of at least a few words, each once."""
    found = dict.fromkeys(one for statements in conversations(topics) for one in statements if one.count(" ") > 3)
    return list(found)[:ROWS]


def preferences() -> list[Row]:
    """The quickstart's dialogues: the answer is chosen, its words in reverse order are rejected."""
    rows = []
    for row in dialogues():
        question, answer = row["messages"]
        words = answer["content"].split()
        if len(words) > 2:
            other = {**answer, "content": " ".join(reversed(words))}
            rows.append({"prompt_messages": [question], "chosen_messages": [answer], "rejected_messages": [other]})
    return rows


def long_chats() -> list[Row]:
    """Conversations of four messages: one exchange and the next."""
    pairs = exchanges("history", "food", "sports")
    return [{"messages": chat([*one, *other])} for one, other in zip(pairs[::2], pairs[1::2], strict=False)]


def write(out: Path) -> dict[str, int]:
    """Writes everything; returns file name -> rows."""
    out.mkdir(parents=True, exist_ok=True)
    text = sentences("science", "psychology", "literature")
    rows: dict[str, list[Row]] = {
        "preferences.jsonl": preferences(),
        "pairs.jsonl": [{"input": question, "output": answer} for question, answer in exchanges("trivia")],
        "faq.csv": [{"question": question, "answer": answer} for question, answer in exchanges("money", "science")],
        "chats.parquet": long_chats(),
        "smalltalk.jsonl": [{"messages": chat(pair)} for pair in exchanges("greetings", "humor")],
        "sentences.txt": [{"text": one} for one in text],
        "sentences.jsonl": [{"text": one} for one in text],
        "sentences.parquet": [{"text": one} for one in text],
    }
    for name, topics in CONFIGURATIONS.items():
        lines = [{"text": one} for one in sentences(*topics)]
        held_out = lines[::HELD_OUT]
        for split, part in zip(SPLITS, ([line for line in lines if line not in held_out], held_out), strict=True):
            rows[f"corpus/{data_file(name, split)}"] = part
    for name, part in rows.items():
        write_rows(out / name, part)
    (out / "corpus" / "README.md").write_text(dataset_card(tuple(CONFIGURATIONS)), encoding="utf-8")
    return {name: len(part) for name, part in rows.items()}


def data_file(configuration: str, split: str) -> str:
    """The name of a file as the Hub's converter gives it."""
    return f"{configuration}/{split}-00000-of-00001.parquet"


def dataset_card(configurations: Iterable[str]) -> str:
    """The README.md of a dataset, whose first lines say which files are which configuration and split."""
    configs = [
        {
            "config_name": name,
            "data_files": [{"split": split, "path": data_file(name, split)} for split in SPLITS],
        }
        for name in configurations
    ]
    return f"---\n{yaml.safe_dump({'configs': configs}, sort_keys=False)}---\n# Sentences of the chatterbot corpus\n"


def write_rows(path: Path, rows: list[Row]) -> None:
    """One file, in the format of its ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    else:
        lines = [row["text"] if path.suffix == ".txt" else json.dumps(row, ensure_ascii=False) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="The examples' data in every format, from the chatterbot corpus.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    for name, rows in write(parser.parse_args().out).items():
        print(f"{name}: {rows} rows")


if __name__ == "__main__":
    main()
