"""The pure parts of the lab: what it reads out of other programs' output, and what it decides."""

import json
from pathlib import Path

import pytest

from tests.lab import account, binaries, engine, guards, images, machine, sample, spec, store, traces
from tests.lab.shell import LabError


def test_go_mod_replaces_every_staged_module_by_its_published_version() -> None:
    upstream = (
        "module k8s.io/kubernetes\n\ngo 1.25.0\n\nreplace (\n\tk8s.io/api => ./staging/src/k8s.io/api\n"
        "\tk8s.io/kubectl => ./staging/src/k8s.io/kubectl\n\tother.org/x => other.org/y v1.0.0\n)\n"
    )
    text = binaries.go_mod_for_kubernetes("v1.35.4", upstream)
    assert "go 1.25.0\n" in text
    assert "require k8s.io/kubernetes v1.35.4\n" in text
    assert "\tk8s.io/api => k8s.io/api v0.35.4\n\tk8s.io/kubectl => k8s.io/kubectl v0.35.4\n)" in text
    assert "other.org" not in text
    assert "\tk8s.io/kubernetes/cmd/kube-proxy\n" in text


def test_go_mod_of_something_else_is_refused() -> None:
    with pytest.raises(LabError, match="unexpected"):
        binaries.go_mod_for_kubernetes("v1.99.0", "module x\n\ngo 1.25\n")


def test_guard_counters_are_read_per_range() -> None:
    listing = (
        "Chain TPD-LAB (2 references)\n"
        "    pkts      bytes target     prot opt in     out     source               destination\n"
        "       3      180 REJECT     all  --  *      *       0.0.0.0/0            10.96.0.0/16         reject-with x\n"
        "      12      720 REJECT     0    --  *      *       0.0.0.0/0            10.244.0.0/16        reject-with x\n"
    )
    assert guards.parse_counters(listing, guards.RANGES) == {"10.96.0.0/16": 3, "10.244.0.0/16": 12}


def test_mirror_is_the_main_archive_that_apt_uses() -> None:
    lines = (
        "http://vendor.example/apt|stable|Vendor|main\n"
        "http://mirror.example/debian|bookworm-updates|Debian|main\n"
        "http://mirror.example/debian|bookworm|Debian|contrib\n"
        "http://mirror.example/debian|bookworm|Debian|main\n"
    )
    assert machine.mirror_of(lines) == "http://mirror.example/debian"


def test_mirror_is_an_error_off_debian() -> None:
    with pytest.raises(LabError, match="no Debian archive"):
        machine.mirror_of("http://mirror.example/ubuntu|noble|Ubuntu|main")


def test_removals_are_read_out_of_the_simulation() -> None:
    text = "Reading package lists...\nPurg mmdebstrap [1.3.5-7]\nRemv docker.io [20.10] [tini:amd64 ]\n"
    assert machine.removals(text) == {"mmdebstrap", "docker.io"}


def test_only_the_engines_rules_are_taken_out_of_the_firewall() -> None:
    saved = (
        "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\n:DOCKER-USER - [0:0]\n"
        "-A FORWARD -j DOCKER-USER\n-A FORWARD -i br-0123456789ab -j ACCEPT\n-A FORWARD -i br-lan -j ACCEPT\n"
        "-A INPUT -s 10.0.0.1/32 -j DROP\nCOMMIT\n"
    )
    assert traces.without_engine(saved) == (
        "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n"
        "-A FORWARD -i br-lan -j ACCEPT\n-A INPUT -s 10.0.0.1/32 -j DROP\nCOMMIT\n"
    )


def test_subordinate_ids_follow_those_given_away() -> None:
    assert account.free_range([]) == 100000
    assert account.free_range(["a:100000:65536", "b:300000:10", "odd line"]) == 300010


def test_engine_gets_the_wrapper_only_when_needed() -> None:
    assert "default-runtime" not in engine.configuration(None)
    with_wrapper = engine.configuration(Path("/x/runc-compat"))
    assert with_wrapper["default-runtime"] == "compat"
    assert with_wrapper["runtimes"] == {"compat": {"path": "/x/runc-compat"}}


