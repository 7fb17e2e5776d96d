"""The SFTP session that outlives its servers, as a conversation."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpd.daemon.sftp import ProtocolError, SftpSession

INIT, VERSION, OPEN, CLOSE, READ, OPENDIR, READDIR, REMOVE = 1, 2, 3, 4, 5, 11, 12, 13
STATUS, HANDLE, DATA = 101, 102, 103
OK, NO_SUCH_FILE, FAILURE, NO_CONNECTION = 0, 2, 4, 6
READ_FLAG, WRITE_FLAG, CREATE, TRUNCATE = 1, 2, 8, 16


def text(value: bytes) -> bytes:
    return struct.pack("!I", len(value)) + value


def packet(kind: int, *fields: bytes | int) -> bytes:
    body = bytes([kind]) + b"".join(struct.pack("!I", one) if isinstance(one, int) else text(one) for one in fields)
    return text(body)


def status(number: int, code: int) -> bytes:
    return packet(STATUS, number, code, b"", b"")


class Talk:
    """A session, a client that sends and a server that answers, both by the test's words."""

    def __init__(self) -> None:
        self.session = SftpSession()
        self.session.attach()
        self.client(packet(INIT, 3))
        assert self.asked() == packet(INIT, 3)
        self.server(packet(VERSION, 3))
        assert self.told() == packet(VERSION, 3)

    def client(self, data: bytes) -> None:
        self.session.client_data(data)

    def server(self, data: bytes) -> None:
        self.session.server_data(data)

    def asked(self) -> bytes:
        data, self.session.to_server = bytes(self.session.to_server), bytearray()
        return data

    def told(self) -> bytes:
        data, self.session.to_client = bytes(self.session.to_client), bytearray()
        return data

    def open(self, number: int, path: bytes, flags: int, handle: bytes) -> bytes:
        """Open a file; the client's handle."""
        self.client(packet(OPEN, number, path, flags, 0))
        assert self.asked() == packet(OPEN, number, path, flags, 0)
        self.server(packet(HANDLE, number, handle))
        answer = self.told()
        return answer[13:]

    def replace_server(self) -> None:
        """Lose the server and greet another."""
        self.session.detach()
        self.session.attach()
        assert self.asked() == packet(INIT, 3)
        self.server(packet(VERSION, 3))


def test_handles_are_translated() -> None:
    talk = Talk()
    ours = talk.open(1, b"a", READ_FLAG, b"server-1")
    talk.client(packet(READ, 2, ours, 0, 0, 100))
    assert talk.asked() == packet(READ, 2, b"server-1", 0, 0, 100)
    talk.server(packet(DATA, 2, b"content"))
    assert talk.told() == packet(DATA, 2, b"content")
    talk.client(packet(CLOSE, 3, ours))
    assert talk.asked() == packet(CLOSE, 3, b"server-1")
    talk.server(status(3, OK))
    assert talk.told() == status(3, OK)
    assert talk.session.pending == 0


def test_open_files_and_open_questions_survive_the_server() -> None:
    talk = Talk()
    ours = talk.open(1, b"log", WRITE_FLAG | CREATE | TRUNCATE, b"old")
    talk.client(packet(READ, 2, ours, 0, 0, 100))
    talk.asked()
    talk.replace_server()
    assert talk.told() == b""
    assert talk.asked() == packet(OPEN, 0, b"log", WRITE_FLAG, 0)
    talk.server(packet(HANDLE, 0, b"new"))
    assert talk.asked() == packet(READ, 2, b"new", 0, 0, 100)
    talk.server(packet(DATA, 2, b"content"))
    assert talk.told() == packet(DATA, 2, b"content")


def test_questions_wait_while_there_is_no_server() -> None:
    talk = Talk()
    talk.session.detach()
    talk.client(packet(REMOVE, 5, b"x"))
    assert (talk.asked(), talk.told()) == (b"", b"")
    talk.session.attach()
    assert talk.asked() == packet(INIT, 3)
    talk.server(packet(VERSION, 3))
    assert talk.asked() == packet(REMOVE, 5, b"x")


