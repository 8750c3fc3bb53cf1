from __future__ import annotations

from pathlib import Path

import pytest

from venvd_engines.local import journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "server.log"


def texts(lines: list[journal.JournalLine]) -> list[str]:
    return [line.text for line in lines]


def test_lines_carry_their_time_and_stream(path: Path) -> None:
    """A line is read as it was written, in the order of its time, whatever pieces it came in."""
    writer, reader = journal.Writer(path), journal.Reader(path)
    writer.feed("stdout", b"one\ntw")
    writer.feed("stderr", b"bad\r\n")
    writer.feed("stdout", "o ünï\n\n".encode())
    lines = reader.history(None)
    writer.close()
    reader.close()
    assert [(line.stream, line.text) for line in lines] == [
        ("stdout", "one"),
        ("stderr", "bad"),
        ("stdout", "two ünï"),
        ("stdout", ""),
    ]
    assert lines == sorted(lines, key=lambda line: line.time)
    assert all(line.time.endswith("Z") for line in lines)


def test_an_unfinished_line_is_written_at_the_end(path: Path) -> None:
    """What stands after the last line end is not lost."""
    writer = journal.Writer(path)
    writer.feed("stderr", b"whole\nhalf")
    writer.close()
    reader = journal.Reader(path)
    assert texts(reader.history(None)) == ["whole", "half"]
    reader.close()


def test_bytes_that_are_no_text_are_shown_as_such(path: Path) -> None:
    """Output need not be UTF-8."""
    writer = journal.Writer(path)
    writer.feed("stdout", b"\xff\xfe\x00\n")
    writer.close()
    reader = journal.Reader(path)
    assert texts(reader.history(None)) == ["\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}\0"]
    reader.close()


def test_a_line_without_end_is_cut_into_several(path: Path) -> None:
    """No line needs more memory than the limit, and nothing of it is lost."""
    writer = journal.Writer(path)
    whole = b"x" * (journal.LINE_BYTES * 2 + 10)
    for start in range(0, len(whole), 1000):
        writer.feed("stdout", whole[start : start + 1000])
    writer.feed("stdout", b"\n" + whole + b"\n")
    writer.close()
    reader = journal.Reader(path)
    lines = texts(reader.history(None))
    reader.close()
    assert max(map(len, lines)) == journal.LINE_BYTES
    assert "".join(lines).encode() == whole + whole


def test_files_are_bounded_and_the_newest_lines_stay(path: Path) -> None:
    """Two files of the limit hold the newest lines, without a gap."""
    writer = journal.Writer(path, limit=10_000)
    for number in range(2000):
        writer.feed("stdout", f"line {number}\n".encode())
    writer.close()
    files = list(path.parent.iterdir())
    assert len(files) == 2
    assert all(file.stat().st_size <= 10_000 for file in files)
    reader = journal.Reader(path)
    lines = texts(reader.history(None))
    reader.close()
    assert lines == [f"line {number}" for number in range(2000 - len(lines), 2000)]
    assert len(lines) > 200


def test_a_reader_follows_from_file_to_file(path: Path) -> None:
    """A reader that looks often enough sees every line once, over every change of files."""
    writer, reader = journal.Writer(path, limit=1000), journal.Reader(path)
    assert reader.history(None) == []
    seen: list[str] = []
    for number in range(300):
        writer.feed("stdout", f"line {number}\n".encode())
        if number % 7 == 0:
            seen += texts(reader.new())
    writer.close()
    seen += texts(reader.new())
    reader.close()
    assert seen == [f"line {number}" for number in range(300)]


def test_the_tail_is_the_last_lines(path: Path) -> None:
    """A limit keeps the newest lines, over both files."""
    writer = journal.Writer(path, limit=1000)
    for number in range(100):
        writer.feed("stdout", f"line {number}\n".encode())
    writer.close()
    reader = journal.Reader(path)
    assert texts(reader.history(3)) == ["line 97", "line 98", "line 99"]
    reader.close()


def test_a_full_disk_stops_no_backend() -> None:
    """Lines that cannot be written are lost, and nothing else happens."""
    writer = journal.Writer(Path("/dev/full"))
    writer.feed("stdout", b"lost\n" * 100)
    writer.close()


def test_a_writer_goes_on_where_another_stopped(path: Path) -> None:
    """A file that exists is added to."""
    for text in (b"one\n", b"two\n"):
        writer = journal.Writer(path)
        writer.feed("stdout", text)
        writer.close()
    reader = journal.Reader(path)
    assert texts(reader.history(None)) == ["one", "two"]
    reader.close()


def test_two_logs_are_merged_by_time() -> None:
    """Lines of both parts come in the order of their times, each with its source."""
    server = [journal.JournalLine("1", "stdout", "a"), journal.JournalLine("3", "stdout", "c")]
    worker = [journal.JournalLine("2", "stderr", "b"), journal.JournalLine("4", "stderr", "d")]
    merged = list(journal.merge({"server": server, "worker": worker}))
    assert [(source, line.text) for source, line in merged] == [
        ("server", "a"),
        ("worker", "b"),
        ("server", "c"),
        ("worker", "d"),
    ]
