"""The table `inet podwire1`: its text, made once by nft(8), and a minimal codec for its elements.

Zero rules per pod: one rule masquerades by link group, and hostPorts are elements of two maps. Elements go
through netlink (microseconds); making or repairing the table goes through `nft -f`, which is rare. Numbers are
those of linux/netfilter/nf_tables.h and nfnetlink.h. The table's name carries the version of this layout.
"""

import errno
import posix
import time
from _struct import Struct

from cni_plugin.rtnetlink import NLM_F_ACK, NLM_F_CREATE, Refusal, Socket, attribute, message
from cni_plugin.spec import NFT_FAILURE, CniError

TABLE = "podwire1"
# Link groups of host ends (`ip link show group 28791`): with masquerade, and without.
GROUP_MASQUERADE, GROUP_PLAIN = 0x7077, 0x7078
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}

_NETLINK_NETFILTER, _NFPROTO_INET = 12, 1
_BATCH_BEGIN, _BATCH_END, _SUBSYSTEM = 0x10, 0x11, 10
_GETTABLE, _NEWSETELEM, _GETSETELEM, _DELSETELEM = 1, 12, 13, 14
_TABLE_NAME = 1
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3
_LIST_ELEM, _ELEM_KEY, _ELEM_DATA, _ELEM_USERDATA = 1, 1, 2, 6
_DATA_VALUE, _UDATA_COMMENT, _NESTED = 1, 0, 0x8000

_GENERIC = Struct("!BBH")
_SCRIPT_SECONDS = 5

_RULES = """\
create table inet {table}
add map inet {table} hostport4 {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
add map inet {table} hostport4ip {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
add set inet {table} hairpin4 {{ type ipv4_addr . ipv4_addr; }}
add set inet {table} nomasq4 {{ type ipv4_addr; flags interval; }}
add chain inet {table} guard {{ type filter hook prerouting priority -300; }}
add chain inet {table} hostports
add chain inet {table} prerouting {{ type nat hook prerouting priority -100; }}
add chain inet {table} output {{ type nat hook output priority -100; }}
add chain inet {table} postrouting {{ type nat hook postrouting priority 100; }}
add rule inet {table} guard iifgroup {{ {masq}, {plain} }} ip daddr 127.0.0.0/8 drop
add rule inet {table} hostports dnat ip addr . port to ip daddr . meta l4proto . th dport map @hostport4ip
add rule inet {table} hostports dnat ip addr . port to meta l4proto . th dport map @hostport4
add rule inet {table} prerouting meta nfproto ipv4 fib daddr type local jump hostports
add rule inet {table} output meta nfproto ipv4 fib daddr type local jump hostports
add rule inet {table} postrouting ct status dnat ip saddr . ip daddr @hairpin4 masquerade
add rule inet {table} postrouting oifgroup {{ {masq}, {plain} }} ct status dnat ip saddr 127.0.0.0/8 masquerade
add rule inet {table} postrouting iifgroup {masq} oifgroup != {{ {masq}, {plain} }} \
ip daddr != @nomasq4 masquerade fully-random
"""


class Element:
    """One element: the set or map that holds it, its key, its data (empty in a set), and both as nft words."""

    __slots__ = ("comment", "data", "key", "set", "text")

    def __init__(self, set_name: str, key: bytes, data: bytes, comment: str, text: str) -> None:
        self.set, self.key, self.data, self.comment, self.text = set_name, key, data, comment, text


def host_port_elements(address: bytes, ports: "list[tuple[str, bytes, int, int]]", comment: str) -> "list[Element]":
    """The elements of an attachment: one per (protocol, host address, host port, container port), and a hairpin.

    A host address of four zero bytes is every address of the node. `comment` is the attachment's lease id.
    """
    pod = _dotted(address)
    elements = []
    for protocol, host, host_port, container_port in ports:
        wildcard = not any(host)
        service = _padded(bytes((PROTOCOLS[protocol],))) + _padded(host_port.to_bytes(2, "big"))
        data = address + _padded(container_port.to_bytes(2, "big"))
        words = f"{protocol} . {host_port} : {pod} . {container_port}"
        if wildcard:
            elements.append(Element("hostport4", service, data, comment, words))
        else:
            words = f"{_dotted(host)} . {words}"
            elements.append(Element("hostport4ip", host + service, data, comment, words))
    if elements:
        elements.append(Element("hairpin4", address + address, b"", comment, f"{pod} . {pod}"))
    return elements


