"""`python3 -m tpd_cluster.agent`: serve; `... peek`: look at the app's process once."""

from __future__ import annotations

import sys


def main(arguments: list[str]) -> int:
    """Exit status: 0 for an orderly end, 1 when the agent could not start its work, 2 for wrong arguments."""
    if arguments == ["peek"]:
        from tpd_cluster.agent import peek

        return peek.main()
    if arguments:
        print(f"unknown arguments {arguments}: none, or `peek`", file=sys.stderr)
        return 2
    return _serve()


def _serve() -> int:
    import logging
    import os

    from tpd_cluster.agent.agent import Agent
    from tpd_cluster.agent.identity import make_identity
    from tpd_cluster.agent.settings import Settings
    from tpd_core.aio.loop import run
    from tpd_core.errors import TpdError
    from tpd_core.obs.log import setup

    setup(os.environ.get("TPD_LOG") or "info")

    async def serve() -> None:
        settings = Settings.from_environment(os.environ)
        await Agent(settings, make_identity(settings.pod_uid), dict(os.environ)).run()

    try:
        run(serve())
    except TpdError as error:
        logging.getLogger("tpd_cluster.agent").error("%s", error.message, extra={"hint": error.hint})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
