"""Graphs on other hosts: addresses, keys (CURVE), and why a connection fails.

run_graph.py keys keys laptop     makes keys/server.key_secret, which stays with the graph,
                                  keys/clients/laptop.key, which admits that client as long as it exists,
                                  and the folder keys/laptop, which the client needs
"""

import contextlib
import ipaddress
import logging
import os
import re
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from socket import create_connection, gaierror
from typing import Any

import zmq
import zmq.auth
from zmq.utils.monitor import parse_monitor_message

from graph.errors import ConfigError, GraphError

logger = logging.getLogger("facegraph")

SCHEME = "tcp://"
KEYS_VARIABLE = "FACEGRAPH_KEYS"
"""Environment variable with a client's folder of keys, for commands."""
CONNECT_S = 5.0  # timeout of the connection and its handshake
SILENT_S = 6.0  # senders send at least a ping every two seconds; if one is silent for longer, it or the network is down
OUTAGE_S = 60.0  # how long a network may be down before a reader gives up: a laptop changes its access point
HEARTBEAT_MS = 2000  # of ZeroMQ: a connection is closed after three of them without an answer

_KEY = re.compile(rb"[0-9a-zA-Z.:+=^!/*?&<>()\[\]{}@%$#-]{40}")
_ADDRESS = re.compile(r"tcp://(?P<host>\[[0-9a-fA-F:]+\]|[\w.-]+):(?P<port>\d{1,5})")


def is_remote(name: str | None) -> bool:
    """Say whether the graph to attach to is given by its address, not by its name."""
    return name is not None and name.startswith(SCHEME)


def parse(address: str) -> tuple[str, int]:
    """Return host and port. Raises ConfigError for anything but tcp://HOST:PORT."""
    found = _ADDRESS.fullmatch(address)
    if not found or int(found["port"]) > 65535:
        raise ConfigError(f"{address!r} is not an address, expected like tcp://192.0.2.7:5555")
    return found["host"].strip("[]"), int(found["port"])


