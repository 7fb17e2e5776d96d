"""Names that chart and CLI agree upon."""

from __future__ import annotations

from typing import Final

MANAGER_NAMESPACE: Final = "tpd"
MANAGER: Final = "tpd-manager"
LINK_ACCOUNT: Final = "tpd-link"
AGENTS: Final = "tpd-agents"
RELEASE: Final = "tpd"
