"""Only JSON comes out, by whatever chance tokens are drawn."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from halo_edge.errors import HaloError
from halo_edge.serve.constraint import ANY_OBJECT, Grammars

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def grammars(api: Any) -> Grammars:
    return Grammars(api.served)


def drawn(api: Any, constraint: Any, rng: np.random.Generator, most: int = 400) -> list[int]:
    """Tokens drawn at random from those allowed, until one that ends."""
    tokens: list[int] = []
    for _ in range(most):
        allowed = constraint.allowed()
        assert allowed.shape == (api.served.vocab,)
        tokens.append(int(rng.choice(np.flatnonzero(allowed))))
        constraint.accept(tokens[-1])
        if tokens[-1] in api.served.tokenizer.eog_ids:
            return tokens
    raise AssertionError(f"no end: {api.served.tokenizer.decode(tokens)}")


@pytest.mark.parametrize("seed", range(8))
def test_random_tokens_make_what_the_schema_says(api: Any, grammars: Grammars, seed: int) -> None:
    tokens = drawn(api, grammars.json(PERSON), np.random.default_rng(seed))
    value = json.loads(api.served.tokenizer.decode(tokens))
    assert list(value) == ["name", "age", "tags"]
    assert 0 <= value["age"] <= 150
    assert set(value["tags"]) <= {"a", "b"}


def test_whitespace_has_an_end(api: Any, grammars: Grammars) -> None:
    constraint = grammars.json(ANY_OBJECT)
    (space,) = api.served.tokenizer.encode(" ", add_special=False)
    (brace,) = api.served.tokenizer.encode("{", add_special=False)
    constraint.accept(brace)
    for _ in range(64):
        if not constraint.allowed()[space]:
            return
        constraint.accept(space)
    raise AssertionError("any number of spaces")


def test_control_tokens_are_no_text(api: Any, grammars: Grammars) -> None:
    constraint = grammars.json({"type": "string"})
    tokenizer = api.served.tokenizer
    (quote,) = tokenizer.encode('"', add_special=False)
    constraint.accept(quote)
    allowed = constraint.allowed()
    assert not any(allowed[i] for i in range(tokenizer.vocab_size) if not tokenizer.token_bytes(i))


def test_a_token_that_is_not_allowed(api: Any, grammars: Grammars) -> None:
    constraint = grammars.json(ANY_OBJECT)
    (letter,) = api.served.tokenizer.encode("x", add_special=False)
    with pytest.raises(HaloError):
        constraint.accept(letter)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "thing"},
        {"not": {"type": "string"}},
        {"$ref": "http://localhost/schema"},
        {"$ref": "#/$defs/missing"},
        {"type": "string", "pattern": "("},
        {"type": "string", "minLength": 5, "maxLength": 1},
        {"allOf": [
            {"anyOf": [{"properties": {f"{i}{j}": {"type": "null"}}} for j in range(12)]}
            for i in range(12)
        ]},
    ],
)  # fmt: skip
def test_schemas_that_cannot_be_followed(grammars: Grammars, schema: dict[str, Any]) -> None:
    with pytest.raises(HaloError) as error:
        grammars.json(schema)
    assert "\n" not in str(error.value)


def test_a_client_cannot_loosen_the_grammar(grammars: Grammars) -> None:
    with pytest.raises(HaloError, match="uniqueItems"):
        grammars.json({"type": "array", "uniqueItems": True, "x-guidance": {"lenient": True}})


# Over HTTP


def test_json_mode(api: Any) -> None:
    messages = [{"role": "user", "content": "hello"}]
    schema = {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON, "strict": True}}
    for seed in range(3):
        body = api.answer(
            "chat/completions",
            messages=messages,
            response_format=schema,
            seed=seed,
            temperature=2,
            n=2,
        )
        for choice in body["choices"]:
            assert choice["finish_reason"] == "stop"
            assert set(json.loads(choice["message"]["content"])) == set(PERSON["properties"])


def test_json_object_begins_one(api: Any) -> None:
    messages = [{"role": "user", "content": "hello"}]
    body = api.answer(
        "chat/completions",
        messages=messages,
        response_format={"type": "json_object"},
        max_tokens=5,
        temperature=0,
    )
    assert body["choices"][0]["message"]["content"].startswith("{")


def test_a_bad_schema_is_the_clients_fault(api: Any) -> None:
    deep: dict[str, Any] = {}
    for _ in range(40):
        deep = {"items": deep}
    for schema in ({"type": "thing"}, deep, {"enum": list(range(30_000))}):
        status, error = api.refusal(
            "chat/completions",
            messages=[{"role": "user", "content": "hello"}],
            response_format={"type": "json_schema", "json_schema": {"name": "p", "schema": schema}},
        )
        assert status == 400
        assert error["param"].startswith("response_format")
