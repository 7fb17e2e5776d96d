"""`python3 -m tpd.daemon [bridge|gate|clean|hotmount ...]`."""

from __future__ import annotations

import sys


def main(arguments: list[str]) -> int:
    """The exit status. The short-lived commands load nothing that they do not need."""
    match arguments:
        case []:
            return _daemon()
        case ["bridge"]:
            from tpd.daemon import bridge

            return bridge.main()
        case ["gate"]:
            from tpd.daemon import gate

            return gate.main()
        case ["hotmount", *rest]:
            from tpd.daemon import hotmount

            return hotmount.main(rest)
        case ["clean"]:
            return _clean()
    print(__doc__, file=sys.stderr)
    return 2


def _daemon() -> int:
    import os

    # sshfs is started without anything of this process; gRPC's care for forks would only fill the log.
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    from tpd.daemon.daemon import Settings, run
    from tpd_core.aio import loop
    from tpd_core.errors import TpdError
    from tpd_core.obs import log

    try:
        settings = Settings.read(os.environ)
        log.setup(settings.log)
        return loop.run(run(settings))
    except TpdError as error:
        print(f"tpd-daemon: {error}", file=sys.stderr)
        return error.category.exit_code


def _clean() -> int:
    """Unmount what a killed daemon left in the shared volume."""
    import os

    from tpd.daemon import mountpoints

    for path in mountpoints.clean(os.environ["TPD_VOLUME_ROOT"]):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
