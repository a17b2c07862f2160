"""Data files of every format: the same rows out of each, and what is said of a broken one."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from finetune_trainer.data.files import BadLines, DataFile, format_of, read_records
from finetune_trainer.errors import BadData, InputMissing


def read(path: Path, given: str | None = None) -> list[tuple[int, dict[str, Any]]]:
    """Line and fields of each record; raises BadData if a line is bad."""
    bad = BadLines()
    records = [(record.line, record.fields) for record in read_records(DataFile("s3://b/rows", path, given), bad)]
    bad.raise_if_any()
    return records


def written(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize(
    ("path", "given", "expected"),
    [
        ("a.jsonl", None, "jsonl"),
        ("a.json", None, "jsonl"),
        ("9f-a", None, "jsonl"),
        ("a.CSV", None, "csv"),
        ("a.parquet", None, "parquet"),
        ("a.txt", None, "text"),
        ("a.txt", "jsonl", "jsonl"),
    ],
)
def test_the_format_is_given_or_the_endings(path: str, given: str | None, expected: str) -> None:
    assert format_of(path, given) == expected


def test_the_same_rows_in_every_format(tmp_path: Path) -> None:
    rows = [{"input": 'Say "hi", please', "output": "hi\nthere"}, {"input": "é世🙂", "output": ""}]
    jsonl = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    csv = 'input,output\n"Say ""hi"", please","hi\nthere"\né世🙂,\n'.encode()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert read(written(tmp_path, "rows.jsonl", jsonl)) == [(1, rows[0]), (2, rows[1])]
    assert read(written(tmp_path, "rows.csv", csv)) == [(2, rows[0]), (4, rows[1])]  # the lines where they begin
    assert read(written(tmp_path, "other", csv), "csv") == [(2, rows[0]), (4, rows[1])]
    assert read(tmp_path / "rows.parquet") == [(1, rows[0]), (2, rows[1])]


def test_csv_has_spreadsheets_layouts(tmp_path: Path) -> None:
    assert read(written(tmp_path, "a.csv", b"\xef\xbb\xbfa, b\r\n\r\n1,2\r\n")) == [(3, {"a": "1", "b": "2"})]
    long = b"x" * 300_000  # more than the csv module takes by itself
    assert read(written(tmp_path, "b.csv", b"a,b\n" + long + b",2\n"))[0][1]["a"] == long.decode()


def test_text_is_one_record_a_line(tmp_path: Path) -> None:
    assert read(written(tmp_path, "a.txt", b"One. \r\n\n Two\n")) == [(1, {"text": "One. "}), (3, {"text": " Two"})]


def test_parquet_is_read_in_batches_and_nulls_are_absent(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist(
        [
            {"id": number, "messages": [{"role": "user", "content": "Hi", "name": None}], "extra": None}
            for number in range(2500)
        ]
    )
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=700)
    records = read(tmp_path / "a.parquet")
    assert [line for line, _ in records] == list(range(1, 2501))
    assert records[-1][1] == {"id": 2499, "messages": [{"role": "user", "content": "Hi"}]}


def test_a_folder_is_read_as_one_file(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    (folder / "more").mkdir(parents=True)
    written(folder, "b.jsonl", b'{"n": 2}\n')
    written(folder, "a.csv", b"n\n1\n")
    written(folder / "more", "c.jsonl", b'{"n": 3}\n')
    written(folder, "_SOURCE.json", b"{}")
    assert [fields["n"] for _, fields in read(folder)] == ["1", 2, 3]
    written(folder / "more", "c.jsonl", b"nonsense\n")
    with pytest.raises(BadData, match=r"s3://b/rows/more/c\.jsonl:1: broken JSON"):
        read(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"a,b\n1,2\n1,2,3\n", r"s3://b/rows:3: 3 cells, but the first line names 2 columns"),
        ("a.csv", b'a,b\n1,2\n1,"open\n', r"s3://b/rows:3: broken CSV: .*quote cells"),
        ("a.csv", b"a,a\n1,2\n", r"s3://b/rows:1: the first line names the column 'a' twice"),
        ("a.csv", b"a,\n1,2\n", r"s3://b/rows:1: the first line must name every column"),
        ("a.csv", b"a,b\n1,\xff\n", r"s3://b/rows:2: not UTF-8 \(byte 3 is 0xff\)"),
        ("a.csv", b"a,b\n", r"s3://b/rows: the file is empty"),
        ("a.csv", b"", r"s3://b/rows: the file is empty"),
        ("a.txt", b"\n\n", r"s3://b/rows: the file is empty"),
        ("a.txt", b"ok\n\xfe\n", r"s3://b/rows:2: not UTF-8"),
        ("a.jsonl.gz", gzip.compress(b"{}", mtime=0), r"s3://b/rows: the file is compressed with gzip"),
        ("a.parquet", b"PAR?", r"s3://b/rows: not a readable Parquet file"),
        ("a.parquet", b"", r"s3://b/rows: not a readable Parquet file"),
    ],
)
def test_a_broken_file_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=message):
        read(written(tmp_path, name, content))


def test_a_missing_file_is_named_in_every_format(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.csv", "a.txt", "a.parquet"):
        with pytest.raises(InputMissing, match=r"s3://b/rows: no such file"):
            read(tmp_path / name)
