"""DEL of an attachment whose record is gone or cannot be read: what still tells its own is given back.

A claim is a hard link to its holder's record, so that its inode says whose it is, whatever the content became.
"""

import posix

from cni_plugin import claims, ipam
from cni_plugin.attachment import Address, Attachment, HostPort, lease_id, parse
from cni_plugin.call import Call
from cni_plugin.journal import Journal

_CLAIMS = ("addresses", "ports")


def release(ledger: "claims.Ledger", call: Call, why: str, journal: Journal) -> None:
    """Remove the broken record of (container id, ifname) with the claims and nft elements that are its own.

    The link is gone already. Raises CniError 104 when the folder lets nothing be removed.
    """
    lease = lease_id(call.container_id, call.ifname)
    addresses: list[str] = []
    ports: list[str] = []
    with ledger.host_lock():
        try:
            inodes = _inodes(ledger, lease)
            for folder in _CLAIMS:
                for name in posix.listdir(f"{ledger.path}/{folder}"):
                    if _is_own(f"{ledger.path}/{folder}/{name}", inodes, call):
                        (addresses if folder == "addresses" else ports).append(name)
            _remove_elements(lease, addresses, ports)
            for text in addresses:
                ledger.begin_to_cool(text, None)
                claims.unlink(f"{ledger.path}/addresses/{text}")
            for name in ports:
                claims.unlink(f"{ledger.path}/ports/{name}")
            for state in claims.STATES:
                _remove(f"{ledger.path}/{state}/{lease}")
        except OSError as fault:
            raise ledger.failure(fault) from None
    journal.note(f"{why}; released all the same: {', '.join(addresses + ports) or 'nothing was claimed'}")


def _inodes(ledger: "claims.Ledger", lease: str) -> "set[int]":
    found = set()
    for state in claims.STATES:
        try:
            found.add(posix.lstat(f"{ledger.path}/{state}/{lease}").st_ino)
        except FileNotFoundError:
            pass
    return found


def _is_own(path: str, inodes: "set[int]", call: Call) -> bool:
    try:
        if posix.lstat(path).st_ino in inodes:
            return True
        holder = parse(claims.read(path))
    except (OSError, ValueError):
        return False
    return (holder.container_id, holder.ifname) == (call.container_id, call.ifname)


def _remove_elements(lease: str, addresses: "list[str]", ports: "list[str]") -> None:
    """Elements are found by their keys, which the claims' names hold; the container's ports are not needed."""
    from cni_plugin import nftables
    from cni_plugin.netlink import Refusal

    try:
        parts = [name.split("-", 2) for name in ports]
        host_ports = [HostPort(protocol, ipam.parse_address(host), int(port), 1) for protocol, port, host in parts]
        held = [Address(ipam.parse_address(text)) for text in addresses]
    except ValueError:
        return  # names that podwire does not give
    shadow = Attachment("", "", "", "", "", 0, "", 0, 0, b"", held, [], 0, host_ports, None, 0)
    try:
        nftables.Nft().remove(shadow.elements())
    except Refusal:
        pass  # the table is gone, and the elements with it


def _remove(path: str) -> None:
    # Whatever stands there in place of a record: a link is not followed, a folder must be empty.
    try:
        claims.unlink(path)
    except IsADirectoryError:
        posix.rmdir(path)
