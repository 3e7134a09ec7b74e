"""The dashboard of one session, put together."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter

from halo_edge.cluster.session import Session
from halo_edge.serve.auth import ApiKeys
from halo_edge.serve.closing import Closing
from halo_edge.serve.dashboard.feed import Feed
from halo_edge.serve.dashboard.heat import Heat
from halo_edge.serve.dashboard.rates import Rates
from halo_edge.serve.dashboard.router import dashboard_router
from halo_edge.serve.events import Events
from halo_edge.serve.request import Load
from halo_edge.serve.view import View


class Dashboard:
    """`feed` is a `Listener`, to be told of requests."""

    def __init__(
        self, session: Session, model: str, events: Events, load: Callable[[], Load]
    ) -> None:
        """See `View`."""
        cluster, heat = session.cluster, None
        if cluster is not None:
            packing = cluster.packing
            heat = Heat(cluster, packing.profile, packing.partition.n_groups)
        self.feed = Feed(View(session, model, events, load), Rates(), heat)

    def router(self, keys: ApiKeys, closing: Closing) -> APIRouter:
        """`keys`: of those who may see the feed."""
        return dashboard_router(self.feed, keys, closing)
