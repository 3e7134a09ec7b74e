"""`halo serve`."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from typer import Option

from halo_edge.cli.compute import compute_session
from halo_edge.cli.compute_options import ComputeOptions
from halo_edge.cli.console import notes
from halo_edge.cli.options import Context
from halo_edge.cli.prompt import text_file
from halo_edge.cluster.session import Session
from halo_edge.engine.load import DEFAULT_KV_BYTES
from halo_edge.engine.pace import MAX_ADDED_S
from halo_edge.errors import HaloError
from halo_edge.model.pull import DEMO_MODEL

if TYPE_CHECKING:  # the command line does without FastAPI until this command runs
    from halo_edge.serve.request import Listener
    from halo_edge.serve.served import Served

DEFAULT_MAX_QUEUE: Final = 128
MAX_KEYS: Final = 1000
_SERVER: Final = "Server"
_log = logging.getLogger(__name__)
_LOOPBACK: Final = ("127.", "::1", "localhost")


def serve(
    *,
    host: Annotated[
        str,
        Option(
            "--host",
            envvar="HALO_HOST",
            rich_help_panel=_SERVER,
            help="Address to listen on; 0.0.0.0: all of this machine's.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        Option(
            "--port",
            envvar="HALO_PORT",
            min=0,
            max=65535,
            rich_help_panel=_SERVER,
            help="0: any that is free.",
        ),
    ] = 8080,
    api_key: Annotated[
        list[str] | None,
        Option(
            "--api-key",
            envvar="HALO_API_KEY",
            rich_help_panel=_SERVER,
            metavar="KEY",
            help="Whoever asks under /v1 has to give one of these. Repeatable. Others on this "
            "machine can see it in the list of processes: rather use --api-key-file.",
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        Option(
            "--api-key-file", rich_help_panel=_SERVER, help="The same, from a file: one a line."
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        Option(
            "--allowed-host",
            envvar="HALO_ALLOWED_HOST",
            rich_help_panel=_SERVER,
            metavar="NAME",
            help="A name by which the server may be asked, beside addresses, localhost and this "
            "machine's own names; *: any, also that of a web page that somebody here looks at. "
            "Repeatable.",
        ),
    ] = None,
    max_queue: Annotated[
        int,
        Option(
            "--max-queue",
            min=1,
            max=100_000,
            rich_help_panel=_SERVER,
            help="Requests that may wait; further ones are told to come back later.",
        ),
    ] = DEFAULT_MAX_QUEUE,
    prompt_gap_ms: Annotated[
        float,
        Option(
            "--prompt-gap",
            metavar="MS",
            min=0.0,
            max=60_000.0,
            rich_help_panel=_SERVER,
            help="So much later may everybody's next token come for prompts that are read beside. "
            "More: long prompts are through sooner.",
        ),
    ] = round(MAX_ADDED_S * 1e3),
    kv_memory_mb: Annotated[
        float,
        Option(
            "--kv-memory",
            metavar="MB",
            min=1.0,
            rich_help_panel=_SERVER,
            help="Memory for what running requests, and earlier ones, have computed; at least one "
            "--ctx.",
        ),
    ] = round(DEFAULT_KV_BYTES / 1e6),
    log_json: Annotated[
        bool,
        Option(
            "--log-json",
            rich_help_panel=_SERVER,
            help="Write the log, a line for each request, as JSON.",
        ),
    ] = False,
    ctx: Context = None,
    options: ComputeOptions,
) -> None:
    """Answer OpenAI's API over HTTP, for many at a time."""
    keys = _keys(api_key, api_key_file)
    # Only this command takes the time to import FastAPI.
    from halo_edge.serve import server
    from halo_edge.serve.app import create_app
    from halo_edge.serve.auth import ApiKeys
    from halo_edge.serve.closing import Closing
    from halo_edge.serve.dashboard.dashboard import Dashboard
    from halo_edge.serve.events import Events
    from halo_edge.serve.health import cluster_health
    from halo_edge.serve.hosts import AllowedHosts, checked, own_names
    from halo_edge.serve.metrics import Metrics, metrics_router
    from halo_edge.serve.request_log import JsonFormatter, RequestLog, TextFormatter, logging_to
    from halo_edge.serve.service import Service

    hosts = AllowedHosts([*own_names(), host, *checked(allowed_host or ())])
    events = Events()

    def tell(line: str) -> None:
        _log.info(line)
        events.tell(line)

    with (
        logging_to(sys.stderr, JsonFormatter() if log_json else TextFormatter()),
        server.bound(host, port) as sock,
        compute_session(options, ctx, tell=tell, kv_bytes=int(kv_memory_mb * 1e6)) as session,
    ):
        served = _served(options.model, session)
        api_keys = ApiKeys(keys)
        closing = Closing()
        dashboard = Dashboard(session, served.name, events, lambda: service.load)
        metrics = Metrics(lambda: service.load, session.cluster)
        listeners: list[Listener] = [dashboard.feed, metrics.requests, RequestLog(served.name)]
        routers = [dashboard.router(api_keys, closing), metrics_router(metrics)]
        service = Service(
            session,
            listeners=listeners,
            max_waiting=max_queue,
            max_added_s=prompt_gap_ms / 1e3,
        )
        app = create_app(
            service,
            served,
            cluster_health(session.cluster, lambda: service.trouble),
            keys=api_keys,
            hosts=hosts,
            closing=closing,
            routers=routers,
        )
        server.listen(sock)
        _announce(session, served, server.url_of(sock), keyed=bool(keys))
        if not keys and not host.startswith(_LOOPBACK):
            notes.print(
                f"whoever reaches {host} may use this server: it has no --api-key",
                style="yellow",
                markup=False,
                soft_wrap=True,
            )
        server.serve(app, service, sock, closing)


def _keys(keys: list[str] | None, file: Path | None) -> list[str]:
    """Raises `HaloError` for keys that nobody could give."""
    found = list(keys or ())
    if file is not None:
        found += [line.strip() for line in text_file(file).splitlines() if line.strip()]
        if not found:
            raise HaloError(f"--api-key-file: {file} has no keys in it")
    if len(found) > MAX_KEYS:
        raise HaloError(f"more than {MAX_KEYS} API keys; give fewer")
    if not all(key.isascii() and key.isprintable() and " " not in key and key for key in found):
        raise HaloError("an API key is made of printable ASCII characters, without spaces")
    return found


def _served(option: str | None, session: Session) -> Served:
    """The model's name is that of its file, or `smollm2`."""
    from halo_edge.serve.served import Served

    model = session.model
    name = option or DEMO_MODEL
    return Served(
        name=name.rsplit("/", 1)[-1].removesuffix(".gguf"),
        created_s=int(time.time()),
        tokenizer=model.tokenizer,
        template=model.template,
        context=model.context,
        vocab=model.params.vocab,
    )


def _announce(session: Session, served: Served, url: str, *, keyed: bool) -> None:
    devices = 1 if session.cluster is None else 1 + len(session.cluster.members)
    with_key = ", with an API key" if keyed else ""
    notes.print(
        f"{served.name} on {devices} device{'s' if devices > 1 else ''}, context "
        f"{served.context} tokens: {url}/v1{with_key}",
        markup=False,
        soft_wrap=True,
    )
