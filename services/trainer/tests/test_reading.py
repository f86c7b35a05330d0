"""Files in, rows out: each with its line, wherever the file is cut into blocks."""

import codecs
import gzip
import json
from pathlib import Path

import pytest

from hone_contract.errors import BadConfiguration, BadInput
from hone_trainer.data.files import find_files
from hone_trainer.data.reading import read_rows
from hone_trainer.data.rejection import Rejected
from hone_trainer.data.rows import MAX_RECORD, Row

BLOCK = 2**20


def rows(file: Path) -> list[Row]:
    [found] = find_files(file.name, file.parent)
    return list(read_rows(found))


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def values(found: list[Row]) -> list[tuple[int, object]]:
    """Lines with values; of a bad row, its reason."""
    return [(row.line, row.value.reason if isinstance(row.value, Rejected) else row.value) for row in found]


# -- lines -----------------------------------------------------------------------------------------


def test_byte_order_mark_crlf_blank_lines_and_a_missing_last_newline_do_no_harm(tmp_path: Path) -> None:
    content = codecs.BOM_UTF8 + b"1\r\n\r\n  \n2\r\n\n3"
    assert values(rows(write(tmp_path / "data.jsonl", content))) == [(1, 1), (4, 2), (6, 3)]


def test_separators_in_a_text_end_no_line(tmp_path: Path) -> None:
    text = "a\u2028b\u2029c\x85d\x0be"
    content = json.dumps(text, ensure_ascii=False) + "\n{\n5"
    assert values(rows(write(tmp_path / "data.jsonl", content))) == [(1, text), (2, "not_json"), (3, 5)]


@pytest.mark.parametrize("more", range(-3, 4))
def test_lines_keep_their_numbers_across_blocks(tmp_path: Path, more: int) -> None:
    """The newline, and then the characters of three bytes, fall on either side of a block's end."""
    first = '"' + "a" * (BLOCK - 3 + more) + '"'
    content = f'{first}\n"€€"\n\n' + "\n".join(["7"] * 1000) + f"\n{first}\n8\n"
    found = rows(write(tmp_path / "data.jsonl", content))
    assert [row.line for row in found] == [1, 2, *range(4, 1004), 1004, 1005]
    assert (found[1].value, found[-1].value) == ("€€", 8)


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_a_byte_that_is_no_utf8_is_told_with_its_line_across_blocks(tmp_path: Path, more: int) -> None:
    content = b'"' + b"a" * (BLOCK - 4 + more) + b'"\n\xff\n'
    file = write(tmp_path / "data.jsonl", content)
    with pytest.raises(BadInput, match=rf"^data\.jsonl:2: is not UTF-8 at byte {len(content) - 2} \(0xff\)"):
        rows(file)


@pytest.mark.parametrize("newline", ["\n", ""])
def test_a_line_that_is_too_long_is_passed_over(tmp_path: Path, newline: str) -> None:
    long = "a" * (MAX_RECORD + 2 * BLOCK)
    after = f"\n3\n{long}\n\n6\n{long}{newline}"
    found = rows(write(tmp_path / "data.jsonl", f"1\n{long}{after}"))
    expected = [(1, 1), (2, "too_large"), (3, 3), (4, "too_large"), (6, 6), (7, "too_large")]
    assert values(found) == expected


def test_a_file_may_begin_with_lines_that_are_too_long(tmp_path: Path) -> None:
    long = "é" * (MAX_RECORD // 2 + BLOCK)
    found = rows(write(tmp_path / "data.jsonl", f"{long}\n{long}\n3"))
    assert values(found) == [(1, "too_large"), (2, "too_large"), (3, 3)]


# -- JSON ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[1, 2]", [(1, 1), (1, 2)]),
        ("\n[\n1,\n\n[2,\n3], 4\n]\n", [(3, 1), (5, [2, 3]), (6, 4)]),
        ("{}\n\n{} {}", [(1, {}), (3, {}), (3, {})]),
        ('{"a":\n\n1}\n2', [(1, {"a": 1}), (4, 2)]),
        ("\ufeff[1]", [(1, 1)]),
        ('[{"a": 1,\n"a": 2},\nNaN, 4]', [(1, "duplicate_key"), (3, "not_json"), (3, 4)]),
    ],
)
def test_json_is_an_array_or_values_one_after_the_other(
    tmp_path: Path, content: str, expected: list[tuple[int, object]]
) -> None:
    assert values(rows(write(tmp_path / "data.json", content))) == expected


# -- tables ----------------------------------------------------------------------------------------


def test_a_row_of_a_table_is_where_it_begins(tmp_path: Path) -> None:
    content = '\na,b\n1,"2\n\n2"\n\n3\n4,"5"\n'
    found = rows(write(tmp_path / "data.csv", content))
    expected = [(3, {"a": "1", "b": "2\n\n2"}), (7, "wrong_columns"), (8, {"a": "4", "b": "5"})]
    assert values(found) == expected


def test_a_table_keeps_its_numbers_across_blocks(tmp_path: Path) -> None:
    long = "x" * 1000
    content = "a,b\n" + f'{long},"{long}\n{long}"\n' * 2000
    found = rows(write(tmp_path / "data.csv", content))
    assert [row.line for row in found] == list(range(2, 4002, 2))
    assert all(row.value == {"a": long, "b": f"{long}\n{long}"} for row in found)


# -- which files -----------------------------------------------------------------------------------


def names(paths: str | list[str], folder: Path) -> list[str]:
    return [file.name for file in find_files(paths, folder)]


def test_files_come_in_a_settled_order_and_each_once(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.csv", "c/a.json.gz", "c/.d.jsonl", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, "")
    assert names(".", tmp_path) == ["a.csv", "b.jsonl", "c/a.json.gz"]
    assert names(["b.jsonl", ".", "*.csv"], tmp_path) == ["b.jsonl", "a.csv", "c/a.json.gz"]
    assert names("**/*.json*", tmp_path) == ["b.jsonl", "c/a.json.gz"]


def test_a_folder_may_have_the_name_of_a_glob(tmp_path: Path) -> None:
    folder = tmp_path / "run [1]*"
    (folder / "part").mkdir(parents=True)
    write(folder / "part" / "a.jsonl", "")
    for paths in ("part/*.jsonl", "part/a.jsonl", "part", str(folder / "part" / "a.jsonl")):
        assert names(paths, folder) == ["a.jsonl"]


def test_a_glob_may_be_absolute_or_lead_upwards(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    write(tmp_path / "a.jsonl", "")
    assert names(str(tmp_path / "*.jsonl"), tmp_path / "here") == ["a.jsonl"]
    assert names("../*.jsonl", tmp_path / "here") == ["a.jsonl"]


def test_what_is_packed_is_read_like_the_rest(tmp_path: Path) -> None:
    content = codecs.BOM_UTF8 + b"1\n{\n3"
    found = rows(write(tmp_path / "data.jsonl.gz", gzip.compress(content)))
    assert values(found) == [(1, 1), (2, "not_json"), (3, 3)]


def test_a_file_that_goes_away_is_bad_configuration(tmp_path: Path) -> None:
    [file] = find_files(write(tmp_path / "data.jsonl", "1").name, tmp_path)
    file.path.unlink()
    with pytest.raises(BadConfiguration, match=r"data\.jsonl: cannot be read: No such file"):
        list(read_rows(file))
