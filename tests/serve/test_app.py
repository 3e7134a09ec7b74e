"""The OpenAPI document is right: what it describes is what comes."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]


OPERATIONS = [
    ("/v1/chat/completions", "POST"),
    ("/v1/completions", "POST"),
    ("/v1/models", "GET"),
    ("/v1/models/{name}", "GET"),
    ("/v1/embeddings", "POST"),
    ("/health", "GET"),
]


GOOD, BAD = GenerationMode.POSITIVE, GenerationMode.NEGATIVE


@pytest.mark.parametrize(
    ("path", "method", "mode"),
    [(*operation, GOOD) for operation in OPERATIONS]
    + [(*operation, BAD) for operation in OPERATIONS[:2]],
)
def test_whatever_is_sent(api: Any, path: str, method: str, mode: GenerationMode) -> None:
    openapi = schemathesis.openapi.from_asgi("/openapi.json", api.app)
    cases = openapi[path][method].as_strategy(generation_mode=mode)
    quickly = hypothesis.settings(
        max_examples=15,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )

    @quickly
    @hypothesis.given(cases)
    def check(case: Any) -> None:
        if isinstance(case.body, dict) and case.body.get("max_tokens", None) is None:
            case.body["max_tokens"] = 2  # else it goes on until the context is full
        if mode is GOOD and isinstance(case.body, dict):
            case.body.pop("model", None)  # which is hardly ever the right one
        case.call_and_validate(checks=CHECKS)

    check()


def test_no_page_needs_the_internet(api: Any) -> None:
    assert api.send("GET", "/docs").status_code == 404
    assert api.send("GET", "/redoc").status_code == 404


def test_document(api: Any) -> None:
    document = api.send("GET", "/openapi.json").json()
    assert set(document["paths"]) == {path for path, _ in OPERATIONS}
    assert "422" not in str(document)
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_models(api: Any) -> None:
    (model,) = api.send("GET", "/v1/models").json()["data"]
    assert model["id"] == "tiny"
    assert model["max_model_len"] == api.served.context
    assert api.send("GET", "/v1/models/tiny").json() == model
