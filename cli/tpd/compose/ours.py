"""The services that a transformation adds: anchor, daemon and gate."""

from __future__ import annotations

from tpd.compose.model import VOLUME_ROOT, Document, Namespace, Request, labels

# Keys that describe a network endpoint or what is derived from it (/etc/hosts, /etc/resolv.conf, the host name). The
# engine refuses or ignores them on a container that joins another's namespace, so they are the anchor's.
MOVED = (
    "dns_opt",
    "dns_search",
    "domainname",
    "expose",
    "external_links",
    "extra_hosts",
    "hostname",
    "links",
    "mac_address",
    "ports",
)


def anchor_service(owner: Document, container: str, namespace: Namespace, request: Request) -> Document:
    """Take a service's network identity away from it and give it to an anchor.

    Args:
        owner: The service; changed in place.
        container: Name of its container, by which others may know it.
        namespace: The anchor's.
        request: Images and addresses.
    """
    anchor = _base(namespace, request, "anchor") | {
        "image": request.images.anchor,
        "dns": [request.dns_address],
        "read_only": True,
        "restart": "no",
    }
    owner.pop("dns", None)
    anchor |= {key: owner.pop(key) for key in MOVED if owner.get(key)}
    for key in MOVED:
        owner.pop(key, None)
    sysctls = owner.get("sysctls") or {}
    moved = {key: value for key, value in sysctls.items() if key.startswith("net.")}
    if moved:
        anchor["sysctls"] = moved
        owner["sysctls"] = {key: value for key, value in sysctls.items() if key not in moved}
        if not owner["sysctls"]:
            del owner["sysctls"]
    if "links" in anchor:
        # The anchor's links are found only if their services run first, under the owner's profiles.
        anchor |= {key: owner[key] for key in ("profiles",) if owner.get(key)}
    mode = owner.pop("network_mode", None)
    networks = owner.pop("networks", None)
    if mode:
        anchor["network_mode"] = mode
    else:
        anchor["networks"] = {
            name: _with_aliases(network or {}, (namespace.owner, container))
            for name, network in (networks or {"default": {}}).items()
        }
    return anchor


def daemon_service(namespace: Namespace, request: Request, anchor: Document) -> Document:
    """The daemon: named capabilities only, in the anchor's namespace, with no way to the engine."""
    daemon = _joined(namespace, request, "daemon", anchor) | {
        "cap_add": ["NET_ADMIN"],
        "environment": {"TPD_DNS_ADDRESS": request.dns_address, "TPD_LOG": request.log_level},
        "restart": "on-failure",
    }
    daemon["depends_on"] = {namespace.anchor: {"condition": "service_started", "restart": True}}
    if request.volumes is not None:
        daemon["cap_add"] = ["NET_ADMIN", "SYS_ADMIN"]
        daemon["devices"] = ["/dev/fuse:/dev/fuse:rwm"]
        daemon["environment"]["TPD_VOLUME_ROOT"] = VOLUME_ROOT
        if request.volumes.mountpoint is None:
            daemon["tmpfs"] = [*daemon["tmpfs"], VOLUME_ROOT]
        else:
            daemon["volumes"] = [
                {
                    "type": "bind",
                    "source": escape(request.volumes.mountpoint),
                    "target": VOLUME_ROOT,
                    # Mounts made by the daemon have to come out again, on the engine's side.
                    "bind": {"create_host_path": False, "propagation": "rshared"},
                }
            ]
        if request.volumes.apparmor:
            daemon["security_opt"] = ["apparmor:unconfined"]
    return daemon


def gate_service(namespace: Namespace, request: Request, anchor: Document) -> Document:
    """A one-shot container that ends with 0 once the daemon is ready: the app waits for it."""
    gate = _joined(namespace, request, "gate", anchor) | {"command": ["gate"], "restart": "no"}
    gate["depends_on"] = {
        namespace.anchor: {"condition": "service_started", "restart": True},
        namespace.daemon: {"condition": "service_started"},
    }
    return gate


def escape(value: str) -> str:
    """A value that compose's interpolation gives back as it is."""
    return value.replace("$", "$$")


def _base(namespace: Namespace, request: Request, role: str) -> Document:
    service: Document = {
        "attach": False,
        "cap_drop": ["ALL"],
        "labels": labels(role, namespace.session, request.session),
    }
    if request.images.pull_policy is not None:
        service["pull_policy"] = request.images.pull_policy
    return service


def _joined(namespace: Namespace, request: Request, role: str, anchor: Document) -> Document:
    service = _base(namespace, request, role) | {
        "image": request.images.daemon,
        "network_mode": f"service:{namespace.anchor}",
        "read_only": True,
        "tmpfs": ["/run"],
    }
    if "profiles" in anchor:
        service["profiles"] = anchor["profiles"]
    return service


def _with_aliases(network: Document, names: tuple[str, ...]) -> Document:
    aliases = list(network.get("aliases") or [])
    aliases += [name for name in names if name not in aliases]
    return network | {"aliases": aliases}