def _padded(value: bytes) -> bytes:
    return value + b"\0" * (-len(value) % 4)


def _dotted(address: bytes) -> str:
    return ".".join(map(str, address))


def table_script(no_masquerade: "list[str]", elements: "list[Element]") -> str:
    """The nft script that makes the whole table with its elements, or fails with EEXIST when it is there.

    `create table` comes first: of several makers in a race one wins, and the others change nothing.
    """
    script = _RULES.format(table=TABLE, masq=GROUP_MASQUERADE, plain=GROUP_PLAIN)
    script += _add("nomasq4", no_masquerade)
    for name in ("hostport4", "hostport4ip", "hairpin4"):
        words = []
        for each in elements:
            if each.set == name:
                left, colon, right = each.text.partition(" : ")
                words.append(f'{left} comment "{each.comment}"{colon}{right}')
        script += _add(name, words)
    return script


def no_masquerade_script(no_masquerade: "list[str]") -> str:
    """The nft script that replaces the destinations which are never masqueraded, in one transaction."""
    return f"flush set inet {TABLE} nomasq4\n" + _add("nomasq4", no_masquerade)


def _add(name: str, words: "list[str]") -> str:
    return f"add element inet {TABLE} {name} {{ {', '.join(words)} }}\n" if words else ""


def run_script(script: str, search: str) -> None:
    """Feed `script` to nft(8), found on `search` (a PATH) or in the usual folders. Raises CniError 107.

    The kernel takes a script whole or not at all. "File exists" of a `create table` is success: another call
    has made the table at the same moment.
    """
    program = find_nft(search)
    if program is None:
        raise CniError(
            NFT_FAILURE,
            "nft is not installed: masquerade and hostPorts need it to make the table inet " + TABLE,
            "install the package nftables on this node",
        )
    from select import POLLIN, poll

    source = posix.memfd_create("nft script", posix.MFD_CLOEXEC)
    rest = script.encode()
    while rest:
        rest = rest[posix.write(source, rest) :]
    posix.lseek(source, 0, 0)
    report, answer = posix.pipe()
    actions = [
        (posix.POSIX_SPAWN_DUP2, source, 0),
        (posix.POSIX_SPAWN_DUP2, answer, 1),
        (posix.POSIX_SPAWN_DUP2, answer, 2),
    ]
    child = posix.posix_spawn(program, [program, "-f", "-"], {"PATH": "/usr/sbin:/sbin"}, file_actions=actions)
    posix.close(source)
    posix.close(answer)
    ready = poll()
    ready.register(report, POLLIN)
    words, deadline = b"", time.monotonic() + _SCRIPT_SECONDS
    while ready.poll(max(0.0, deadline - time.monotonic()) * 1000):
        chunk = posix.read(report, 1 << 16)
        if not chunk:
            break
        words += chunk
    else:
        posix.kill(child, 9)
        posix.waitpid(child, 0)
        raise CniError(
            NFT_FAILURE,
            f"{program} did not end within {_SCRIPT_SECONDS} s making the table inet {TABLE}; it was stopped",
            "see what keeps `nft list tables` waiting on this node",
        )
    posix.close(report)
    _, status = posix.waitpid(child, 0)
    if status == 0:
        return
    said = words.decode(errors="replace").strip()
    if script.startswith("create table") and "File exists" in said and "create table" in said:
        return
    raise CniError(
        NFT_FAILURE,
        f"nft refused the table inet {TABLE}: {said.splitlines()[0] if said else 'no message'}",
        "see `nft list table inet " + TABLE + "`; the kernel needs nf_tables with nat, fib and masquerade",
    )


