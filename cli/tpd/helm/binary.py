"""Running `helm` on the chart that comes with this distribution."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tpd_core.errors import BugError, ClusterError, ConfigError


@dataclass(frozen=True, slots=True)
class Helm:
    """The `helm` binary and the cluster it acts on.

    Attributes:
        program: Path of the binary.
        kubeconfig: As for `--kubeconfig`; None leaves it to helm.
        context: As for `--context`; None takes the current one.
        namespace: The release's namespace.
    """

    program: str
    kubeconfig: str | None
    context: str | None
    namespace: str

    def run(self, arguments: Sequence[str]) -> str:
        """Run helm and return what it wrote to stdout.

        Raises:
            ClusterError: helm failed; with its own words.
        """
        argv = [self.program, *arguments, "--namespace", self.namespace]
        if self.context:
            argv += ["--kube-context", self.context]
        environment = dict(os.environ)
        if self.kubeconfig:
            environment["KUBECONFIG"] = self.kubeconfig
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            words = done.stderr.strip().removeprefix("Error: ") or f"exit status {done.returncode}"
            raise ClusterError(f"helm {arguments[0]} failed: {words}", hint=_hint(words))
        return done.stdout


def find_helm() -> str:
    """Path of the `helm` binary: TPD_HELM, else the one on the PATH.

    Raises:
        ConfigError: There is none.
    """
    chosen = os.environ.get("TPD_HELM")
    path = shutil.which(chosen or "helm")
    if path is None:
        raise ConfigError(
            f"the helm binary {chosen or 'helm'!r} was not found",
            hint="Install Helm 3 (https://helm.sh/docs/intro/install/), or set TPD_HELM to its path.",
        )
    return path


@contextmanager
def chart() -> Iterator[Path]:
    """Directory of the chart: the one in the wheel, else the one of the checkout.

    Raises:
        BugError: This installation has none.
    """
    here = Path(__file__).resolve()
    for candidate in (here.parent / "chart", here.parents[3] / "cluster" / "chart"):
        if (candidate / "Chart.yaml").is_file():
            yield candidate
            return
    raise BugError("this installation of tpd has no chart in it")


def _hint(words: str) -> str:
    if "cannot re-use a name" in words:
        return "It is installed already: use `tpd helm upgrade`."
    if "not found" in words and "release" in words:
        return "It is not installed there; `tpd helm version` with another --manager-namespace may find it."
    if "timed out" in words or "context deadline exceeded" in words:
        return "`kubectl get pods,events` in the manager's namespace shows why the manager does not become ready."
    return ""
