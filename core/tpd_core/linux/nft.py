"""Tables of the packet filter that live no longer than this process.

A table with `flags owner` belongs to the netlink socket that made it. Other programs can neither change nor flush it,
and the kernel removes it when the socket is closed, however the process ends, SIGKILL included (kernel 5.12 or newer).
The socket is libnftables' own, inside this process: no helper process exists that could die alone and take the rules
with it unseen, and a change takes about a millisecond.
"""

from __future__ import annotations

import ctypes
import functools
from types import TracebackType
from typing import Self

from tpd_core.errors import ClusterError

_LIBRARY = "libnftables.so.1"


class NftError(ClusterError):
    """The kernel or nft's parser refused; the message holds nft's own words."""


class OwnedTable:
    """A table of the `inet` family in the network namespace of the calling thread; a context manager.

    Args:
        name: The table's name; it must not exist yet.
        body: What stands between the table's braces: sets and chains, in nft's language.

    Raises:
        NftError: No library, no right (CAP_NET_ADMIN), a table of that name, or a body that is wrong.

    The calls are synchronous: they never wait for anything but the kernel. A child process that inherits descriptors
    would keep the table alive; `subprocess` closes them unless told otherwise.
    """

    def __init__(self, name: str, body: str) -> None:
        self.name = name
        self._context: int | None = _library().nft_ctx_new(0)
        if not self._context:
            raise NftError("libnftables could not open its netlink socket")
        _library().nft_ctx_buffer_error(self._context)
        _library().nft_ctx_buffer_output(self._context)
        try:
            # `create` and not `add`: another owner's table of the same name must be an error.
            self.update(f"create table inet {name} {{ flags owner; }}")
            self.update(f"table inet {name} {{\nflags owner\n{body}\n}}")
        except BaseException:
            self.close()
            raise

    def update(self, commands: str) -> None:
        """Run more nft commands as one transaction: all of them take effect, or none.

        Args:
            commands: One command a line. Commands name the table in full: `add element inet NAME set { 1 }`.

        Raises:
            NftError: The commands were refused; nothing has changed.
        """
        if self._context is None:
            raise NftError(f"table {self.name} is closed")
        if _library().nft_run_cmd_from_buffer(self._context, commands.encode()):
            words = _library().nft_ctx_get_error_buffer(self._context) or b""
            raise NftError(f"nft refused a change of table {self.name}: {words.decode(errors='replace').strip()}")

    @property
    def closed(self) -> bool:
        """The table is gone."""
        return self._context is None

    def close(self) -> None:
        """Remove the table by closing its socket; it is gone on return. Closing twice is fine."""
        context, self._context = self._context, None
        if context is not None:
            _library().nft_ctx_free(context)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise NftError(f"{_LIBRARY} cannot be loaded: {error}", hint="install the package libnftables1") from error
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_new.restype = ctypes.c_void_p
    for name in ("nft_ctx_buffer_error", "nft_ctx_buffer_output", "nft_ctx_free", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return library
