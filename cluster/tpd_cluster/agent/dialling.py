"""Connections that the laptop opens from inside the pod."""

from __future__ import annotations

import errno
import ipaddress
from typing import TYPE_CHECKING, Final

from tpd_core.aio.errors import LinkClosed, StreamReset
from tpd_core.linux.sockets import connect_from
from tpd_core.wire.frames import RejectCode

if TYPE_CHECKING:
    from tpd_core.aio.stream import Incoming
    from tpd_core.proto.link_pb2 import Dial

_TIMEOUT: Final = 10.0  # seconds to connect
_CODES: Final = {
    errno.ECONNREFUSED: RejectCode.REFUSED,
    errno.ETIMEDOUT: RejectCode.TIMEOUT,
    errno.EACCES: RejectCode.DENIED,
    errno.EPERM: RejectCode.DENIED,
}


async def serve_dial(incoming: Incoming, dial: Dial) -> None:
    """Connect and carry bytes until both ends have finished; the stream is accepted once the connection stands.

    The pod's own loopback is refused: nothing on the laptop can mean it.
    """
    try:
        address = ipaddress.ip_address(dial.host)
    except ValueError:
        incoming.reject(RejectCode.UNSUPPORTED, f"{dial.host!r} is not an IP address")
        return
    if address.is_loopback or address.is_unspecified or not 0 < dial.port < 65536:
        incoming.reject(RejectCode.DENIED, f"{dial.host} port {dial.port} cannot be dialled from a pod")
        return
    try:
        sock = await connect_from(None, (str(address), dial.port), timeout=_TIMEOUT)
    except TimeoutError:
        incoming.reject(RejectCode.TIMEOUT, f"{dial.host} port {dial.port} did not answer within {_TIMEOUT:g} s")
        return
    except OSError as error:
        code = _CODES.get(error.errno or 0, RejectCode.UNREACHABLE)
        incoming.reject(code, f"{dial.host} port {dial.port}: {error.strerror or error}")
        return
    try:
        stream = incoming.accept()
    except (LinkClosed, StreamReset):
        sock.close()
        return
    await stream.splice(sock)
