"""A guard against sockets: connections to this machine alone. On the path of tests, Python imports it by its name."""

from __future__ import annotations

import ipaddress
import socket
import sys
from typing import Any

_MARK = "_gmvq_offline"


class NetworkError(BaseException):
    """A test reached for the network; out of the reach of ``except Exception``, so that nothing hides it."""


def _is_here(host: object) -> bool:
    if host in (
        None,
        "",
        b"",
        "localhost",
        b"localhost",
        socket.gethostname(),
        socket.gethostname().encode(),
    ):
        return True
    try:
        address = ipaddress.ip_address(
            host.decode() if isinstance(host, bytes) else str(host).partition("%")[0]
        )
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified or str(address) in _own()


def _is_number(host: object) -> bool:
    """Whether there is nothing to look up."""
    try:
        ipaddress.ip_address(str(host))
    except ValueError:
        return False
    return True


def _own() -> set[str]:
    try:
        return {str(entry[4][0]) for entry in _getaddrinfo(socket.gethostname(), None)}
    except OSError:
        return set()


_getaddrinfo = socket.getaddrinfo


def _check(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        handle, address = arguments[0], arguments[1] if len(arguments) > 1 else None
        if handle.family in (socket.AF_INET, socket.AF_INET6) and address and not _is_here(address[0]):
            # What asks a router for its own address sends nothing.
            if handle.type & socket.SOCK_DGRAM and event == "socket.connect":
                raise OSError("no network in tests")
            raise NetworkError(f"a connection to {address!r} in a test")
    elif (
        event in ("socket.getaddrinfo", "socket.gethostbyname")
        and not _is_number(arguments[0])
        and not _is_here(arguments[0])
    ):
        raise NetworkError(f"a look-up of {arguments[0]!r} in a test")


def install() -> None:
    """Begin to watch; doing it again changes nothing."""
    if not hasattr(sys, _MARK):
        setattr(sys, _MARK, True)
        sys.addaudithook(_check)


install()
