"""netem's qdiscs over netlink, where the kernel has them."""

from __future__ import annotations

import pytest
from pyroute2 import NetNS

from halo_edge.lab import namespaces
from halo_edge.lab.netem import Netem
from halo_edge.lab.qdisc import Books, Qdiscs, available

NAME = "halo.test-qdisc.n0"


def test_looking_for_netem_leaves_nothing_behind(root_user: None) -> None:
    before = namespaces.existing("")
    assert available() == available()
    assert namespaces.existing("") == before


def test_without_netem_there_is_an_error(root_user: None) -> None:
    if available():
        pytest.skip("this kernel has netem")
    namespaces.create(NAME)
    try:
        with namespaces.inside(NAME):
            qdiscs = Qdiscs(1)
        with pytest.raises(OSError, match="No such file or directory"):
            qdiscs.set_outer(Netem())
        qdiscs.close()
    finally:
        namespaces.remove(NAME)


def test_the_kernel_takes_and_forgets_every_parameter(root_user: None) -> None:
    if not available():
        pytest.skip("this kernel has no netem")
    full = Netem(15_625, 1_000, 99, 1 << 30, 1 << 29, 1 << 28, 1_000_000)
    namespaces.create(NAME)
    try:
        with namespaces.inside(NAME):
            qdiscs = Qdiscs(1)
        for outer, inner in ((full, Netem(limit=5, rate=1000)), (Netem(), Netem())):
            qdiscs.set_outer(outer)
            if not outer.duplicate:
                qdiscs.set_inner(inner)
                assert _read(0x20000) == inner
            assert _read(0x10000) == outer
        assert qdiscs.outer_books() == qdiscs.inner_books() == Books()
        qdiscs.remove_inner()
        with pytest.raises(FileNotFoundError):
            qdiscs.inner_books()
        qdiscs.close()
    finally:
        namespaces.remove(NAME)


def _read(handle: int) -> Netem:
    with NetNS(NAME) as netlink:
        (qdisc,) = (q for q in netlink.get_qdiscs(index=1) if q["handle"] == handle)
    options = qdisc.get_attr("TCA_OPTIONS")
    return Netem(
        options["delay"],
        options["jitter"],
        options["limit"],
        options["loss"],
        options["duplicate"],
        options.get_attr("TCA_NETEM_CORRUPT")["prob_corrupt"],
        options.get_attr("TCA_NETEM_RATE")["rate"],
    )
