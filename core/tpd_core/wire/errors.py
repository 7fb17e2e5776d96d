"""Whose fault a broken rule is, in the type."""

from __future__ import annotations


class ProtocolError(Exception):
    """A rule of the wire protocol was broken."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol: close the link, blame the peer."""


class LocalProtocolError(ProtocolError):
    """The caller asked for something that the protocol forbids: a bug on this side, or a limit reached."""
