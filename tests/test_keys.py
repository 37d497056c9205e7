"""Keys for graphs that listen to other machines, and addresses."""

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from graph import ConfigError, GraphError, attach, network
from graph.config import load
from tests.conftest import Run
from tests.listening import config


def test_keys_are_made_once_and_only_readable_by_their_owner(tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "keys"
    assert run("keys", str(folder)).splitlines() == [
        f"created {folder}/server.key_secret: stays here",
        f"created {folder}/client: copy this folder to the client",
    ]
    assert len(run("keys", str(folder), "laptop", "phone").splitlines()) == 2
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (folder, *folder.rglob("*")) if path.is_dir()} == {0o700}
    assert sorted(network.allowed(folder).values()) == ["client", "laptop", "phone"]
    server, laptop = network.server_keys(folder), network.client_keys(folder / "laptop")
    assert laptop.server == server.public and network.allowed(folder)[laptop.public] == "laptop"
    assert "exists already: remove it" in run("keys", str(folder), "laptop", code=2)
    assert "'a/b' cannot be the name of a client" in run("keys", str(folder), "a/b", code=2)


def test_keys_that_are_missing_or_readable_by_others(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no key .*/none/client\.key_secret; `run_graph\.py keys DIR NAME`"):
        network.client_keys(tmp_path / "none")
    network.make_keys(tmp_path / "keys", ["laptop"])
    (tmp_path / "keys/laptop/client.key_secret").chmod(0o644)
    with pytest.raises(ConfigError, match=r"client\.key_secret can be read by other users: chmod 600 "):
        network.client_keys(tmp_path / "keys/laptop")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("client.key_secret", ""),
        ("client.key_secret", 'curve\n    public-key = "{key}"\n'),  # client.key in its place
        ("client.key_secret", 'curve\n    public-key = "{key}"\n    secret-key = "short"\n'),
        ("server.key", 'curve\n    public-key = "~{key}"\n'),
        ("server.key", "\0"),
    ],
)
def test_keys_that_are_damaged_or_of_the_wrong_kind(tmp_path: Path, file: str, content: str) -> None:
    network.make_keys(tmp_path / "keys", ["laptop"])
    folder = tmp_path / "keys/laptop"
    (folder / file).write_text(content.format(key="k" * 40))
    with pytest.raises(ConfigError, match=rf"laptop/{re.escape(file)} is damaged, or not .*; `run_graph\.py keys DIR"):
        network.client_keys(folder)


@pytest.mark.parametrize(
    "address", ["tcp://x", "tcp://:1", "udp://127.0.0.1:1", "tcp://127.0.0.1:99999", "tcp://a/b:1"]
)
def test_invalid_addresses(address: str) -> None:
    with pytest.raises(ConfigError, match=r"is not an address, expected like tcp://192\.0\.2\.7:5555"):
        network.parse(address)


def test_host_with_several_addresses_is_reached_at_the_one_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """For instance localhost, which is ::1 and 127.0.0.1 on most machines."""
    look_up = socket.getaddrinfo

    def both(host: str, *rest: Any, **more: Any) -> list[Any]:
        numbers = ["::1", "127.0.0.1"] if host == "both.test" else [host]
        return [found for number in numbers for found in look_up(number, *rest, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    with socket.create_server(("127.0.0.1", 0)) as there:
        port = there.getsockname()[1]
        remote = network.Remote(f"tcp://both.test:{port}")
        assert remote.control == remote.data("camera") == f"tcp://127.0.0.1:{port}"
    silent = network.Remote(f"tcp://both.test:{port}")
    assert silent.control == silent.address  # nothing listens there yet


def test_ip_addresses_are_not_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "create_connection", None)  # must not be called
    for address in ("tcp://192.0.2.7:5555", "tcp://[2001:db8::7]:5555"):
        assert network.Remote(address).control == address


def test_unknown_host() -> None:
    with pytest.raises(GraphError, match=r"^tcp://no\.invalid:5555 cannot be reached: the host no\.invalid is unknown"):
        attach("tcp://no.invalid:5555")


@pytest.mark.parametrize("address", ["tcp://0.0.0.0:5555", "tcp://192.0.2.7:5555", "tcp://[::]:5555", "tcp://host:1"])
def test_listening_to_other_machines_requires_keys(tmp_path: Path, address: str) -> None:
    path = tmp_path / "main.yaml"
    path.write_text(json.dumps(config(address)))
    with pytest.raises(
        ConfigError, match=rf"main\.yaml:1: listen: {re.escape(address)} is open to other machines, which "
    ):
        load(path)
    path.write_text(json.dumps(config(address, tmp_path / "keys")))
    with pytest.raises(ConfigError, match=r"there is no key .*/keys/server\.key_secret"):
        load(path)
    network.make_keys(tmp_path / "keys", [])
    assert load(path).listen == address


def test_keys_without_listen(tmp_path: Path) -> None:
    path = tmp_path / "main.yaml"
    path.write_text(json.dumps({**config(), "keys": "keys", "listen": None}))
    with pytest.raises(ConfigError, match="keys: has no effect without `listen: tcp://"):
        load(path)
