"""What orders is told by its surroundings: ConfigMap and Secret as files, and the journal on its volume."""

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .identity import Place, fingerprint, read_text

CONFIG_FOLDER = Path("/etc/shop/config")
BANNER_FILE = Path("/etc/shop/banner.txt")
KEY_FILE = Path("/etc/shop/secret/signing-key")
JOURNAL_FILE = Path("/data/journal.log")
JOURNAL_LINES = 6

BUILT_IN_KEY = "not a secret: used where no key is mounted"
ENVIRONMENT = ("CURRENCY", "DELIVERY_DAYS", "SLOGAN", "POD_NAME")


@dataclass(frozen=True, slots=True)
class Settings:
    """Reads its files at every call, so that an edited ConfigMap shows without a restart.

    Attributes:
        environ: The process's environment.
        config: Folder that holds a whole ConfigMap.
        banner: Single file out of a ConfigMap (a `subPath` mount).
        key_file: File of a Secret.
    """

    environ: Mapping[str, str]
    config: Path = CONFIG_FOLDER
    banner: Path = BANNER_FILE
    key_file: Path = KEY_FILE

    def signing_key(self) -> str:
        """The Secret's key, or the built-in one."""
        return read_text(self.key_file) or BUILT_IN_KEY

    def public(self) -> dict[str, Any]:
        """Everything that may be shown; of secrets only fingerprints."""
        delivery = read_text(self.config / "delivery.json")
        try:
            countries = [str(name) for name in json.loads(delivery)["countries"]] if delivery else []
        except (ValueError, KeyError, TypeError):
            countries = []
        password = self.environ.get("DB_PASSWORD", "")
        return {
            "greeting": read_text(self.config / "greeting.txt"),
            "delivery_countries": countries,
            "banner": read_text(self.banner),
            "environment": {name: self.environ.get(name) for name in ENVIRONMENT},
            "signing_key": {"from_file": self.key_file.is_file(), "fingerprint": fingerprint(self.signing_key())},
            "db_password": {"from_environment": bool(password), "fingerprint": fingerprint(password)},
        }


def receipt(key: str, order: int) -> str:
    """Signs an order's number: two places that know the same key print the same receipt."""
    return hmac.new(key.encode(), str(order).encode(), hashlib.sha256).hexdigest()[:10]


@dataclass(frozen=True, slots=True)
class Journal:
    """A text file that grows by one line for each event.

    Attributes:
        place: Written into every line.
        path: The file, on the workload's volume.
    """

    place: Place
    path: Path = JOURNAL_FILE

    def write(self, event: str) -> None:
        """Appends a line.

        Raises:
            OSError: The volume cannot be written.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self.path.open("a") as file:
            file.write(f"{now} {self.place.signature} {event}\n")

    def tail(self) -> list[str]:
        """The newest lines, oldest of them first; none when there is no journal."""
        return (read_text(self.path) or "").splitlines()[-JOURNAL_LINES:]
