"""How long answers are kept, and how replies are cut to size."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rrset
from dns.rcode import Rcode

from tpd.daemon.dns.cache import MAX_TTL, NEGATIVE_TTL, Answer, Cache
from tpd.daemon.dns.server import encode

KEY = ("orders", 1, 1)


def answer(ttl: int, *addresses: str) -> Answer:
    return Answer(Rcode.NOERROR, (dns.rrset.from_text_list("orders.", ttl, "IN", "A", addresses or ["10.96.0.1"]),))


def test_an_answer_ages_and_expires() -> None:
    cache = Cache()
    cache.put(KEY, answer(30), 100.0)
    assert cache.get(KEY, 100.0) == answer(30)
    aged = cache.get(KEY, 110.5)
    assert aged is not None
    assert aged.answer[0].ttl == 20
    assert cache.get(KEY, 130.0) is None
    assert cache.get(KEY, 100.0) is None, "an expired answer is forgotten"


def test_lifetimes_are_bounded() -> None:
    assert answer(86400).lifetime() == MAX_TTL
    assert Answer(Rcode.NXDOMAIN).lifetime() == NEGATIVE_TTL
    assert Answer(Rcode.NOERROR).lifetime() == NEGATIVE_TTL
    assert Answer(Rcode.SERVFAIL).lifetime() == 0


def test_failures_and_answers_for_once_are_not_kept() -> None:
    cache = Cache()
    cache.put(KEY, Answer(Rcode.SERVFAIL), 0.0)
    cache.put(("once", 1, 1), answer(0), 0.0)
    assert cache.get(KEY, 0.0) is None
    assert cache.get(("once", 1, 1), 0.0) is None


def test_the_least_used_goes_first() -> None:
    cache = Cache()
    for number in range(5000):
        cache.put((f"n{number}", 1, 1), answer(60), 0.0)
        cache.get(("n0", 1, 1), 0.0)
    assert cache.get(("n0", 1, 1), 0.0) is not None
    assert cache.get(("n1", 1, 1), 0.0) is None
    cache.clear()
    assert cache.get(("n0", 1, 1), 0.0) is None


def test_a_reply_that_does_not_fit_is_marked() -> None:
    query = dns.message.make_query("orders.", "A")
    large = answer(30, *(f"10.244.0.{number}" for number in range(1, 100)))
    short = dns.message.from_wire(encode(query, large, 512))
    assert short.flags & dns.flags.TC
    assert short.id == query.id
    assert not short.answer
    whole = dns.message.from_wire(encode(query, large, 65535))
    assert len(whole.answer[0]) == 99
