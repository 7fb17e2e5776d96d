"""Kubernetes, CoreDNS, helm and the volume provisioner, built as Go modules and cached by version."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.lab import machine
from tests.lab.progress import Progress
from tests.lab.shell import LabError, output, run
from tests.lab.spec import COREDNS, HELM, HERE, LOCAL_PATH, Layout, kubernetes_version
from tests.lab.store import workspace

KUBERNETES_PROGRAMS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)
STRIP = "-s -w"


def ensure(layout: Layout, progress: Progress) -> None:
    """Build whatever is not in the cache yet.

    Raises:
        LabError: there is no Go toolchain and none can be installed, or a build fails.
    """
    wanted: list[tuple[str, str, Callable[[Layout, Path, Path], None]]] = [
        ("kubernetes", kubernetes_version(), _kubernetes),
        ("coredns", COREDNS, _coredns),
        ("local-path-provisioner", LOCAL_PATH, _installed(f"github.com/rancher/local-path-provisioner@{LOCAL_PATH}")),
        ("helm", HELM, _installed(f"helm.sh/helm/v3/cmd/helm@{HELM}")),
    ]
    for name, version, build in wanted:
        target = layout.program(name, version)
        if target.is_dir():
            continue
        with progress.step(f"build {name} {version}"), workspace(layout, name) as work:
            source, result = work / "src", work / "out"
            source.mkdir()
            result.mkdir()
            build(layout, source, result)
            target.parent.mkdir(parents=True, exist_ok=True)
            result.rename(target)


def go_mod_for_kubernetes(version: str, upstream: str) -> str:
    """Return a go.mod that builds k8s.io/kubernetes from published modules.

    Its own go.mod replaces the libraries it stages (`k8s.io/api` ...) by directories, which a module download
    does not have; each is published as v0.MINOR.PATCH.

    Args:
        version: such as "v1.35.4".
        upstream: the text of k8s.io/kubernetes's go.mod.
    """
    staged = sorted(set(re.findall(r"(k8s\.io/[a-z0-9-]+) => \./staging", upstream)))
    go = re.search(r"^go (\S+)", upstream, re.MULTILINE)
    if not staged or go is None:
        raise LabError(f"k8s.io/kubernetes {version} has an unexpected go.mod")
    library = "v0." + version.split(".", 1)[1]
    replace = "".join(f"\t{name} => {name} {library}\n" for name in staged)
    tools = "".join(f"\tk8s.io/kubernetes/cmd/{name}\n" for name in KUBERNETES_PROGRAMS)
    return (
        f"module lab\n\ngo {go.group(1)}\n\nrequire k8s.io/kubernetes {version}\n\n"
        f"replace (\n{replace})\n\ntool (\n{tools})\n"
    )


def _kubernetes(layout: Layout, source: Path, result: Path) -> None:
    version = kubernetes_version()
    found = json.loads(
        output(_go(layout), "mod", "download", "-json", f"k8s.io/kubernetes@{version}", env=_settings(layout))
    )
    (source / "go.mod").write_text(go_mod_for_kubernetes(version, Path(found["GoMod"]).read_text()))
    minor = version.split(".")[1]
    stamps = {
        "k8s.io/component-base/version.gitVersion": version,
        "k8s.io/client-go/pkg/version.gitVersion": version,
        "k8s.io/component-base/version.gitMajor": "1",
        "k8s.io/component-base/version.gitMinor": minor,
    }
    flags = STRIP + "".join(f" -X {name}={value}" for name, value in stamps.items())
    _build(layout, source, "mod", "tidy")
    packages = [f"k8s.io/kubernetes/cmd/{name}" for name in KUBERNETES_PROGRAMS]
    _build(layout, source, "build", "-trimpath", "-ldflags", flags, "-o", f"{result}/", *packages)


def _coredns(layout: Layout, source: Path, result: Path) -> None:
    shutil.copy(HERE / "coredns/main.go", source)
    _build(layout, source, "mod", "init", "coredns")
    _build(layout, source, "get", f"github.com/coredns/coredns@{COREDNS}")
    _build(layout, source, "build", "-trimpath", "-ldflags", STRIP, "-o", str(result / "coredns"), ".")


def _installed(package: str) -> Callable[[Layout, Path, Path], None]:
    def build(layout: Layout, source: Path, result: Path) -> None:
        environment = {"GOBIN": str(result)}
        _build(layout, source, "install", "-trimpath", "-ldflags", STRIP, package, env=environment)

    return build


def _build(layout: Layout, source: Path, *args: str, env: dict[str, str] | None = None) -> None:
    run(_go(layout), *args, cwd=source, env={**_settings(layout), **(env or {})}, log=layout.logs / "go.log")


def _settings(layout: Layout) -> dict[str, str]:
    return {
        "CGO_ENABLED": "0",
        "GOFLAGS": "-buildvcs=false",
        "GOTOOLCHAIN": "auto",
        "GOMODCACHE": str(layout.go / "mod"),
        "GOCACHE": str(layout.go / "build"),
    }


def _go(layout: Layout) -> str:
    """Return the Go command; a toolchain new enough for the modules is fetched by itself (from Go 1.21 on)."""
    usual = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/go/bin"])
    if found := shutil.which("go", path=usual):
        return found
    machine.install_newer(layout, "golang-1.24-go", "golang-1.24-src")
    if found := shutil.which("go", path="/usr/lib/go-1.24/bin"):
        return found
    raise LabError("no Go toolchain", "install Go 1.21 or newer")
