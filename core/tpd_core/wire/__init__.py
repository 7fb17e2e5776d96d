"""The link's wire protocol, sans-IO: bytes in, events out. Described in docs/protocol.md."""
