"""Entry point: `python3 -m tpd_cluster.manager`."""

from __future__ import annotations

import logging
import os
import sys

from tpd_cluster.manager.app import run
from tpd_cluster.manager.settings import Settings
from tpd_core.aio.loop import run as run_loop
from tpd_core.errors import TpdError
from tpd_core.kube import InCluster
from tpd_core.obs.log import setup


def main() -> int:
    """Run one replica; the exit status."""
    setup(os.environ.get("TPD_LOG", "info"))
    try:
        run_loop(run(Settings.load(os.environ), InCluster(os.environ)))
    except TpdError as error:
        logging.getLogger("tpd_cluster.manager").critical("%s", error)
        return error.category.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
