"""What a user reads about a bad line: file, line, reason, what to do; every bad line counted."""

import json
from pathlib import Path

import pytest

from finetune_trainer.data.files import BadLines, DataFile
from finetune_trainer.data.rows import PairKeys, read_rows
from finetune_trainer.errors import BadData, InputMissing

GOOD = b'{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}'


def check(tmp_path: Path, content: bytes, need_assistant: bool = False) -> list[int]:
    """The line numbers of the good rows; raises BadData for the others."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    bad = BadLines()
    lines = [row.line for row in read_rows(DataFile("s3://b/rows.jsonl", path), bad, need_assistant=need_assistant)]
    bad.raise_if_any()
    return lines


def row(*messages: object) -> bytes:
    return json.dumps({"messages": list(messages)}).encode()


USER = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"messages": [', "broken JSON at column 15"),
        (b"[" + GOOD + b"]", "a line must be a JSON object, not list"),
        (b"[", "one JSON object per line is expected, not a JSON array"),
        (b'"text"', "a line must be a JSON object, not string"),
        (b'{"messages": [{"role": "user", "content": "\xff"}]}', "not UTF-8 (byte 44 is 0xff); save the file as UTF-8"),
        (b'{"text": "Hi"}', "no key 'messages' (found 'text')"),
        (b'{"prompt_messages": []}', "a preference row"),
        (b'{"messages": {"role": "user"}}', "'messages' must be a list of {role, content}, not object"),
        (b'{"messages": []}', "'messages' is empty"),
        (row("Hi"), "message 1 must be an object {role, content}, not string"),
        (row(USER, {"content": "Hello"}), "message 2 has no 'role'"),
        (row({"role": "user", "contents": "Hi"}), "message 1 has no 'content' (found 'contents')"),
        (
            row(USER, {"role": "asistant", "content": "x"}),
            "message 2 has the unknown role 'asistant'; did you mean 'assistant'?",
        ),
        (row({"role": "tool", "content": "x"}), "roles are system, user, assistant"),
        (row({"role": 3, "content": "x"}), "unknown role 3"),
        (
            row(USER, {"role": "assistant", "content": None}),
            "message 2 (assistant) must have text as content, not null",
        ),
        (row({"role": "user", "content": [{"type": "text"}]}), "must have text as content, not list"),
        (row(USER, {"role": "assistant", "content": " \n"}), "message 2 (assistant) has empty content"),
        (row({**USER, "weight": 0}), "the key 'weight', which training would ignore"),
        (b'{"messages": [{"role": "user", "content": "\\ud83d"}]}', "half of a surrogate pair"),
    ],
)
def test_a_bad_line_is_named(line: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(BadData) as caught:
        check(tmp_path, GOOD + b"\n\n" + line + b"\n" + GOOD + b"\n")
    assert caught.value.message.startswith("1 bad line in the data:\ns3://b/rows.jsonl:3: ")
    assert reason in caught.value.message


def test_good_rows_pass_whatever_their_layout(tmp_path: Path) -> None:
    assert check(tmp_path, b"\xef\xbb\xbf" + GOOD + b"\r\n  \r\n" + GOOD) == [1, 3]
    assert check(tmp_path, b'{"id": 7, ' + GOOD[1:]) == [1]


def test_every_bad_line_is_counted_and_ten_are_listed(tmp_path: Path) -> None:
    with pytest.raises(BadData) as caught:
        check(tmp_path, b"\n".join([GOOD, *[b"nonsense"] * 25]))
    message = caught.value.message
    assert message.startswith("25 bad lines in the data:")
    assert [line.split(":")[2] for line in message.splitlines()[1:-1]] == [str(number) for number in range(2, 12)]
    assert message.endswith("and 15 more")


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_bad_data(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"rows\.jsonl: the file is empty; each line must be"):
        check(tmp_path, content)


def test_a_row_without_an_answer_is_bad_only_for_completions(tmp_path: Path) -> None:
    assert check(tmp_path, row(USER)) == [1]
    with pytest.raises(BadData, match="no message of the role assistant"):
        check(tmp_path, row(USER), need_assistant=True)


def test_a_missing_file_names_the_uri(tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match=r"s3://b/x\.jsonl: no such file"):
        list(read_rows(DataFile("s3://b/x.jsonl", tmp_path / "x"), BadLines()))
    with pytest.raises(InputMissing, match="is a folder without files"):
        list(read_rows(DataFile("s3://b/x", tmp_path), BadLines()))


INPUT_OUTPUT = PairKeys("input", "output")


class TestPairs:
    def rows(
        self, folder: Path, content: str, name: str = "rows.jsonl", keys: PairKeys | None = None
    ) -> list[list[str]]:
        """Role and content of each row's messages; raises BadData for bad rows."""
        (folder / name).write_text(content)
        bad = BadLines()
        rows = read_rows(
            DataFile(name, folder / name), bad, need_assistant=True, pairs=keys or PairKeys("input", "output")
        )
        found = [[f"{message['role']}: {message['content']}" for message in row.messages] for row in rows]
        bad.raise_if_any()
        return found

    def test_a_pair_is_a_users_and_an_assistants_message(self, tmp_path: Path) -> None:
        wanted = [["user: Hi", "assistant: Hello"]]
        assert self.rows(tmp_path, '{"input": "Hi", "output": "Hello", "id": 3}') == wanted
        assert self.rows(tmp_path, "input,output\nHi,Hello\n", "rows.csv") == wanted
        keys = PairKeys("question", "answer")
        assert self.rows(tmp_path, '{"question": "Hi", "answer": "Hello"}', keys=keys) == wanted

    @pytest.mark.parametrize(
        "row", ['{"input": "Hi"}', '{"input": "Hi", "output": null}', '{"input": "Hi", "output": ""}']
    )
    def test_a_missing_output_is_empty(self, row: str, tmp_path: Path) -> None:
        assert self.rows(tmp_path, row) == [["user: Hi", "assistant: "]]

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            ('{"inputs": "Hi"}', r"no key 'input' \(found 'inputs'\).*data_conf\.input_key and output_key"),
            ('{"input": 3}', "'input' must be text, not number"),
            ('{"input": "Hi", "output": ["Hello"]}', "'output' must be text, not list"),
            ('{"input": " ", "output": ""}', "'input' and 'output' are both empty"),
            ('{"input": "\\ud83d"}', "'input' holds half of a surrogate pair"),
        ],
    )
    def test_a_bad_pair_is_named(self, row: str, reason: str, tmp_path: Path) -> None:
        with pytest.raises(BadData, match=reason):
            self.rows(tmp_path, row)


def test_conversations_do_not_fit_into_csv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("messages\nHi\n")
    bad = BadLines()
    assert list(read_rows(DataFile("a.csv", tmp_path / "a.csv"), bad)) == []
    assert "must be a list of {role, content}, not string; a CSV file has no lists" in bad.listed[0]
