"""orders: keeps the shop's orders in PostgreSQL and asks inventory, by its name, for the tea."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from typing import Any

import asyncpg
from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web

from .identity import Place
from .orders_config import Journal, Settings, receipt
from .service import RefusedError, UnavailableError, application, json_body, reason

log = logging.getLogger("orders")

NEWEST = 12
MAX_TINS = 20
#: The compose file's own database; the cluster's password comes from a Secret.
LOCAL_PASSWORD = "only-on-this-laptop"  # noqa: S105


class Orders:
    """The service's work. Use as `async with`; connections are made at the first use.

    Args:
        place: Who answers.
        environ: ``DB_HOST``, ``DB_PASSWORD``, ``INVENTORY_URL`` and what `Settings` reads.
    """

    def __init__(self, place: Place, environ: Mapping[str, str]) -> None:
        self.settings = Settings(environ)
        self.journal = Journal(place)
        self._place = place
        self._database = environ.get("DB_HOST", "postgres")
        self._password = environ.get("DB_PASSWORD", LOCAL_PASSWORD)
        self._inventory = environ.get("INVENTORY_URL", "http://inventory")

    async def __aenter__(self) -> "Orders":
        # min_size=0: nothing is dialled yet, so the service starts in any order with the others.
        self._pool = await asyncpg.create_pool(
            host=self._database, user="shop", database="shop", password=self._password,
            min_size=0, max_size=4, timeout=3.0, command_timeout=5.0,
        )  # fmt: skip
        # A new connection per call: a kept one would hide that the name leads elsewhere by then.
        self._http = ClientSession(connector=TCPConnector(force_close=True), timeout=ClientTimeout(total=4.0))
        await self._note("started")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()
        self._pool.terminate()

    async def check(self) -> None:
        """Returns when the database answers."""
        await self._pool.fetchval("select 1")

    async def newest(self) -> list[dict[str, Any]]:
        """The newest orders, each with the receipt that the present key gives.

        Raises:
            UnavailableError: The database does not answer.
        """
        rows = await self._query("select * from orders order by placed_at desc, id desc limit $1", NEWEST)
        key = await asyncio.to_thread(self.settings.signing_key)
        return [
            dict(row) | {"placed_at": row["placed_at"].isoformat(), "receipt": receipt(key, row["id"])} for row in rows
        ]

    async def database(self) -> dict[str, str]:
        """Where the database says that it runs."""
        (row,) = await self._query(
            "select current_setting('cluster_name') as origin, host(inet_server_addr()) as address,"
            " current_setting('server_version') as version"
        )
        return dict(row)

    async def stock(self) -> dict[str, Any]:
        """What inventory answers. Raises UnavailableError when it does not."""
        return await self._ask("GET", "/stock")

    async def place_order(self, customer: str, sku: str, quantity: int, note: str) -> dict[str, Any]:
        """Takes the tea out of the stock and writes the order down.

        Raises:
            RefusedError: Unknown tea, or not enough of it.
            UnavailableError: inventory or the database does not answer.
        """
        reserved = await self._ask("POST", "/reserve", {"sku": sku, "quantity": quantity})
        (row,) = await self._query(
            "insert into orders (customer, sku, quantity, note, taken_by) values ($1, $2, $3, $4, $5) returning id",
            customer, sku, quantity, note, self._place.signature,
        )  # fmt: skip
        await self._note(f"took order {row['id']}: {quantity} x {sku} for {customer}")
        key = await asyncio.to_thread(self.settings.signing_key)
        return {"id": row["id"], "receipt": receipt(key, row["id"]), "left": reserved["left"]}

    async def _query(self, statement: str, *values: object) -> list[Any]:
        try:
            return list(await self._pool.fetch(statement, *values))
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise UnavailableError(f"PostgreSQL at {self._database}: {reason(error)}") from error

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            async with self._http.request(method, self._inventory + path, json=body) as response:
                reply: dict[str, Any] = await response.json()
        except (ClientError, TimeoutError, ValueError) as error:
            raise UnavailableError(f"{self._inventory}{path}: {reason(error)}") from error
        if response.status >= 500:
            raise UnavailableError(f"{self._inventory}{path}: {reply['error']}")
        if response.status >= 400:
            raise RefusedError(reply["error"], response.status)
        return reply

    async def _note(self, event: str) -> None:
        # In a thread, and never fatal: a volume may be slow, full or read-only.
        try:
            await asyncio.to_thread(self.journal.write, event)
        except OSError as error:
            log.warning("journal: %s", error)


def parse_order(body: Mapping[str, object]) -> tuple[str, str, int, str]:
    """Checks what a customer sent.

    Returns:
        Customer, sku, quantity and note.

    Raises:
        RefusedError: Something is missing or out of range.
    """
    customer, sku, quantity, note = (body.get(name) for name in ("customer", "sku", "quantity", "note"))
    if not isinstance(customer, str) or not 1 <= len(customer.strip()) <= 60:
        raise RefusedError("customer must be a name of 1 to 60 characters")
    if not isinstance(sku, str):
        raise RefusedError("sku must be the short name of a tea")
    if type(quantity) is not int or not 1 <= quantity <= MAX_TINS:
        raise RefusedError(f"quantity must be a number from 1 to {MAX_TINS}")
    if not isinstance(note, str | None):
        raise RefusedError("note must be a text")
    return customer.strip(), sku, quantity, (note or "")[:120]


def build(place: Place, environ: Mapping[str, str]) -> web.Application:
    """The orders service; its environment is described at `Orders`."""
    orders = Orders(place, environ)

    def answered(request: web.Request) -> dict[str, Any]:
        return {"answered_by": asdict(place) | {"peer": request.remote}}

    async def overview(request: web.Request) -> web.Response:
        rows, database = await asyncio.gather(orders.newest(), orders.database())
        try:
            inventory = (await orders.stock())["answered_by"]
        except UnavailableError as error:
            inventory = {"error": str(error)}
        reply = {"orders": rows, "database": database, "inventory_as_seen_by_orders": inventory}
        return web.json_response(answered(request) | reply)

    async def settings(request: web.Request) -> web.Response:
        shown = await asyncio.to_thread(orders.settings.public)
        journal = await asyncio.to_thread(orders.journal.tail)
        return web.json_response(answered(request) | shown | {"journal": journal})

    async def take(request: web.Request) -> web.Response:
        order = await orders.place_order(*parse_order(await json_body(request)))
        return web.json_response(answered(request) | order, status=201)

    async def run(_: web.Application) -> AsyncIterator[None]:
        async with orders:
            yield

    routes = [web.get("/orders", overview), web.post("/orders", take), web.get("/settings", settings)]
    app = application(place, routes, orders.check)
    app.cleanup_ctx.append(run)
    return app
