"""The file of what was typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from halo_edge.cli.chat_history import MAX_BYTES, MAX_ENTRIES, ChatHistory, history_file


def entries(path: Path) -> list[str]:
    """As a new chat sees them, the newest first."""
    return list(ChatHistory(path).load_history_strings())


def test_another_chat_sees_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "history"
    history = ChatHistory(path)
    history.append_string("one")
    history.append_string("two\nlines é")
    assert entries(path) == ["two\nlines é", "one"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_it_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "history"
    history = ChatHistory(path)
    for i in range(2 * MAX_ENTRIES + 5):
        history.store_string(str(i))
    assert entries(path)[:2] == [str(2 * MAX_ENTRIES + 4), str(2 * MAX_ENTRIES + 3)]
    assert len(path.read_bytes().splitlines()) == MAX_ENTRIES
    assert path.stat().st_mode & 0o777 == 0o600


def test_large_entries(tmp_path: Path) -> None:
    path = tmp_path / "history"
    history = ChatHistory(path)
    history.store_string("x" * MAX_BYTES)
    assert not path.exists()
    for i in range(8):
        history.store_string(str(i) * (MAX_BYTES // 5))
    assert [entry[0] for entry in entries(path)] == ["7", "6", "5", "4"]
    assert path.stat().st_size < MAX_BYTES


def test_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "history"
    path.write_bytes(b'"one"\n\xff\xfe\n{"a": 1}\n"tw')
    assert entries(path) == ["one"]


def test_without_a_place_for_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    history = ChatHistory(tmp_path / "file" / "history")
    history.append_string("one")
    assert list(history.load_history_strings()) == []
    assert ChatHistory(tmp_path).get_strings() == []


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert history_file() == tmp_path / "halo-edge" / "chat_history"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert history_file() == tmp_path / ".local" / "state" / "halo-edge" / "chat_history"
