"""The sample shop: what it reads, what it refuses, and its page when nothing behind it answers."""

from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

from compose.examples.shop.app.shop import web
from compose.examples.shop.app.shop.identity import Place, files_seen, fingerprint
from compose.examples.shop.app.shop.orders import parse_order
from compose.examples.shop.app.shop.orders_config import BUILT_IN_KEY, Journal, Settings, receipt
from compose.examples.shop.app.shop.service import RefusedError

PLACE = Place("orders", "laptop", "box", "172.18.0.2")


def settings(folder: Path, **environ: str) -> Settings:
    return Settings(environ, folder / "config", folder / "banner.txt", folder / "key")


def test_files_are_listed_as_an_application_opens_them(tmp_path: Path) -> None:
    version = tmp_path / "..2026_03_01"
    version.mkdir()
    (version / "greeting.txt").write_text("hello")
    (tmp_path / "..data").symlink_to(version.name)
    (tmp_path / "greeting.txt").symlink_to("..data/greeting.txt")
    (tmp_path / "dangling").symlink_to("nowhere")
    assert files_seen((tmp_path, tmp_path / "missing")) == {str(tmp_path / "greeting.txt"): 5}


def test_settings_follow_their_files_and_show_no_secret(tmp_path: Path) -> None:
    bare = settings(tmp_path).public()
    assert bare["greeting"] is None
    assert bare["delivery_countries"] == []
    assert bare["signing_key"] == {"from_file": False, "fingerprint": fingerprint(BUILT_IN_KEY)}

    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "delivery.json").write_text('{"countries": ["Norway"]}')
    (tmp_path / "banner.txt").write_text("spring\n")
    (tmp_path / "key").write_text("hush")
    full = settings(tmp_path, DB_PASSWORD="sesame", SLOGAN="from $4").public()
    assert full["delivery_countries"] == ["Norway"]
    assert full["banner"] == "spring"
    assert full["environment"]["SLOGAN"] == "from $4"
    assert full["signing_key"]["from_file"]
    assert full["db_password"]["from_environment"]
    assert "hush" not in str(full)
    assert "sesame" not in str(full)


@pytest.mark.parametrize("text", ["{", "[]", '{"countries": null}', "3"])
def test_a_broken_delivery_file_is_no_outage(tmp_path: Path, text: str) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "delivery.json").write_text(text)
    assert settings(tmp_path).public()["delivery_countries"] == []


def test_receipts_depend_on_key_and_order() -> None:
    assert len({receipt(key, order) for key in ("a", "b") for order in (1, 2)}) == 4
    assert receipt("a", 1) == receipt("a", 1)


def test_the_journal_names_its_writer(tmp_path: Path) -> None:
    journal = Journal(PLACE, tmp_path / "journal.log")
    assert journal.tail() == []
    for number in range(9):
        journal.write(f"event {number}")
    assert [line.split(" ", 1)[1] for line in journal.tail()] == [f"laptop/box event {n}" for n in range(3, 9)]


def test_a_good_order_is_taken_as_it_is() -> None:
    order = {"customer": " Ada ", "sku": "assam", "quantity": 20}
    assert parse_order(order) == ("Ada", "assam", 20, "")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"customer": " "}, "customer"),
        ({"customer": "x" * 61}, "customer"),
        ({"sku": 3}, "sku"),
        ({"quantity": 0}, "quantity"),
        ({"quantity": 21}, "quantity"),
        ({"quantity": True}, "quantity"),
        ({"quantity": "2"}, "quantity"),
        ({"note": 7}, "note"),
    ],
)
def test_a_bad_order_is_refused_with_the_name_of_the_field(change: dict[str, object], word: str) -> None:
    with pytest.raises(RefusedError, match=word):
        parse_order({"customer": "Ada", "sku": "assam", "quantity": 1} | change)


async def test_the_page_says_who_does_not_answer() -> None:
    # Port 1 of the loopback address refuses connections.
    nowhere = {"ORDERS_URL": "http://127.0.0.1:1", "INVENTORY_URL": "http://127.0.0.1:1"}
    async with TestClient(TestServer(web.build(Place("web", "cluster", "web-1", ""), nowhere))) as client:
        page = await client.get("/")
        text = await page.text()
        overview = await (await client.get("/api/overview")).json()
    assert page.status == 200
    assert page.headers["X-Answered-By"] == "web cluster/web-1"
    assert "no answer" in text
    assert "http://127.0.0.1:1/stock" in text
    assert "127.0.0.1:1" in overview["orders"]["error"]
    assert overview["web"]["answered_by"]["peer"] == "127.0.0.1"
