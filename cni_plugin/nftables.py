"""A minimal codec for the elements of the table `inet podwire1`.

Zero rules per pod: one rule masquerades by link group, and hostPorts are elements of maps. Elements go through
netlink (microseconds); making or repairing the table is `nfttable`'s, and rare. Numbers are those of
linux/netfilter/nf_tables.h and nfnetlink.h. The table's name carries the version of its layout.
"""

import errno
from _struct import Struct

from cni_plugin.ipam import format_address
from cni_plugin.netlink import NLM_F_ACK, NLM_F_CREATE, Refusal, Socket, attribute, message

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


class Element:
    """One element: the set or map that holds it, its key, its data (empty in a set), and both as nft words."""

    __slots__ = ("comment", "data", "key", "set", "text")

    def __init__(self, set_name: str, key: bytes, data: bytes, comment: str, text: str) -> None:
        self.set, self.key, self.data, self.comment, self.text = set_name, key, data, comment, text


def host_port_elements(address: bytes, ports: "list[tuple[str, bytes, int, int]]", comment: str) -> "list[Element]":
    """The elements of one address: one per (protocol, host address, host port, container port), and a hairpin.

    A host address of zero bytes is every address of the node. `comment` is the attachment's lease id.
    """
    pod, family = format_address(address), "4" if len(address) == 4 else "6"
    elements = []
    for protocol, host, host_port, container_port in ports:
        service = _padded(bytes((PROTOCOLS[protocol],))) + _padded(host_port.to_bytes(2, "big"))
        data = address + _padded(container_port.to_bytes(2, "big"))
        words = f"{protocol} . {host_port} : {pod} . {container_port}"
        if any(host):
            words = f"{format_address(host)} . {words}"
            elements.append(Element(f"hostport{family}ip", host + service, data, comment, words))
        else:
            elements.append(Element(f"hostport{family}", service, data, comment, words))
    if elements:
        elements.append(Element(f"hairpin{family}", address + address, b"", comment, f"{pod} . {pod}"))
    return elements


def _padded(value: bytes) -> bytes:
    return value + b"\0" * (-len(value) % 4)


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
        if not messages:
            return  # nothing would be acknowledged
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
