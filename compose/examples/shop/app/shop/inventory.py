"""inventory: what the shop sells and how much of it is left, counted in Redis."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass

import redis.asyncio as redis
from aiohttp import web
from redis.exceptions import RedisError

from .identity import Place
from .service import RefusedError, UnavailableError, application, json_body


@dataclass(frozen=True, slots=True)
class Tea:
    """One thing to buy. Price in cents, stock in tins at the first start."""

    sku: str
    name: str
    price: int
    stock: int


CATALOGUE = (
    Tea("assam", "Assam Breakfast", 450, 48),
    Tea("darjeeling", "Darjeeling First Flush", 1290, 12),
    Tea("earl-grey", "Earl Grey No. 7", 520, 60),
    Tea("genmaicha", "Genmaicha", 680, 30),
    Tea("rooibos", "Rooibos Sunset", 390, 75),
)
TEAS = {tea.sku: tea for tea in CATALOGUE}


class Stock:
    """Counts in Redis. Connects at the first use, and again after a lost connection.

    Args:
        client: Where the counts are; closed by the caller.
    """

    def __init__(self, client: "redis.Redis") -> None:
        self._redis = client

    async def check(self) -> None:
        """Returns when Redis answers, else raises RedisError."""
        await self._redis.get("visits")

    async def levels(self) -> tuple[dict[str, int], int]:
        """Reads how many tins of each tea are left, and counts the visit.

        Returns:
            Tins by sku, and how often anybody asked.
        """
        async with self._redis.pipeline(transaction=False) as commands:
            for tea in CATALOGUE:
                commands.set(f"stock:{tea.sku}", tea.stock, nx=True)
            commands.mget([f"stock:{tea.sku}" for tea in CATALOGUE])
            commands.incr("visits")
            *_, counts, visits = await commands.execute()
        return {tea.sku: int(count) for tea, count in zip(CATALOGUE, counts, strict=True)}, int(visits)

    async def take(self, tea: Tea, quantity: int) -> int:
        """Takes tins out of the stock.

        Returns:
            How many are left.

        Raises:
            RefusedError: There are not enough.
        """
        key = f"stock:{tea.sku}"
        await self._redis.set(key, tea.stock, nx=True)
        left = int(await self._redis.decrby(key, quantity))
        if left < 0:
            left = int(await self._redis.incrby(key, quantity))
            raise RefusedError(f"only {left} of {tea.name} left, {quantity} wanted", status=409)
        return left


def build(place: Place, environ: Mapping[str, str]) -> web.Application:
    """The inventory service. Environment: ``REDIS_HOST``, default ``redis``."""
    # The name is not REDIS_PORT or the like: Kubernetes sets those itself, to URLs.
    client = redis.Redis(
        host=environ.get("REDIS_HOST", "redis"), socket_connect_timeout=2.0, socket_timeout=2.0, decode_responses=True
    )
    stock = Stock(client)
    warehouse = environ.get("WAREHOUSE", "a drawer")

    async def list_stock(request: web.Request) -> web.Response:
        try:
            levels, visits = await stock.levels()
        except RedisError as error:
            raise UnavailableError(f"Redis: {error}") from error
        teas = [
            {"sku": t.sku, "name": t.name, "price": t.price, "full": t.stock, "left": levels[t.sku]} for t in CATALOGUE
        ]
        who = asdict(place) | {"peer": request.remote}
        return web.json_response({"answered_by": who, "warehouse": warehouse, "visits": visits, "teas": teas})

    async def reserve(request: web.Request) -> web.Response:
        body = await json_body(request)
        sku, quantity = body.get("sku"), body.get("quantity")
        tea = TEAS.get(sku) if isinstance(sku, str) else None
        if tea is None:
            raise RefusedError(f"no tea is called {sku!r}; there are {', '.join(TEAS)}", status=404)
        if type(quantity) is not int or quantity < 1:
            raise RefusedError(f"quantity must be a number from 1 on, not {quantity!r}")
        try:
            left = await stock.take(tea, quantity)
        except RedisError as error:
            raise UnavailableError(f"Redis: {error}") from error
        who = asdict(place) | {"peer": request.remote}
        return web.json_response({"answered_by": who, "sku": tea.sku, "left": left})

    async def close(_: web.Application) -> AsyncIterator[None]:
        yield
        await client.aclose()

    app = application(place, [web.get("/stock", list_stock), web.post("/reserve", reserve)], stock.check)
    app.cleanup_ctx.append(close)
    return app
