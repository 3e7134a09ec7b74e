"""What options mean for a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from halo_edge.cli.compute_options import ComputeOptions
from halo_edge.errors import HaloError


def test_no_workers_is_this_process_whatever_cluster_there_is() -> None:
    """As an environment variable may name one."""
    options = ComputeOptions(workers=0, cluster="home").session(Path("model"), None, None)
    assert (options.workers, options.control) == (0, None)
    waits = ComputeOptions(workers=2, cluster="home").session(Path("model"), None, None)
    assert waits.workers == 2 and waits.control is not None


def replicas(text: str) -> int | None:
    return ComputeOptions(replicas=text).session(Path("model"), None, None).rounds.replicas


def test_replicas() -> None:
    assert [replicas(text) for text in ("auto", "off", "0", "1", "2")] == [None, 0, 0, 1, 2]


@pytest.mark.parametrize("text", ["", "3", "-1", "all"])
def test_what_is_no_number_of_replicas(text: str) -> None:
    with pytest.raises(HaloError, match="--replicas is auto, off, or 0 to 2"):
        replicas(text)
