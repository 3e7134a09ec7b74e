"""A request's books, written by hand."""

from __future__ import annotations

from typing import Any

import pytest

from halo_edge.engine.sampling import SamplingParams
from halo_edge.engine.sequence import FinishReason
from halo_edge.errors import HaloError
from halo_edge.serve.job import Job
from halo_edge.serve.request import Price, Request
from halo_edge.serve.stream import Stream


@pytest.fixture
def job() -> Job:
    mailbox: Any = None
    request = Request("r", [1, 2, 3], SamplingParams(), "")
    return Job(Stream(request, lambda _: None), mailbox, submitted_s=10.0)


def test_times_of_tokens(job: Job) -> None:
    job.begun_s = 11.0
    assert [job.token(12.0), job.token(12.5), job.token(14.0)] == [2.0, 0.5, 1.5]
    answered = job.answered(15.0, Price(), FinishReason.STOP, None)
    assert (answered.queued_s, answered.ttft_s, answered.total_s) == (1.0, 2.0, 5.0)
    assert (answered.prompt_tokens, answered.generated_tokens) == (3, 3)
    assert (answered.finish, answered.error) == (FinishReason.STOP, "")


def test_one_that_never_began(job: Job) -> None:
    answered = job.answered(13.0, job.close_account(None), None, HaloError("no"))
    assert (answered.queued_s, answered.ttft_s, answered.total_s) == (3.0, None, 3.0)
    assert (answered.generated_tokens, answered.reused_tokens) == (0, 0)
    assert (answered.error, answered.price) == ("no", Price())
