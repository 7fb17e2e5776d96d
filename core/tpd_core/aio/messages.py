"""Protobuf messages over a stream, each behind its length."""

from __future__ import annotations

from collections import deque
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from tpd_core.aio.stream import Stream
from tpd_core.wire.errors import RemoteProtocolError
from tpd_core.wire.messages import MessageDecoder, encode_message

M = TypeVar("M", bound=Message)


class MessageStream:
    """A conversation in messages; both ends know whose turn it is and of which type the next message is."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._decoder = MessageDecoder()
        self._ready: deque[bytes] = deque()

    async def send(self, message: Message) -> None:
        """Send one message; waits for credit.

        Raises:
            StreamReset: The stream was reset.
            LinkClosed: The link is gone.
            LocalProtocolError: The message is longer than `wire.messages.MAX_MESSAGE`.
        """
        await self.stream.write(encode_message(message.SerializeToString()))

    async def receive(self, cls: type[M]) -> M | None:
        """The next message, which must be a `cls`; None when the peer has sent its last.

        Raises:
            RemoteProtocolError: The bytes are no such message, or the stream ended inside one; the stream is reset.
            StreamReset: The stream was reset.
            LinkClosed: The link is gone.
        """
        try:
            while not self._ready:
                data = await self.stream.read()
                if not data:
                    if self._decoder.at_boundary():
                        return None
                    raise RemoteProtocolError("the stream ended inside a message")
                self._ready.extend(self._decoder.feed(data))
            return cls.FromString(self._ready.popleft())
        except DecodeError as error:
            self.stream.reset()
            raise RemoteProtocolError(f"not a {cls.DESCRIPTOR.full_name}: {error}") from error
        except RemoteProtocolError:
            self.stream.reset()
            raise