@pytest.mark.parametrize("name", ["agent", "tpd-agent", "tpd-agent:0.1.0", "product"])
def test_image_is_found_by_every_name_for_it(name: str) -> None:
    agent = images.Image("tpd-agent:0.1.0", "product", Path("/r"), Path("/r/Dockerfile"), ())
    shop = images.Image("tpd-shop-app:1", "shop", Path("/s"), Path("/s/Dockerfile"), ())
    assert images.choose([agent, shop], [name]) == [agent]
    assert images.choose([agent, shop], []) == [agent, shop]


def test_unknown_image_is_an_error_that_lists_the_known_ones() -> None:
    agent = images.Image("tpd-agent:0.1.0", "product", Path("/r"), Path("/r/Dockerfile"), ())
    with pytest.raises(LabError, match="'agnet'") as caught:
        images.choose([agent], ["agnet"])
    assert "tpd-agent:0.1.0" in caught.value.hint


def test_image_list_ignores_comments() -> None:
    assert images.parse_list("# name folder\ntpd-shop-app:1  app # ours\n\n") == [("tpd-shop-app:1", "app")]


def test_version_comes_from_the_project() -> None:
    assert images.version('[project]\nname = "x"\nversion = "1.2.3"\n') == "1.2.3"


def _workload(**status: int) -> dict[str, object]:
    return {"metadata": {"name": "web", "generation": 2}, "spec": {"replicas": 1}, "status": status}


@pytest.mark.parametrize(
    ("status", "waits"),
    [
        ({"observedGeneration": 2, "readyReplicas": 1, "updatedReplicas": 1}, False),
        ({"observedGeneration": 1, "readyReplicas": 1, "updatedReplicas": 1}, True),
        ({"observedGeneration": 2, "readyReplicas": 1}, True),
        ({"observedGeneration": 2, "updatedReplicas": 1}, True),
        ({}, True),
    ],
)
def test_workload_is_ready_only_at_its_newest_revision(status: dict[str, int], waits: bool) -> None:
    assert sample.waiting_for({"items": [_workload(**status)]}) == (["web"] if waits else [])


def test_digest_changes_with_content_and_names_but_not_with_the_place(tmp_path: Path) -> None:
    for place in ("a", "b"):
        (tmp_path / place / "__pycache__").mkdir(parents=True)
        (tmp_path / place / "x.py").write_text("1")
    (tmp_path / "b/__pycache__/x.pyc").write_text("compiled")
    assert store.digest(tmp_path / "a") == store.digest(tmp_path / "b")
    (tmp_path / "b/x.py").rename(tmp_path / "b/y.py")
    assert store.digest(tmp_path / "a") != store.digest(tmp_path / "b")
    (tmp_path / "b/y.py").rename(tmp_path / "b/x.py")
    (tmp_path / "b/x.py").write_text("2")
    assert store.digest(tmp_path / "a") != store.digest(tmp_path / "b")


def test_memory_of_changes_adds_to_lists_and_survives_a_file_cut_short(tmp_path: Path) -> None:
    layout = spec.Layout(tmp_path)
    layout.state.write_text('{"packages": ["a"')
    store.remember(layout, packages=["b"], engine=True)
    store.remember(layout, packages=["a", "b"], engine=False)
    assert json.loads(layout.state.read_text()) == {"packages": ["a", "b"], "engine": False}


def test_half_done_work_never_looks_finished_and_is_swept(tmp_path: Path) -> None:
    layout = spec.Layout(tmp_path)
    with store.workspace(layout, "node") as work:
        (work / "part").write_text("x")
    assert not work.exists()
    (layout.scratch / "of-a-killed-run").mkdir()
    store.sweep(layout)
    assert not layout.scratch.exists()


def test_manifests_agree_with_the_addresses_and_images_of_the_lab() -> None:
    coredns = (spec.HERE / "manifests/coredns.yaml").read_text()
    assert f"clusterIP: {spec.DNS_IP}\n" in coredns
    assert f"image: {spec.COREDNS_IMAGE}\n" in coredns
    provisioner = (spec.HERE / "manifests/local-path.yaml").read_text()
    assert f"image: {spec.LOCAL_PATH_IMAGE}\n" in provisioner
    assert f'image: "{spec.BASE_IMAGE}"' in provisioner
    assert f'sandbox_image = "{spec.PAUSE_IMAGE}"' in (spec.HERE / "node/start.sh").read_text()
