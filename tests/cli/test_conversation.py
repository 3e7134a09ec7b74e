"""What of a chat is sent, and its file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from halo_edge.cli.conversation import Conversation
from halo_edge.errors import HaloError
from halo_edge.model.chat_template import Message


def tokens_of(messages: list[Message]) -> list[int]:
    """One for each character, and four for each message."""
    return [0] * sum(4 + len(message.content) for message in messages)


def chat_of(*sizes: int) -> Conversation:
    """Turns of user and assistant of so many characters."""
    conversation = Conversation()
    for i, size in enumerate(sizes):
        (conversation.answered if i % 2 else conversation.say)("x" * size)
    return conversation


def test_all_is_sent_while_it_fits() -> None:
    conversation = chat_of(6, 6, 6, 6, 6)
    assert len(conversation.fit(tokens_of, 100, None)) == 50
    assert conversation.left_out == 0


def test_the_oldest_turns_are_left_out_until_half_is_free() -> None:
    conversation = chat_of(6, 6, 6, 6, 6, 6, 6, 6, 6)
    assert len(conversation.fit(tokens_of, 100, None)) == 50
    assert conversation.left_out == 4
    assert len(conversation.messages) == 9


def test_a_short_answer_needs_little_room() -> None:
    conversation = chat_of(6, 6, 6, 6, 6, 6, 6, 6, 6)
    assert len(conversation.fit(tokens_of, 100, 10)) == 90
    assert conversation.left_out == 0


def test_what_was_left_out_stays_so() -> None:
    conversation = chat_of(6, 6, 6, 6, 6, 6, 6, 6, 6)
    conversation.fit(tokens_of, 100, None)
    conversation.answered("x" * 6)
    conversation.say("x" * 6)
    assert len(conversation.fit(tokens_of, 100, None)) == 70
    assert conversation.left_out == 4


def test_the_newest_is_never_left_out() -> None:
    conversation = chat_of(6, 6, 80)
    assert len(conversation.fit(tokens_of, 100, None)) == 84
    assert conversation.left_out == 2


def test_a_turn_that_is_refused_costs_no_other() -> None:
    conversation = chat_of(6, 6, 200)
    assert len(conversation.fit(tokens_of, 100, None)) == 204
    assert conversation.left_out == 0


def test_take_back() -> None:
    conversation = Conversation()
    assert conversation.take_back() is None
    conversation.say("one")
    conversation.answered("1")
    conversation.say("two")
    assert conversation.take_back() == "two"
    assert conversation.take_back() == "one"
    assert conversation.messages == []


def test_take_back_what_little_is_sent() -> None:
    conversation = chat_of(6, 6, 80)
    conversation.fit(tokens_of, 100, None)
    conversation.take_back()
    conversation.take_back()
    assert conversation.left_out == 0


def test_save_and_load(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    conversation = chat_of(1, 2)
    conversation.system = "be brief"
    conversation.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    roles = [message["role"] for message in json.loads(path.read_text())["messages"]]
    assert roles == ["system", "user", "assistant"]
    other = Conversation()
    other.load(path)
    assert (other.system, other.messages) == ("be brief", conversation.messages)
    conversation.clear()
    conversation.save(path)  # its own file
    other.save(path)  # which was loaded


def test_a_file_of_others_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "thesis"
    path.write_text("precious")
    with pytest.raises(HaloError, match="is there already"):
        Conversation().save(path)
    assert path.read_text() == "precious"
    with pytest.raises(HaloError, match="cannot write"):
        Conversation().save(tmp_path / "no" / "such")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"messages": 3}',
        '{"messages": [{"role": "user"}]}',
        '{"messages": [{"role": "user", "content": "x"}]}',
        '{"messages": [{"role": "assistant", "content": "x"}, {"role": "user", "content": "y"}]}',
        "[" * 100_000,
    ],
)
def test_a_file_that_is_no_chat(tmp_path: Path, text: str) -> None:
    path = tmp_path / "chat.json"
    path.write_text(text)
    conversation = chat_of(1, 2)
    with pytest.raises(HaloError, match="not a saved chat") as caught:
        conversation.load(path)
    assert "\n" not in str(caught.value)
    assert len(conversation.messages) == 2


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(HaloError, match="no such file"):
        Conversation().load(tmp_path / "none")
