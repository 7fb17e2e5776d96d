"""Command line of the lab; see README.md in this directory."""

import argparse
import json
import sys

from tests.lab import commands
from tests.lab.progress import Progress
from tests.lab.shell import LabError
from tests.lab.spec import Layout


def main() -> int:
    """Run one command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.lab", description="Engine and cluster for tests and the demo."
    )
    sub = parser.add_subparsers(dest="command", required=True)
    up = sub.add_parser("up", help="install, build and start whatever is missing")
    up.add_argument("--rootless", action="store_true", help="also a rootless engine for an ordinary user")
    sub.add_parser("down", help="stop cluster and engine")
    sub.add_parser("reset", help="a clean cluster; caches stay")
    sub.add_parser("purge", help="remove everything, as if it had never been installed")
    sub.add_parser("status", help="what runs; exit status 1 if something does not")
    build = sub.add_parser("images", help="build the project's images that changed and load them")
    build.add_argument("name", nargs="*", help="image such as agent, or a group: product, shop")
    sub.add_parser("tools", help="install the programs that the namespace tests run on the host")
    env = sub.add_parser("env", help="shell commands that make docker, kubectl and helm use the lab")
    env.add_argument("--json", action="store_true", help="all facts as JSON")
    user = sub.add_parser("user", help="run a command as the rootless engine's user, with the project installed")
    user.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")
    arguments = parser.parse_args()

    layout, progress = Layout.default(), Progress()
    try:
        match arguments.command:
            case "up":
                commands.up(layout, progress, with_rootless=arguments.rootless)
            case "down":
                commands.down(layout, progress)
            case "reset":
                commands.reset(layout, progress)
            case "purge":
                commands.purge(layout, progress)
            case "status":
                return 0 if commands.show_status(layout, progress) else 1
            case "images":
                commands.build_and_load(layout, progress, arguments.name)
            case "tools":
                commands.tools(layout)
            case "user":
                commands.as_user(layout, [word for word in arguments.words if word != "--"] or ["bash"])
            case "env":
                value = commands.environment(layout)
                print(json.dumps(value, indent=2) if arguments.json else commands.shell_exports(value))
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        if error.hint:
            print(f"     {error.hint}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