@pytest.mark.parametrize(("before", "after"), [(True, OK), (False, NO_SUCH_FILE)])
def test_a_removal_asked_twice_is_done(before: bool, after: int) -> None:
    talk = Talk()
    if not before:
        talk.session.detach()
    talk.client(packet(REMOVE, 5, b"x"))
    if before:
        talk.replace_server()
    else:
        talk.session.attach()
        talk.server(packet(VERSION, 3))
    talk.server(status(5, NO_SUCH_FILE))
    assert talk.told() == status(5, after)


def test_a_file_that_is_gone_fails_alone() -> None:
    talk = Talk()
    gone = talk.open(1, b"gone", READ_FLAG, b"h1")
    kept = talk.open(2, b"kept", READ_FLAG, b"h2")
    talk.replace_server()
    talk.asked()
    talk.server(status(0, NO_SUCH_FILE))
    talk.server(packet(HANDLE, 1, b"h3"))
    talk.client(packet(READ, 7, gone, 0, 0, 1))
    assert talk.told() == status(7, FAILURE)
    talk.client(packet(READ, 8, kept, 0, 0, 1))
    assert talk.asked() == packet(READ, 8, b"h3", 0, 0, 1)
    talk.client(packet(CLOSE, 9, gone))
    assert talk.told() == status(9, OK)


def test_a_listing_that_was_cut_fails() -> None:
    talk = Talk()
    talk.client(packet(OPENDIR, 1, b"."))
    talk.asked()
    talk.server(packet(HANDLE, 1, b"d"))
    ours = talk.told()[13:]
    talk.client(packet(READDIR, 2, ours))
    talk.replace_server()
    assert talk.told() == status(2, FAILURE)


def test_patience_ends_and_comes_back() -> None:
    talk = Talk()
    talk.session.detach()
    talk.client(packet(REMOVE, 5, b"x"))
    talk.session.give_up()
    assert talk.told() == status(5, NO_CONNECTION)
    talk.client(packet(REMOVE, 6, b"x"))
    assert talk.told() == status(6, NO_CONNECTION)
    talk.session.attach()
    talk.server(packet(VERSION, 3))
    talk.asked()
    talk.client(packet(REMOVE, 7, b"x"))
    assert talk.asked() == packet(REMOVE, 7, b"x")


@given(st.lists(st.binary(max_size=60), max_size=8), st.booleans())
def test_any_bytes_are_sftp_or_the_protocol_error(pieces: list[bytes], from_server: bool) -> None:
    session = SftpSession()
    session.attach()
    feed = session.server_data if from_server else session.client_data
    try:
        for piece in pieces:
            feed(piece)
    except ProtocolError:
        pass


@given(st.lists(st.sampled_from(["read", "open", "close", "lose"]), max_size=30), st.integers(1, 7))
def test_every_question_gets_one_answer_whatever_is_lost(steps: list[str], size: int) -> None:
    """A server that answers everything, lost at any moment, with its bytes in any pieces."""
    talk = Talk()
    asked: list[int] = []
    answered: list[int] = []
    handles: list[bytes] = []
    opened = 0

    def serve() -> None:
        nonlocal opened
        while requests := talk.asked():
            for body in split(requests):
                number = int.from_bytes(body[1:5], "big")
                if body[0] == INIT:
                    reply = packet(VERSION, 3)
                elif body[0] == OPEN:
                    opened += 1
                    reply = packet(HANDLE, number, b"h%d" % opened)
                else:
                    reply = status(number, OK)
                for at in range(0, len(reply), size):
                    talk.server(reply[at : at + size])
        for body in split(talk.told()):
            if body[0] != VERSION:
                answered.append(int.from_bytes(body[1:5], "big"))
                if body[0] == HANDLE:
                    handles.append(body[9:])

    for number, step in enumerate(steps, start=1):
        if step == "lose":
            talk.session.detach()
            talk.session.attach()
            continue
        asked.append(number)
        if step == "open":
            talk.client(packet(OPEN, number, b"f", READ_FLAG, 0))
        elif step == "close" and handles:
            talk.client(packet(CLOSE, number, handles.pop()))
        else:
            talk.client(packet(READ, number, handles[-1] if handles else b"????", 0, 0, 1))
        if number % 3:
            serve()
    serve()
    assert sorted(answered) == asked
    assert talk.session.pending == 0


def split(data: bytes) -> list[bytes]:
    result = []
    while data:
        end = 4 + int.from_bytes(data[:4], "big")
        result.append(data[4:end])
        data = data[end:]
    return result
