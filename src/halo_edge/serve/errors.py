"""Everything that goes wrong, as OpenAI's API says it: {"error": {message, type, param, code}}.

Clients of that API turn the status and this object into exceptions of their own, so no answer with
a status of 400 or more may look otherwise, whoever made it: a handler, FastAPI or Starlette.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from halo_edge.errors import HaloError
from halo_edge.serve.request import Busy

_log = logging.getLogger(__name__)

_MAX_MESSAGE: Final = 500  # characters of what a client sent may come back to it


class ErrorFields(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """What every answer of status 400 or more carries."""

    error: ErrorFields


class ApiError(Exception):
    """Ends a request. `param`: the field of the request that is wrong, as `messages[0].content`."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    @property
    def body(self) -> ErrorBody:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        message = str(self)
        if len(message) > _MAX_MESSAGE:
            message = message[: _MAX_MESSAGE - 3] + "..."
        if self.status == 429:
            kind = "rate_limit_error"
        return ErrorBody(
            error=ErrorFields(message=message, type=kind, param=self.param, code=self.code)
        )

    def response(self) -> JSONResponse:
        headers = {}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after_s)))
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body.model_dump(), self.status, headers)


def of_exception(error: Exception) -> ApiError:
    """What a client is told of whatever went wrong while it was served."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Busy):
        return ApiError(
            429, str(error), code="rate_limit_exceeded", retry_after_s=error.retry_after_s
        )
    if isinstance(error, HaloError):  # of the engine or the cluster: requests are checked before
        return ApiError(500, str(error))
    _log.error("a request failed", exc_info=error)
    return ApiError(500, "the server failed; its log says how")


def install(app: FastAPI) -> None:
    """Have `app` answer every error so."""

    async def any_error(_: Request, error: Exception) -> JSONResponse:
        return of_exception(error).response()

    async def http_error(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        response = _of_status(error).response()
        response.headers.update(error.headers or {})
        return response

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return _of_validation(error.errors(), error.body).response()

    app.add_exception_handler(ApiError, any_error)
    app.add_exception_handler(HaloError, any_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, any_error)


def _of_status(error: HTTPException) -> ApiError:
    messages = {
        400: "the body could not be parsed as JSON in UTF-8",
        404: "there is nothing at this address; the API is under /v1",
        405: "this address does not know that method",
        413: "the body is larger than this server takes",
    }
    message = messages.get(error.status_code, str(error.detail))
    return ApiError(error.status_code, message)


def _of_validation(errors: Sequence[Any], body: object) -> ApiError:
    """One of pydantic's complaints: the deepest, as of a union's branches it is about the one that
    was meant."""
    worst = max(errors, key=lambda error: len(error["loc"]))
    kind = worst["type"]
    if kind == "json_invalid":
        return ApiError(400, f"the body is not JSON: {worst['ctx']['error']}")
    param = _path(worst["loc"], body, missing=kind in ("missing", "extra_forbidden"))
    if param is None:
        return ApiError(400, "the body must be a JSON object, sent as application/json")
    if kind == "extra_forbidden":
        return ApiError(400, f"unknown parameter: {param}", param=param, code="unknown_parameter")
    if kind == "none_required":
        message = f"{param} is not supported by this server; leave it out"
        return ApiError(400, message, param=param, code="unsupported_parameter")
    if kind == "missing":
        message = f"missing parameter: {param}"
        return ApiError(400, message, param=param, code="missing_required_parameter")
    message = worst["msg"].removeprefix("Value error, ")
    return ApiError(400, f"{param}: {message}", param=param, code="invalid_value")


def _path(loc: Sequence[str | int], body: object, *, missing: bool) -> str | None:
    """`messages[0].content` of pydantic's location, which also names the branches of unions; None
    for the body itself."""
    path, value = "", body
    for i, part in enumerate(loc[1:], 1):
        if isinstance(part, int):
            if not isinstance(value, list) or part >= len(value):
                break
            path, value = f"{path}[{part}]", value[part]
        elif isinstance(value, dict) and part in value:
            path, value = f"{path}.{part}", value[part]
        elif missing and i == len(loc) - 1:
            path += f".{part}"
    return path.removeprefix(".") or None
