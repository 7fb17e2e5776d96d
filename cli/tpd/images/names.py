"""What tpd's images are called."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tpd.version import client_version

ALL: Final = ("manager", "agent", "daemon", "anchor")
CLUSTER: Final = ("manager", "agent")


@dataclass(frozen=True, slots=True)
class ImageNames:
    """Registry prefix and tag of the images.

    Attributes:
        registry: A prefix such as "registry.example.com/tools"; empty for none.
        tag: The tag, usually tpd's version.
    """

    registry: str
    tag: str

    def full(self, part: str) -> str:
        """The image of one part ("daemon"), as in "registry.example.com/tools/tpd-daemon:0.1.0"."""
        prefix = f"{self.registry.rstrip('/')}/" if self.registry else ""
        return f"{prefix}tpd-{part}:{self.tag}"


def image_names(registry: str | None, tag: str | None) -> ImageNames:
    """Names with the defaults filled in."""
    return ImageNames(registry or "", tag or client_version())
