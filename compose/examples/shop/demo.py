"""The main job, narrated: the cluster's `orders` becomes a container of this machine, and back again.

Every command is printed as it can be typed by hand. Exit status 0 only if each step was seen to be true.

    python demo.py [--context NAME] [--keep]

Needs `docker`, `kubectl`, `helm` and `tpd` on the PATH, and a cluster with the shop of this folder in it.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
NAMESPACE = "shop"
PAGE = f"/api/v1/namespaces/{NAMESPACE}/services/web:80/proxy"
BOLD, GREEN, RED, DIM, PLAIN = (
    ("\033[1m", "\033[32m", "\033[31m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("",) * 5
)


class Untrue(Exception):
    """A step that was not seen to be true; the text says what to do about it."""


def say(text: str) -> None:
    print(f"\n{BOLD}{text}{PLAIN}", flush=True)


def seen(text: str) -> None:
    print(f"  {GREEN}✓{PLAIN} {text}", flush=True)


def show(argv: list[str]) -> None:
    print(f"  {DIM}${PLAIN} {shlex.join(argv)}", flush=True)


class Demo:
    """One run of the demo against one cluster."""

    def __init__(self, context: str | None, keep: bool) -> None:
        self.context, self.keep = context, keep
        self.kubectl = ["kubectl", *(["--context", context] if context else [])]
        self.tpd_options = ["--context", context] if context else []

    def command(self, argv: list[str], *, quiet: bool = False, needed: str = "") -> str:
        if not quiet:
            show(argv)
        done = subprocess.run(argv, cwd=HERE, text=True, capture_output=True, check=False)
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise Untrue(f"{shlex.join(argv)}: exit {done.returncode}\n{said}" + (f"\n{needed}" if needed else ""))
        return done.stdout

    def overview(self, *, quiet: bool = True) -> dict[str, Any]:
        """The shop's page as JSON, fetched through the API server: what anyone in the cluster is served."""
        return dict(json.loads(self.command([*self.kubectl, "get", "--raw", f"{PAGE}/api/overview"], quiet=quiet)))

    def check_tools(self) -> None:
        for tool, how in (
            ("docker", "install Docker and start it"),
            ("kubectl", "install kubectl"),
            ("helm", "install helm"),
            ("tpd", "install this project: make venv, then put .venv/bin on the PATH"),
        ):
            if shutil.which(tool) is None:
                raise Untrue(f"{tool} is not on the PATH: {how}")
        self.command(
            ["docker", "info", "--format", "{{.ServerVersion}}"], quiet=True, needed="Start the Docker engine."
        )
        self.command([*self.kubectl, "version"], quiet=True, needed="The cluster cannot be reached.")
        self.command(
            [
                *self.kubectl,
                "-n",
                NAMESPACE,
                "rollout",
                "status",
                "deployment/orders",
                "deployment/web",
                "--timeout=120s",
            ],
            quiet=True,
            needed=f"The shop is not in this cluster: see {HERE.name}/README.md, 'In a cluster'.",
        )

    def install(self) -> None:
        say("1. The cluster's side of tpd")
        argv = ["tpd", "helm", "upgrade", *self.tpd_options]
        print(
            self.command(argv, needed="Are tpd's images where the cluster can pull them? See `tpd images --help`."),
            end="",
        )
        seen("tpd-manager is installed")

    def before(self) -> dict[str, Any]:
        say("2. The shop as the cluster serves it")
        page = self.overview(quiet=False)
        origin = page["orders"]["answered_by"]["origin"]
        print(f"  orders: {self.answered(page)}")
        if origin != "cluster":
            raise Untrue(f"orders is answered by {origin!r}, not by the cluster: is another run active? tpd status")
        seen("the cluster's own orders answers")
        return page

    @staticmethod
    def answered(page: dict[str, Any]) -> str:
        by = page["orders"]["answered_by"]
        return f"{by['origin']}, {by.get('hostname', by.get('host', '?'))}, {by['address']}, called by {by['peer']}"

    def run(self, before: dict[str, Any]) -> None:
        say("3. The main job")
        argv = ["tpd", "run", *self.tpd_options, "--intercept", "orders", "--namespace", NAMESPACE, "--remote", "all"]
        argv += ["--", "docker", "compose", "up"]
        show(argv)
        started = time.monotonic()
        child = subprocess.Popen(argv, cwd=HERE, start_new_session=True)
        try:
            page = self.until_laptop(child, started)
            self.look(before, page)
            print()
            print(self.command([*self.kubectl, "get", "attachments", "-A"]), end="")
            if self.keep:
                say("KEEP=1: it goes on. Press Ctrl-C to end it.")
                child.wait()
        except KeyboardInterrupt:
            pass
        finally:
            self.stop(child)

    def until_laptop(self, child: subprocess.Popen[bytes], started: float) -> dict[str, Any]:
        while time.monotonic() - started < 120:
            if child.poll() is not None:
                raise Untrue(f"tpd run ended with status {child.returncode}")
            page = self.overview()
            if page["orders"].get("answered_by", {}).get("origin") == "laptop":
                took = time.monotonic() - started
                print(f"\n  orders: {self.answered(page)}")
                seen(
                    f"the same cluster URL is answered by the laptop: {took:.1f} s from Enter to the first local answer"
                )
                return page
        raise Untrue("the laptop did not answer within 120 s")

    def look(self, before: dict[str, Any], page: dict[str, Any]) -> None:
        orders, settings = page["orders"], page["settings"]
        self.require(
            any("Only in the cluster's database" in str(order.get("note")) for order in orders["orders"]),
            "it reads a row that exists only in the cluster's PostgreSQL",
        )
        self.require(
            [order.get("receipt") for order in orders["orders"]][:1]
            == [order.get("receipt") for order in before["orders"]["orders"]][:1],
            "it signs with the key of the cluster's Secret: the receipts are the same",
        )
        self.require(
            settings["signing_key"] == before["settings"]["signing_key"],
            "it reads the Secret's file on the workload's volume",
        )
        journal = settings["journal"]
        self.require(
            before["settings"]["journal"][-1] in journal
            and f"laptop/{orders['answered_by']['hostname']}" in journal[-1],
            "it reads and writes the journal on the cluster's volume (PVC)",
        )
        self.require(
            orders["inventory_as_seen_by_orders"]["origin"] == "cluster", "it calls the cluster's inventory by its name"
        )
        self.require(
            orders["answered_by"]["peer"] == page["web"]["answered_by"]["address"], "it sees its caller's own address"
        )

    @staticmethod
    def require(true: bool, text: str) -> None:
        if not true:
            raise Untrue(f"not seen: {text}")
        seen(text)

    def stop(self, child: subprocess.Popen[bytes]) -> None:
        if child.poll() is None:
            say("4. Ctrl-C")
            child.send_signal(signal.SIGINT)
            child.wait(60)

    def after(self, before: dict[str, Any]) -> None:
        page = self.overview(quiet=False)
        print(f"  orders: {self.answered(page)}")
        self.require(page["orders"]["answered_by"]["origin"] == "cluster", "the cluster's own orders answers again")
        self.require("laptop/" in page["settings"]["journal"][-1], "it finds what the laptop wrote on its volume")
        pods = json.loads(self.command([*self.kubectl, "-n", NAMESPACE, "get", "pods", "-o", "json"], quiet=True))[
            "items"
        ]
        restarts = {
            pod["metadata"]["name"]: sum(one["restartCount"] for one in pod["status"].get("containerStatuses", []))
            for pod in pods
        }
        self.require(not any(restarts.values()), "no pod was restarted")
        left = self.command(["docker", "ps", "-aq", "--filter", "label=dev.tpd"], quiet=True).split()
        self.require(not left, "nothing of tpd is left on this machine")


def attempt(step: Callable[[], None]) -> int:
    try:
        step()
    except Untrue as problem:
        print(f"\n{RED}✗{PLAIN} {problem}", file=sys.stderr)
        return 1
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", default=os.environ.get("CONTEXT") or None, help="a context of your kubeconfig")
    parser.add_argument("--keep", action="store_true", default=bool(os.environ.get("KEEP")), help="leave it running")
    options = parser.parse_args()
    demo = Demo(options.context, options.keep)

    def everything() -> None:
        demo.check_tools()
        demo.install()
        before = demo.before()
        demo.run(before)
        demo.after(before)
        say("Done. The same by hand: the commands above, in compose/examples/shop.")

    return attempt(everything)


if __name__ == "__main__":
    sys.exit(main())
