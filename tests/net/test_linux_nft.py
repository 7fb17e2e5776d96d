"""Tables that belong to the process: who may touch them, and when they go."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.net.linux_namespaces import Namespace
from tpd_core.linux.nft import NftError, OwnedTable

pytestmark = pytest.mark.net

BODY = """
    set ports { type inet_service; }
    chain pre { type filter hook prerouting priority mangle; policy accept;
        iifname != "lo" meta l4proto tcp tcp dport @ports tproxy ip to 127.0.0.1:15001 accept; }
"""


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    space = Namespace("nft")
    with space.entered():
        yield space
    space.delete()


def test_lives_and_goes(namespace: Namespace) -> None:
    with OwnedTable("tpd_t", BODY) as table:
        assert "tproxy ip to 127.0.0.1:15001" in namespace.run("nft", "list", "table", "inet", "tpd_t")
        table.update("add element inet tpd_t ports { 80 }")
        assert "elements = { 80 }" in namespace.run("nft", "list", "table", "inet", "tpd_t")
    assert namespace.run("nft", "list", "tables") == ""
    assert table.closed
    table.close()
    with pytest.raises(NftError, match="tpd_t is closed"):
        table.update("flush chain inet tpd_t pre")


def test_others_cannot_touch_it(namespace: Namespace) -> None:
    with OwnedTable("tpd_t", BODY):
        namespace.run("nft", "flush", "ruleset")
        assert "tpd_t" in namespace.run("nft", "list", "tables")
        with pytest.raises(AssertionError, match="Operation not permitted"):
            namespace.run("nft", "delete", "table", "inet", "tpd_t")


def test_a_second_owner_is_refused(namespace: Namespace) -> None:
    with OwnedTable("tpd_t", BODY), pytest.raises(NftError, match="not permitted"):
        OwnedTable("tpd_t", BODY)
    assert namespace.run("nft", "list", "tables") == ""


def test_a_wrong_body_leaves_nothing_and_says_why(namespace: Namespace) -> None:
    with pytest.raises(NftError, match="syntax error"):
        OwnedTable("tpd_t", "chain pre { bogus }")
    assert namespace.run("nft", "list", "tables") == ""


def test_an_update_is_all_or_nothing(namespace: Namespace) -> None:
    with OwnedTable("tpd_t", BODY) as table:
        with pytest.raises(NftError, match="No such file or directory"):
            table.update("add element inet tpd_t ports { 81 }\nadd rule inet tpd_t nothing accept")
        assert "81" not in namespace.run("nft", "list", "table", "inet", "tpd_t")


def test_sigkill_takes_the_table_along(namespace: Namespace) -> None:
    code = (
        "import sys\nfrom tpd_core.linux.nft import OwnedTable\n"
        f"table = OwnedTable('tpd_t', {BODY!r})\nprint('up', flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        assert "tpd_t" in namespace.run("nft", "list", "tables")
        child.send_signal(signal.SIGKILL)
        child.wait(10)
    assert namespace.run("nft", "list", "tables") == ""
