"""What the three services share: probes, /whoami, logging, the name of the answerer on every answer."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict
from typing import Any

from aiohttp import web

from .identity import Place, files_seen

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

#: Seconds that open requests get after SIGTERM.
SHUTDOWN_SECONDS = 5.0
#: Seconds that a readiness check may take; shorter than the probes' own limit.
READY_SECONDS = 2.0
PROBES = ("/healthz", "/readyz")


class UnavailableError(Exception):
    """Something that this service needs does not answer; the text says what."""


class RefusedError(Exception):
    """The caller asked for something that cannot be done; the text says why.

    Args:
        reason: Said to the caller.
        status: HTTP status of the answer.
    """

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


def reason(error: BaseException) -> str:
    """The error's text; its kind when it has none, as timeouts and closed connections do."""
    return str(error) or type(error).__name__


async def json_body(request: web.Request) -> dict[str, Any]:
    """Reads the JSON object that the caller sent.

    Raises:
        RefusedError: It sent something else.
    """
    try:
        body = await request.json()
    except ValueError as error:
        raise RefusedError(f"not JSON: {error}") from error
    if not isinstance(body, dict):
        raise RefusedError("a JSON object is wanted")
    return body


def application(
    place: Place, routes: Iterable[web.RouteDef], ready: Callable[[], Awaitable[None]] | None = None
) -> web.Application:
    """Builds a service with its own routes and the shared ones.

    Args:
        place: Who answers.
        routes: The service's own routes.
        ready: Returns when the service can do its work, raises anything when it cannot.
    """
    log = logging.getLogger(place.service)

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        began = time.perf_counter()
        try:
            response = await handler(request)
        except RefusedError as error:
            response = web.json_response({"error": str(error), "answered_by": asdict(place)}, status=error.status)
        except UnavailableError as error:
            response = web.json_response({"error": str(error), "answered_by": asdict(place)}, status=503)
        except web.HTTPException as error:
            response = error
        response.headers["X-Answered-By"] = f"{place.service} {place.signature}"
        if request.path not in PROBES:
            milliseconds = (time.perf_counter() - began) * 1000
            log.info("%s %s %d peer=%s %.1f ms", request.method, request.path, response.status, request.remote,
                     milliseconds)  # fmt: skip
        return response

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        if ready is not None:
            try:
                async with asyncio.timeout(READY_SECONDS):
                    await ready()
            except Exception as error:
                log.warning("not ready: %s", reason(error))
                return web.Response(text="not ready\n", status=503)
        return web.Response(text="ready\n")

    async def whoami(request: web.Request) -> web.Response:
        return web.json_response(await describe(place) | {"peer": request.remote})

    async def log_start(_: web.Application) -> None:
        seen = await describe(place)
        log.info("started at %s (%s)", place.signature, place.address)
        log.info("environment: %s", " ".join(seen["environment"]))
        log.info("files: %s", " ".join(seen["files"]) or "none")

    app = web.Application(middlewares=[answer])
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/whoami", whoami)])
    app.add_routes(routes)
    app.on_startup.append(log_start)
    return app


async def describe(place: Place) -> dict[str, Any]:
    """What /whoami says: the place, the names (not the values) of the environment, the files it sees."""
    # In a thread: a mounted volume may be slow, and probes must be answered meanwhile.
    files = await asyncio.to_thread(files_seen)
    return asdict(place) | {"environment": sorted(os.environ), "files": files}


def serve(app: web.Application, place: Place, ports: list[int]) -> None:
    """Serves until SIGTERM or SIGINT, then lets open requests finish.

    Raises:
        OSError: A port is taken or not allowed.
    """
    sockets = [socket.create_server(("0.0.0.0", port), backlog=128) for port in ports]  # noqa: S104
    web.run_app(
        app, sock=sockets, access_log=None, print=None, shutdown_timeout=SHUTDOWN_SECONDS, keepalive_timeout=75.0
    )
    logging.getLogger(place.service).info("stopped")
