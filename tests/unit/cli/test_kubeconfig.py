"""Kubeconfig files: merging, selecting, and logins that need no plugin."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tpd.kube.config import load_login
from tpd.kube.kubeconfig import plain_settings, read_kubeconfig, select
from tpd_core.errors import ConfigError


def config(current: str = "", user: dict[str, Any] | None = None, **cluster: Any) -> dict[str, Any]:
    return {
        "current-context": current,
        "contexts": [{"name": "lab", "context": {"cluster": "c", "user": "u", "namespace": "shop"}}],
        "clusters": [{"name": "c", "cluster": {"server": "http://10.0.0.1:6443/", **cluster}}],
        "users": [{"name": "u", "user": user or {}}],
    }


def write(directory: Path, name: str, content: Any) -> str:
    path = directory / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def settings_of(path: str, scratch: Path) -> SimpleNamespace:
    settings = SimpleNamespace(api_key={})
    plain_settings(select(read_kubeconfig(path), "lab"), settings, scratch)
    return settings


def test_the_first_mention_of_a_name_counts(tmp_path: Path) -> None:
    first = write(tmp_path, "a", config("lab"))
    second = write(tmp_path, "b", config("other", server="http://10.9.9.9:1"))
    entry = select(read_kubeconfig(os.pathsep.join((first, second))), None)
    assert (entry.name, entry.cluster["server"], entry.namespace) == ("lab", "http://10.0.0.1:6443/", "shop")


def test_an_unknown_context_lists_the_known_ones(tmp_path: Path) -> None:
    path = write(tmp_path, "a", config("lab"))
    with pytest.raises(ConfigError) as caught:
        select(read_kubeconfig(path), "nope")
    assert "'nope'" in caught.value.message
    assert "lab" in caught.value.hint


def test_a_context_without_its_user_is_refused(tmp_path: Path) -> None:
    broken = config("lab") | {"users": []}
    with pytest.raises(ConfigError, match="user 'u'"):
        select(read_kubeconfig(write(tmp_path, "a", broken)), None)


def test_no_context_at_all_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="selects no context"):
        select(read_kubeconfig(write(tmp_path, "a", config())), None)


@pytest.mark.parametrize("text", ["{", "- a", "\x00"])
def test_what_is_no_kubeconfig_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        read_kubeconfig(write(tmp_path, "a", text))


def test_a_token_wins_over_a_password(tmp_path: Path) -> None:
    path = write(tmp_path, "a", config("lab", {"token": "t", "username": "me", "password": "secret"}))
    assert settings_of(path, tmp_path).api_key == {"BearerToken": "Bearer t"}


def test_a_password_becomes_basic_authentication(tmp_path: Path) -> None:
    path = write(tmp_path, "a", config("lab", {"username": "me", "password": "secret"}))
    words = base64.b64encode(b"me:secret").decode()
    assert settings_of(path, tmp_path).api_key == {"BearerToken": f"Basic {words}"}


def test_files_are_relative_to_the_kubeconfig(tmp_path: Path) -> None:
    path = write(tmp_path, "a", config("lab", None, **{"certificate-authority": "ca.pem"}))
    assert settings_of(path, tmp_path).ssl_ca_cert == str(tmp_path / "ca.pem")


async def test_a_token_file_is_read_anew(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("first\n")
    login = load_login(write(tmp_path, "a", config("lab", {"tokenFile": "token"})))
    assert await login.headers() == {"Authorization": "Bearer first"}
    (tmp_path / "token").write_text("second\n")
    assert await login.headers() == {"Authorization": "Bearer second"}


def test_a_missing_token_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        load_login(write(tmp_path, "a", config("lab", {"tokenFile": "nowhere"})))


def test_inline_keys_are_private_while_they_exist(tmp_path: Path) -> None:
    data = base64.b64encode(b"KEY").decode()
    path = write(tmp_path, "a", config("lab", {"client-key-data": data}))
    key = Path(settings_of(path, tmp_path).key_file)
    assert key.read_bytes() == b"KEY"
    assert key.stat().st_mode & 0o077 == 0


def test_a_plugin_is_noticed(tmp_path: Path) -> None:
    entry = select(read_kubeconfig(write(tmp_path, "a", config("lab", {"exec": {"command": "x"}}))), None)
    assert entry.needs_plugin


async def test_a_plain_login_needs_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    login = load_login(write(tmp_path, "a", config("lab", {"token": "t"}, **{"proxy-url": "http://proxy:1"})))
    assert (login.server, login.host, login.port, login.context) == ("http://10.0.0.1:6443", "10.0.0.1", 6443, "lab")
    assert login.proxy == "http://proxy:1"
    assert await login.headers() == {"Authorization": "Bearer t"}


async def test_a_login_plugin_is_run(tmp_path: Path) -> None:
    credential = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "p"}}
    answer = write(tmp_path, "answer", credential)
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": "cat", "args": [answer]}
    login = load_login(write(tmp_path, "a", config("lab", {"exec": plugin})))
    assert await login.headers() == {"Authorization": "Bearer p"}


def test_a_failing_plugin_is_quoted(tmp_path: Path) -> None:
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "sh",
        "args": ["-c", "echo please log in >&2; exit 3"],
    }
    with pytest.raises(ConfigError, match="please log in"):
        load_login(write(tmp_path, "a", config("lab", {"exec": plugin})))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_login(str(tmp_path / "nowhere"))
