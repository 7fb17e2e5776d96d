"""Who holds which port."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpd_cluster.agent.ports import Holder, PortTable, PortTaken

ANN, BOB = Holder("a", "ann", "ann-1"), Holder("b", "bob", "bob-1")


def test_one_holder_per_port() -> None:
    table = PortTable()
    assert table.claim(ANN, {80, 81}) == {80, 81}
    assert table.claim(ANN, {81, 82}) == {82}
    with pytest.raises(PortTaken, match=r"port 81 .* by ann \(session ann-1\)"):
        table.claim(BOB, {79, 81})
    assert table.choose(79) is None, "all or nothing"
    assert table.choose(81) == ANN
    assert table.release("b") == frozenset()
    assert table.release("a") == {80, 81, 82}
    assert table.choose(81) is None
    assert table.claim(BOB, {81}) == {81}


_ports = st.frozensets(st.integers(1, 6), max_size=4)
_steps = st.lists(st.tuples(st.sampled_from([ANN, BOB]), st.one_of(st.none(), _ports)), max_size=20)


@given(_steps)
def test_no_port_is_lost_or_shared(steps: list[tuple[Holder, frozenset[int] | None]]) -> None:
    table, held = PortTable(), dict[int, Holder]()
    for holder, ports in steps:
        if ports is None:
            freed = {port for port, other in held.items() if other == holder}
            assert table.release(holder.attachment) == freed
            held = {port: other for port, other in held.items() if other != holder}
        else:
            if any(held.get(port, holder) != holder for port in ports):
                with pytest.raises(PortTaken):
                    table.claim(holder, ports)
            else:
                table.claim(holder, ports)
                held |= dict.fromkeys(ports, holder)
        assert table.ports == held.keys()
        assert {port: table.choose(port) for port in range(1, 7)} == {port: held.get(port) for port in range(1, 7)}