def is_loopback(host: str) -> bool:
    """Say whether only this machine can connect to `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# --- keys ---


@dataclass(frozen=True)
class Keys:
    """A key pair, and for a client also the public key of the server that it trusts."""

    public: bytes
    secret: bytes
    server: bytes | None = None


def make_keys(folder: Path, clients: Iterable[str]) -> list[Path]:
    """Make the server's keys in `folder` unless they exist, and a folder of keys for each client.

    Only their owner can read them. Returns what was made. Raises ConfigError for a client that exists already, or an
    invalid name.
    """
    clients = list(clients)
    for name in clients:
        if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name) or name in ("server", "clients"):
            raise ConfigError(f"{name!r} cannot be the name of a client: letters, digits, - and _")
        if os.path.exists(folder / name) or os.path.exists(folder / "clients" / f"{name}.key"):
            raise ConfigError(
                f"{folder / name} exists already: remove it and its key in clients/, or choose another name"
            )
    before = os.umask(0o077)
    try:
        made = [] if (folder / "server.key_secret").exists() else [_pair(folder, "server")]
        return made + [_client(folder, name) for name in clients]
    except OSError as exc:
        raise ConfigError(f"cannot write {folder}: {exc.strerror}") from exc
    finally:
        os.umask(before)


def _client(folder: Path, name: str) -> Path:
    _pair(folder / name, "client")
    (folder / name / "server.key").write_bytes((folder / "server.key").read_bytes())
    allowed = folder / "clients"
    allowed.mkdir(exist_ok=True)
    (allowed / f"{name}.key").write_bytes((folder / name / "client.key").read_bytes())
    return folder / name


def _pair(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return Path(zmq.auth.create_certificates(folder, name)[1])


def server_keys(folder: Path) -> Keys:
    """Return the keys with which a graph listens. Raises ConfigError if they are missing, damaged, or not private."""
    return Keys(*_load(folder / "server.key_secret"))


def client_keys(folder: Path) -> Keys:
    """Return the keys with which a client connects. Raises ConfigError like `server_keys`."""
    public, secret = _load(folder / "client.key_secret")
    return Keys(public, secret, _load(folder / "server.key")[0])


def allowed(folder: Path) -> dict[bytes, str]:
    """Return the names of the admitted clients by public key, as the folder is now."""
    found = {}
    for path in (folder / "clients").glob("*.key"):
        try:
            found[zmq.auth.load_certificate(path)[0]] = path.stem
        except (OSError, ValueError) as exc:
            logger.warning("%s is not a key and is ignored: %s", path, exc)
    return found


def _load(path: Path) -> tuple[bytes, bytes]:
    """Return the public key in a file, and the secret one if it is a .key_secret."""
    secret_too = path.suffix == ".key_secret"
    try:
        if secret_too and stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise ConfigError(f"{path} can be read by other users: chmod 600 {path}, or make new keys")
        public, secret = zmq.auth.load_certificate(path)
        if not all(_KEY.fullmatch(key or b"") for key in ([public, secret] if secret_too else [public])):
            raise ValueError("not 40 characters of Z85")
    except OSError as exc:
        raise ConfigError(f"there is no key {path}; `run_graph.py keys DIR NAME` makes such a folder") from exc
    except ValueError as exc:
        what = "a secret key" if secret_too else "a key"
        raise ConfigError(f"{path} is damaged, or not {what}; `run_graph.py keys DIR NAME` makes a new one") from exc
    return public, secret or b""


def listening(listen: str, keys: str | None) -> Keys | None:
    """Return the keys with which to listen. Raises ConfigError if the address is open to others but has no keys."""
    host, _ = parse(listen)
    if keys is not None:
        return server_keys(Path(keys))
    if not is_loopback(host):
        raise ConfigError(
            f"{listen} is open to other machines, which requires keys: `run_graph.py keys keys laptop` makes them, "
            "`keys: keys` next to `listen` uses them; or listen at tcp://127.0.0.1 and use ssh -L"
        )
    return None


# --- the client's side ---


class Remote:
    """A graph that is reached at one address. The counterpart of graph.rundir.RunDir."""

    died = "has died, or cannot be reached any more"  # what can be said of a graph that is silent

    def __init__(self, address: str, keys: str | Path | None = None) -> None:
        """Load keys from the folder `keys` or $FACEGRAPH_KEYS. Raises ConfigError if these or the address are bad."""
        parse(address)
        if not isinstance(keys, str | Path | None):
            raise ConfigError(f"keys={keys!r}: expected the folder of a client's keys as a str or a Path")
        folder = keys or os.environ.get(KEYS_VARIABLE)
        self.address = address
        self.folder = Path(folder) if folder else None
        self._keys = client_keys(self.folder) if self.folder else None

    @cached_property
    def control(self) -> str:
        """The address for requests. Raises GraphError if the host's name is unknown."""
        return _resolved(self.address)

    def data(self, node: str) -> str:
        """Return the address of a node's outputs."""
        return self.control

    def port(self, node: str, output: str) -> str:
        """Return an output's name on the wire."""
        return f"{node}.{output}"

    def runs(self, silence_s: float) -> bool:
        """Say whether the graph may still run, although it has been silent for so long."""
        return silence_s < SILENT_S or (silence_s < OUTAGE_S and not self._refuses())

    def _refuses(self) -> bool:
        """Say whether nothing listens at the address any more, as far as can be seen within a second."""
        try:
            with create_connection(parse(self.control), timeout=1.0):
                return False
        except ConnectionRefusedError:
            return True
        except OSError:
            return False

    def secure(self, socket: "zmq.Socket[bytes]") -> None:
        """Prepare a socket before it connects."""
        socket.set(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        socket.set(zmq.HEARTBEAT_TIMEOUT, 3 * HEARTBEAT_MS)
        socket.set(zmq.IPV6, 1)
        if self._keys and self._keys.server:
            socket.curve_publickey, socket.curve_secretkey = self._keys.public, self._keys.secret
            socket.curve_serverkey = self._keys.server

    def check(self, context: "zmq.Context[Any]") -> None:
        """Connect once as a test. Raises GraphError with the reason if that fails, after CONNECT_S at most."""
        socket = context.socket(zmq.DEALER)
        monitor = socket.get_monitor_socket()
        try:
            socket.set(zmq.LINGER, 0)
            self.secure(socket)
            socket.connect(self.control)
            reason = self._handshake_failure(monitor)
        except zmq.ZMQError as exc:
            reason = f"cannot be connected to: {exc.strerror}"
        finally:
            socket.disable_monitor()
            monitor.close(linger=0)
            socket.close()
        if reason:
            raise GraphError(f"{self.address} {reason}")

    def _handshake_failure(self, monitor: Any) -> str:
        """Wait for the end of the handshake; return why it failed, empty if it succeeded."""
        until = time.monotonic() + CONNECT_S
        connected = False
        while (left := until - time.monotonic()) > 0:
            if not monitor.poll(int(left * 1000) + 1):
                continue
            event = parse_monitor_message(monitor.recv_multipart())["event"]
            if event == zmq.Event.HANDSHAKE_SUCCEEDED:
                return ""
            if event == zmq.Event.HANDSHAKE_FAILED_AUTH:
                return f"does not know the key in {self.folder}: its public half must be in the graph's keys/clients"
            failed = event in (zmq.Event.HANDSHAKE_FAILED_PROTOCOL, zmq.Event.HANDSHAKE_FAILED_NO_DETAIL)
            if failed or (connected and event == zmq.Event.DISCONNECTED):
                return self._rejection()
            if not connected and event == zmq.Event.CLOSED:
                return "refuses the connection, or cannot be reached: nothing listens there"
            connected |= event == zmq.Event.CONNECTED
        return "accepts the connection, but sends nothing: is it a graph?" if connected else "does not answer"

    def _rejection(self) -> str:
        if self._keys:
            return f"closes the connection: server.key in {self.folder} is not its key, or it listens without keys"
        return f"closes the connection: it may require keys; pass {KEYS_VARIABLE}=DIR or attach(..., keys=DIR)"


def _resolved(address: str) -> str:
    """Return an address with its host's name replaced by the first of its IP addresses that accepts a connection.

    ZeroMQ tries only one: for localhost often ::1, while the graph listens on 127.0.0.1.
    """
    host, port = parse(address)
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return address
    try:
        with create_connection((host, port), timeout=CONNECT_S) as connection:
            found = connection.getpeername()[0]
    except gaierror as exc:
        raise GraphError(f"{address} cannot be reached: the host {host} is unknown") from exc
    except OSError:
        return address  # ZeroMQ will keep trying
    return f"{SCHEME}[{found}]:{port}" if ":" in found else f"{SCHEME}{found}:{port}"
