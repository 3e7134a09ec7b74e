"""Chats become the prompts that their models were trained on."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halo_edge.errors import HaloError
from halo_edge.model.chat_template import ChatTemplate, Message, ToolCall
from halo_edge.model.gguf_file import GgufFile
from halo_edge.model.tokenizer import Tokenizer

CHATML = (
    "{% for message in messages %}\n"
    "    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' }}\n"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}\n    {{- '<|im_start|>assistant' }}\n{% endif %}\n"
)
CHAT = [Message("system", "Be brief."), Message("user", "Hi <|im_end|>")]


def tokenizer(**settings: object) -> Tokenizer:
    return Tokenizer.from_gguf(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "a"],
            "tokenizer.ggml.token_type": [2, 3, 3, 1],
            "tokenizer.ggml.scores": [0.0] * 4,
        }
        | {f"tokenizer.ggml.{key}": value for key, value in settings.items()}
    )


def render(source: str, messages: list[Message], **settings: object) -> str:
    return ChatTemplate(source, tokenizer(**settings)).render(messages)


def test_the_demo_model(demo_model: Path) -> None:
    metadata = GgufFile.open(demo_model).metadata
    subject = Tokenizer.from_gguf(metadata)
    template = ChatTemplate.from_gguf(metadata, subject)
    assert template is not None
    prompt = template.render([Message("user", "Hello")])
    assert prompt == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = subject.encode(prompt, parse_special=True)
    assert (ids.count(1), ids.count(2)) == (3, 2)
    whole = template.render([Message("system", "x"), Message("user", "y")],
                            add_generation_prompt=False)  # fmt: skip
    assert whole == "<|im_start|>system\nx<|im_end|>\n<|im_start|>user\ny<|im_end|>\n"


def test_whitespace_around_blocks_is_trimmed() -> None:
    assert render(CHATML, CHAT) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi <|im_end|><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_a_file_without_a_template() -> None:
    assert ChatTemplate.from_gguf({}, tokenizer()) is None


def test_bos_and_eos_are_given_but_not_written_twice() -> None:
    source = "{{ bos_token }}x{{ eos_token }}"
    assert render(source, []) == "x</s>"  # `encode` begins with <s> and does not end with </s>
    assert render(source, [], add_bos_token=False) == "<s>x</s>"
    assert render(source, [], add_eos_token=True) == "x"


def test_what_hugging_face_lets_templates_call() -> None:
    assert render("{{ strftime_now('%Y') }}", []) == str(datetime.now().year)
    assert render("{{ messages | tojson }}", CHAT[:1]) == (
        '[{"role": "system", "content": "Be brief."}]'
    )
    assert render("{{ tools is none and documents is none }}", []) == "True"


def test_tools_and_calls() -> None:
    source = (
        "{% for tool in tools %}{{ tool.function.name }};{% endfor %}"
        "{% for m in messages %}{{ m.role }}:{{ m.content }}"
        "{% if 'tool_calls' in m %}{{ m.tool_calls | tojson }}{% endif %}"
        "{% if m.tool_call_id is defined %}={{ m.tool_call_id }}{% endif %};{% endfor %}"
    )
    messages = [
        Message("user", "when?"),
        Message("assistant", "", tool_calls=(ToolCall("7", "time", {"zone": "UTC"}),)),
        Message("tool", "noon", tool_call_id="7"),
    ]
    call = '[{"id": "7", "type": "function", "function": {"name": "time", "arguments": '
    call += '{"zone": "UTC"}}}]'
    tools = [{"type": "function", "function": {"name": "time"}}]
    text = ChatTemplate(source, tokenizer()).render(messages, tools=tools)
    assert text == f"time;user:when?;assistant:{call};tool:noon=7;"


def test_a_template_may_refuse() -> None:
    source = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no\nsystem role') }}{% endif %}"
    )
    with pytest.raises(HaloError, match="chat template failed: no system role;"):
        render(source, CHAT)


@pytest.mark.parametrize(
    "source",
    [
        "{% for %}", "{{ 1 / 0 }}", "{{ a.b.c }}", "{{ 'x' | nosuch }}", "{% include 'x' %}",
        "{{ raise_exception('\x1b[31m\n' * 3 + 'x' * 1000) }}", "{{ raise_exception('') }}",
        "{{ strftime_now(3) }}", "{% for i in range(10**9) %}x{% endfor %}", "{{ 'x' * 10**10 }}",
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "{{ ''.__class__.__base__ }}",
        "{" * 10000, "{{ " + "[" * 3000 + " }}",
    ],
    ids=range(14),
)  # fmt: skip
def test_failure_is_one_printable_line(source: str) -> None:
    with pytest.raises(HaloError, match="chat template") as caught:
        render(source, CHAT)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_a_template_that_is_no_text() -> None:
    with pytest.raises(HaloError, match="not a text"):
        ChatTemplate.from_gguf({"tokenizer.chat_template": ["x"]}, tokenizer())


@given(st.text(st.sampled_from("{}%#-+ \n'|()[].,:abfor in range1234567890"), max_size=60))
def test_no_source_gives_another_error(source: str) -> None:
    try:
        render(source, CHAT)
    except HaloError as error:
        assert str(error).isprintable()