def find_nft(search: str) -> "str | None":
    """The path of nft(8), or None."""
    for folder in (*search.split(":"), "/usr/sbin", "/sbin", "/usr/bin", "/bin"):
        path = f"{folder}/nft"
        if folder.startswith("/") and posix.access(path, posix.X_OK):
            return path
    return None


class Nft:
    """Elements of our table, over one netfilter socket of the namespace it was opened in."""

    def __init__(self) -> None:
        self._socket = Socket(_NETLINK_NETFILTER)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def table_exists(self) -> bool:
        """Whether the table is there (somebody may have flushed the ruleset)."""
        body = _GENERIC.pack(_NFPROTO_INET, 0, 0) + attribute(_TABLE_NAME, _name(TABLE))
        return self._found(message(_SUBSYSTEM << 8 | _GETTABLE, 0, body))

    def has(self, element: Element) -> bool:
        """Whether the table holds the element's key."""
        return self._found(_element_message(_GETSETELEM, 0, element, with_data=False))

    def _found(self, request: bytes) -> bool:
        try:
            self._socket.ask(request)
        except Refusal as fault:
            if fault.errno == errno.ENOENT:
                return False
            raise
        return True

    def add(self, elements: "list[Element]") -> None:
        """Add elements in one transaction; an element that is there with the same data is success.

        Who owns a hostPort is decided by the claims, so a key that maps elsewhere is a leftover: replaced.
        Raises Refusal with ENOENT when the table is missing.
        """
        try:
            self._batch([_element_message(_NEWSETELEM, NLM_F_CREATE, each) for each in elements])
        except Refusal as fault:
            if fault.errno not in (errno.EEXIST, errno.EBUSY):
                raise
            self.remove(elements)
            self._batch([_element_message(_NEWSETELEM, NLM_F_CREATE, each) for each in elements])

    def remove(self, elements: "list[Element]") -> None:
        """Remove elements; what is gone already is success. The kernel makes a remover wait for a grace period."""
        try:
            self._batch([_element_message(_DELSETELEM, 0, each, with_data=False) for each in elements])
        except Refusal as fault:
            if fault.errno != errno.ENOENT:
                raise
            # One missing element undoes the whole transaction: take those that are left, one by one.
            for each in elements:
                try:
                    self._batch([_element_message(_DELSETELEM, 0, each, with_data=False)])
                except Refusal as single:
                    if single.errno != errno.ENOENT:
                        raise

    def _batch(self, messages: "list[bytes]") -> None:
        # res_id of the batch markers names the subsystem; a refused begin marker is all there is to read.
        marker = _GENERIC.pack(0, 0, _SUBSYSTEM)
        begin, end = self._socket.send([message(_BATCH_BEGIN, 0, marker), *messages, message(_BATCH_END, 0, marker)])
        self._socket.settle(begin, end - 1, fatal=begin)


def _name(value: str) -> bytes:
    return value.encode() + b"\0"


def _element_message(kind: int, flags: int, element: Element, with_data: bool = True) -> bytes:
    value = attribute(_ELEM_KEY | _NESTED, attribute(_DATA_VALUE, element.key))
    if with_data:
        if element.data:
            value += attribute(_ELEM_DATA | _NESTED, attribute(_DATA_VALUE, element.data))
        comment = _name(element.comment)
        value += attribute(_ELEM_USERDATA, bytes((_UDATA_COMMENT, len(comment))) + comment)
    body = _GENERIC.pack(_NFPROTO_INET, 0, 0) + b"".join(
        (
            attribute(_LIST_TABLE, _name(TABLE)),
            attribute(_LIST_SET, _name(element.set)),
            attribute(_LIST_ELEMENTS | _NESTED, attribute(_LIST_ELEM | _NESTED, value)),
        )
    )
    acknowledge = 0 if kind == _GETSETELEM else NLM_F_ACK
    return message(_SUBSYSTEM << 8 | kind, flags | acknowledge, body)
