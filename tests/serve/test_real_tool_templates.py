"""Tools with the chat templates that models come with, where these are at hand: as files
`reference/chat_templates/*.jinja` of the reference data, with the names that llama.cpp has for
them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.serve.tool_templates import ASKED_AND_TOLD, HELLO, TIME, WEATHER

from halo_edge.serve.hermes_calls import HermesFormat
from halo_edge.serve.llama_calls import LlamaFormat
from halo_edge.serve.tools import format_of

WAYS = {
    "Qwen-Qwen2.5-7B-Instruct": HermesFormat,
    "Qwen-Qwen3-0.6B": HermesFormat,
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": HermesFormat,
    "meta-llama-Llama-3.1-8B-Instruct": LlamaFormat,
    "meta-llama-Llama-3.2-3B-Instruct": LlamaFormat,
}
NOT_READ = [
    "mistralai-Mistral-Nemo-Instruct-2407",
    "Mistral-Small-3.2-24B-Instruct-2506",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
]


@pytest.fixture(scope="module")
def api_named(shared_dir: Path, api_of: Any) -> Any:
    def of(name: str) -> Any:
        path = shared_dir / "reference" / "chat_templates" / f"{name}.jinja"
        if not path.is_file():
            pytest.skip(f"{path.name} is not in the reference data")
        return api_of(path.read_text(encoding="utf-8"))

    return of


@pytest.mark.parametrize("name", WAYS)
def test_a_call_and_what_came_of_it(api_named: Any, name: str) -> None:
    api = api_named(name)
    assert type(format_of(api.served)) is WAYS[name]
    wanted = {"messages": HELLO, "tools": [WEATHER], "tool_choice": "required"}
    (choice,) = api.answer("chat/completions", **wanted, temperature=2, seed=1)["choices"]
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "weather"
    assert set(json.loads(call["function"]["arguments"])) == {"city", "days"}
    told = {"role": "tool", "tool_call_id": call["id"], "content": "rain"}
    body = {"messages": [*HELLO, choice["message"], told], "tools": [WEATHER], "max_tokens": 4}
    assert api.answer("chat/completions", **body)["choices"][0]["message"]["content"]


@pytest.mark.parametrize("name", WAYS)
def test_a_call_streamed(api_named: Any, name: str) -> None:
    chunks = api_named(name).events(
        "chat/completions",
        messages=[{"role": "system", "content": "Be brief."}, *HELLO],
        tools=[TIME, WEATHER],
        tool_choice={"type": "function", "function": {"name": "weather"}},
    )
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    ((call,),) = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
    assert call["function"]["name"] == "weather"
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("name", NOT_READ)
def test_what_is_not_read_is_refused(api_named: Any, name: str) -> None:
    for fields in ({"messages": HELLO, "tools": [TIME]}, {"messages": [*HELLO, *ASKED_AND_TOLD]}):
        status, error = api_named(name).refusal("chat/completions", **fields)
        assert status == 400
        assert error["message"].startswith("no tools: ")
