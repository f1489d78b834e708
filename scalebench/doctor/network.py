"""How ranks find and reach each other: names, interfaces, ports, loopback."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import psutil

from scalebench.doctor.finding import Finding, note, ok, problem

LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 29500
"""Where torchrun and env:// meet unless told otherwise."""
LISTEN_SECONDS = 5.0
VIRTUAL = ("docker", "br-", "virbr", "veth", "cni", "flannel", "cali", "tun", "tap")


def loopback() -> Iterator[Finding]:
    """Ranks on one machine talk over 127.0.0.1 alone."""
    remedy = "ip link set lo up; and let the firewall pass 127.0.0.1"
    try:
        with socket.create_server((LOOPBACK, 0)) as server:
            server.settimeout(LISTEN_SECONDS)
            with socket.create_connection(server.getsockname(), timeout=LISTEN_SECONDS) as client:
                peer = server.accept()[0]
                with peer:
                    client.sendall(b"scalebench")
                    peer.settimeout(LISTEN_SECONDS)
                    said = peer.recv(16)
    except OSError as error:
        yield problem(f"no connection over {LOOPBACK}: {error.strerror or error}", remedy)
        return
    yield (
        ok(f"connections over {LOOPBACK}") if said == b"scalebench" else problem(f"{LOOPBACK} garbled {said!r}", remedy)
    )


def hostname() -> Iterator[Finding]:
    """gloo under torchrun and every run over several machines resolve this host's name."""
    name = socket.gethostname()
    try:
        addresses = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(name, None)})
    except OSError as error:
        yield problem(
            f"{name} has no address ({error.strerror or error})", f"echo '127.0.1.1 {name}' | sudo tee -a /etc/hosts"
        )
        return
    yield ok(f"{name} is {', '.join(addresses)}")


def port() -> Iterator[Finding]:
    """A master port that is in use: "EADDRINUSE: address already in use". Runs that scalebench launches need none;
    torchrun does."""
    asked = os.environ.get("MASTER_PORT")
    number = int(asked) if asked else DEFAULT_PORT
    named = f"port {number} ({'MASTER_PORT' if asked else 'the default of torchrun'})"
    try:
        with socket.create_server(("", number)):
            yield ok(f"{named} is free")
    except OSError as error:
        finding = problem if asked else note
        remedy = "torchrun --standalone, or export MASTER_PORT=... with another; what hung: kill it"
        yield finding(f"{named}: {error.strerror or error}{_owner(number)}", remedy)


def _owner(number: int) -> str:
    """` (held by python, process 123)`; nothing where that cannot be seen."""
    with contextlib.suppress(psutil.Error, OSError):
        for found in psutil.net_connections("tcp"):
            if found.pid and found.laddr and found.laddr.port == number and found.status == psutil.CONN_LISTEN:
                return f" (held by {psutil.Process(found.pid).name()}, process {found.pid})"
    return ""


def master_address() -> Iterator[Finding]:
    """Ranks that cannot resolve the master's address wait for it until their time is over."""
    address = os.environ.get("MASTER_ADDR")
    if address is None:
        yield ok("MASTER_ADDR is not set: runs here need none")
        return
    try:
        socket.getaddrinfo(address, None)
    except OSError as error:
        yield problem(f"MASTER_ADDR={address}: {error.strerror or error}", "unset MASTER_ADDR, or give an address")
        return
    yield ok(f"MASTER_ADDR={address} resolves")


def interfaces() -> Iterator[Finding]:
    """gloo and NCCL pick an interface by themselves, and between machines often the wrong one: ranks then hang."""
    up = [name for name, state in psutil.net_if_stats().items() if state.isup]
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        asked = os.environ.get(variable, "")
        if asked and not any(_names(asked, name, variable) for name in up):
            yield problem(f"{variable}={asked} names none of {', '.join(up)}", f"unset {variable}")
    outward = [name for name in up if name != "lo"]
    virtual = [name for name in outward if name.startswith(VIRTUAL)]
    if virtual and len(outward) > len(virtual):
        chosen = next(name for name in outward if name not in virtual)
        remedy = f"over several machines: export GLOO_SOCKET_IFNAME={chosen} NCCL_SOCKET_IFNAME={chosen}"
        yield note(f"{', '.join(outward)}: {', '.join(virtual)} reach no other machine", remedy)
    else:
        yield ok(f"{', '.join(up) or 'none'} up")


def _names(asked: str, interface: str, variable: str) -> bool:
    """NCCL takes a list of prefixes, `=` before exact names and `^` before what to leave out; gloo exact names."""
    if variable == "GLOO_SOCKET_IFNAME":
        return interface in asked.split(",")
    if asked.startswith("^"):
        return not _names(asked[1:], interface, variable)
    exact, names = asked.startswith("="), asked.removeprefix("=").split(",")
    return interface in names if exact else interface.startswith(tuple(names))


CHECKS = (loopback, hostname, port, master_address, interfaces)
