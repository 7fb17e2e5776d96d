"""What the command line of a run says."""

from __future__ import annotations

from dataclasses import dataclass

from tpd.compose.model import Images
from tpd.images.names import image_names


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """Which cluster, as whom."""

    kubeconfig: str | None
    context: str | None
    manager_namespace: str
    namespace: str | None


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """Where the laptop's images come from; `pull_policy` is compose's word."""

    registry: str | None
    tag: str | None
    pull_policy: str | None = None

    @property
    def images(self) -> Images:
        """The anchor's and the daemon's image."""
        names = image_names(self.registry, self.tag)
        return Images(names.full("anchor"), names.full("daemon"), self.pull_policy)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """One `tpd run`.

    Attributes:
        intercepts: The `--intercept` values.
        remote: Compose services to leave to the cluster; "all" for every one that is not needed here.
        mount: Whether the workload's volumes are wanted.
        transports: Kinds of transport (`control_pb2.TransportKind`) to use; empty for the usual.
        container: The pod's container; None finds it by the port.
        argv: The user's command.
    """

    cluster: ClusterOptions
    images: ImageOptions
    intercepts: tuple[str, ...]
    remote: tuple[str, ...]
    mount: bool
    transports: tuple[int, ...]
    container: str | None
    argv: tuple[str, ...]
