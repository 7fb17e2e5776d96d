"""web: the shop's page and its JSON API, put together from what orders and inventory answer."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2
from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web

from .identity import Place
from .service import application, json_body, reason


class Backends:
    """The two services behind the page. Use as `async with`.

    Args:
        environ: ``ORDERS_URL`` and ``INVENTORY_URL``; the defaults are the services' names.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._urls = {
            "orders": environ.get("ORDERS_URL", "http://orders"),
            "inventory": environ.get("INVENTORY_URL", "http://inventory"),
        }

    async def __aenter__(self) -> "Backends":
        # A new connection per call: a kept one would go on to whoever answered before.
        self._http = ClientSession(connector=TCPConnector(force_close=True), timeout=ClientTimeout(total=6.0))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    async def ask(self, service: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
        """Calls a service: POST with a body, else GET.

        Returns:
            HTTP status and the JSON object; 502 and ``{"error": ...}`` when there is no usable answer.
        """
        url = self._urls[service] + path
        try:
            async with self._http.request("GET" if body is None else "POST", url, json=body) as response:
                reply = await response.json()
                return response.status, reply
        except (ClientError, TimeoutError, ValueError) as error:
            return 502, {"error": f"{url}: {reason(error)}"}

    async def overview(self) -> dict[str, Any]:
        """Everything that the page shows, by service; a service that fails has an ``error``."""
        (_, orders), (_, settings), (_, inventory) = await asyncio.gather(
            self.ask("orders", "/orders"), self.ask("orders", "/settings"), self.ask("inventory", "/stock")
        )
        return {"orders": orders, "settings": settings, "inventory": inventory}


def euros(cents: int) -> str:
    """Writes a price: 1290 is ``12.90``."""
    return f"{cents // 100}.{cents % 100:02d}"


def build(place: Place, environ: Mapping[str, str]) -> web.Application:
    """The web service; its environment is described at `Backends`."""
    backends = Backends(environ)
    folder = Path(__file__).with_name("templates")
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters["euros"] = euros

    async def see(request: web.Request) -> dict[str, Any]:
        return {"web": {"answered_by": asdict(place) | {"peer": request.remote}}} | await backends.overview()

    def render(template: str, values: Mapping[str, Any]) -> web.Response:
        text = templates.get_template(template).render(values)
        return web.Response(text=text, content_type="text/html", headers={"Cache-Control": "no-store"})

    async def page(request: web.Request) -> web.Response:
        return render("page.html", await see(request) | {"problem": request.query.get("problem")})

    async def live(request: web.Request) -> web.Response:
        return render("live.html", await see(request))

    async def overview(request: web.Request) -> web.Response:
        return web.json_response(await see(request))

    async def list_orders(_: web.Request) -> web.Response:
        status, reply = await backends.ask("orders", "/orders")
        return web.json_response(reply, status=status)

    async def post_order(request: web.Request) -> web.Response:
        status, reply = await backends.ask("orders", "/orders", await json_body(request))
        return web.json_response(reply, status=status)

    async def order_form(request: web.Request) -> web.Response:
        form = await request.post()
        quantity = str(form.get("quantity", ""))
        body = {
            "customer": str(form.get("customer", "")),
            "sku": str(form.get("sku", "")),
            "quantity": int(quantity) if quantity.isdecimal() and len(quantity) < 5 else None,
        }
        status, reply = await backends.ask("orders", "/orders", body)
        target = request.url.with_path("/").with_query({} if status == 201 else {"problem": reply["error"]})
        raise web.HTTPSeeOther(target.relative())

    async def run(_: web.Application) -> AsyncIterator[None]:
        async with backends:
            yield

    routes = [
        web.get("/", page),
        web.get("/live", live),
        web.post("/order", order_form),
        web.get("/api/overview", overview),
        web.get("/api/orders", list_orders),
        web.post("/api/orders", post_order),
    ]
    app = application(place, routes)
    app.cleanup_ctx.append(run)
    return app
