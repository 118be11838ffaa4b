"""Who else drops forwarded packets: base chains at the forward hook, of nf_tables and of the older iptables.

A packet passes the hook only if every base chain lets it, so no rule of ours can make up for a policy of drop, as
Docker and ufw set it, or for a last rule that rejects, as firewalld writes it. Whether such a chain accepts pods'
packets before that is for its rules to say, which are not judged here. Numbers are those of
linux/netfilter/nf_tables.h, netfilter.h, x_tables.h and netfilter_ipv4/ip_tables.h.
"""

import _socket
import posix
from _struct import Struct

from cni_plugin.netfilter import ABSENT, NETLINK_NETFILTER, dump, generic
from cni_plugin.netlink import Refusal, Socket, attribute, attributes
from cni_plugin.rtnetlink import AF_INET

_SUBSYSTEM, _GETCHAIN, _GETRULE = 10, 4, 7
_NFPROTO_INET = 1
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_USE = 1, 3, 4, 5, 6
_HOOK_NUMBER, _FORWARD = 1, 2
_RULE_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS = 1, 2, 4
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2
_IMMEDIATE_DATA, _DATA_VERDICT, _VERDICT_CODE = 2, 2, 1
_DROP = bytes(4)
_GENERIC_SIZE = 4
# NFTA_HOOK_HOOKNUM as it stands in a chain that is at the forward hook.
_AT_FORWARD = attribute(_HOOK_NUMBER, _FORWARD.to_bytes(4, "big"))
_FAMILIES = {_NFPROTO_INET: "inet", 2: "ip", 10: "ip6"}

_SOL_IP, _SOL_IPV6, _GET_INFO, _GET_ENTRIES = 0, 41, 64, 65
# struct ipt_getinfo: name, valid hooks, entry and underflow of five hooks, number of entries, their size.
_INFO = Struct("=32sI5I5III")
# struct ipt_get_entries begins with name and size, padded to eight bytes.
_ENTRIES = Struct("=32sI4x")
# Offsets in struct ipt_entry and ip6t_entry of target_offset and next_offset, two bytes each.
_OFFSETS = {2: 88, 10: 140}
_OFFSET_PAIR = Struct("=HH")
# struct xt_standard_target: size, name, revision, then the verdict: minus the number of NF_DROP, minus one.
_TARGET_SIZE, _STANDARD_DROP = 32, -1
_VERDICT = Struct("=i")
_LARGEST_TABLE = 16 << 20


def forward_drops(family: int, possible: bool = False) -> "list[str]":
    """One line for each chain that drops or rejects this namespace's forwarded packets of AF_INET or AF_INET6.

    Of chains that have rules before that, which may accept pods' packets, only with `possible`; the line tells their
    number. A kernel without nf_tables or iptables has no such chains. Raises Refusal for anything else (EPERM), and
    OSError.
    """
    return _nf_tables(family, not possible) + _iptables(family, not possible)


def _nf_tables(family: int, certain: bool) -> "list[str]":
    try:
        socket = Socket(NETLINK_NETFILTER)
    except OSError as fault:
        if fault.errno in ABSENT:
            return []
        raise
    try:
        found = []
        for kind in (family, _NFPROTO_INET):
            chains = dump(socket, _SUBSYSTEM << 8 | _GETCHAIN, generic(kind), lambda data: _AT_FORWARD in data)
            for body in [each for each in chains if _AT_FORWARD in each]:
                fault_text = _judge(socket, kind, body, certain)
                if fault_text:
                    found.append(fault_text)
        return found
    except Refusal as fault:
        if fault.errno in ABSENT:
            return []
        raise
    finally:
        socket.close()


def _judge(socket: Socket, family: int, body: bytes, certain: bool) -> str:
    """What a chain at the forward hook does to packets that none of its rules has decided, if it is no good."""
    chain = attributes(body, _GENERIC_SIZE)
    if attributes(chain.get(_CHAIN_HOOK, b""), 0).get(_HOOK_NUMBER) != _FORWARD.to_bytes(4, "big"):
        return ""
    table, name = chain[_CHAIN_TABLE], chain[_CHAIN_NAME]
    # Nobody can jump to a base chain, so its references are its rules.
    rules = int.from_bytes(chain.get(_CHAIN_USE, b""), "big")
    where = f"nft table {_FAMILIES[family]} {_text(table)} chain {_text(name)}"
    if chain.get(_CHAIN_POLICY) == _DROP:
        return "" if certain and rules else f"{where} has policy drop{_after(rules)}"
    if not rules or (certain and rules > 1):
        return ""
    request = generic(family) + attribute(_RULE_TABLE, table) + attribute(_RULE_CHAIN, name)
    listed = list(dump(socket, _SUBSYSTEM << 8 | _GETRULE, request, lambda _: True))
    if not listed or not _refuses_all(listed[-1]):
        return ""
    return f"{where} refuses everything{_after(len(listed) - 1)}"


def _refuses_all(rule: bytes) -> bool:
    """Whether a rule drops or rejects without a condition."""
    listed = attributes(rule, _GENERIC_SIZE).get(_RULE_EXPRESSIONS, b"")
    refuses = False
    for expression in _elements(listed):
        held = attributes(expression, 0)
        name = _text(held.get(_EXPRESSION_NAME, b""))
        if name == "immediate":
            data = attributes(held.get(_EXPRESSION_DATA, b""), 0).get(_IMMEDIATE_DATA, b"")
            verdict = attributes(attributes(data, 0).get(_DATA_VERDICT, b""), 0).get(_VERDICT_CODE)
            refuses = verdict == _DROP
        elif name == "reject":
            refuses = True
        elif name not in ("counter", "log"):
            return False
    return refuses


def _elements(listed: bytes) -> "list[bytes]":
    """The payloads of a list, whose attributes all have the same number."""
    found = []
    offset = 0
    while offset + 4 <= len(listed):
        size: int = _OFFSET_PAIR.unpack_from(listed, offset)[0]
        if size < 4:
            break
        found.append(listed[offset + 4 : offset + size])
        offset += size + (-size % 4)
    return found


def _after(rules: int) -> str:
    return f" after {rules} rule{'s' if rules > 1 else ''}" if rules else ""


def _text(name: bytes) -> str:
    return name.rstrip(b"\0").decode(errors="replace")


def _iptables(family: int, certain: bool) -> "list[str]":
    """The same for the table `filter` of the older iptables, where it is in use: asking for it would make it."""
    name = "ip" if family == AF_INET else "ip6"
    try:
        descriptor = posix.open(f"/proc/net/{name}_tables_names", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return []
    tables = posix.read(descriptor, 1 << 12)
    posix.close(descriptor)
    policy = _filter_forward(family) if b"filter" in tables.split() else None
    if policy is None or not policy[0] or (certain and policy[1]):
        return []
    return [f"{name}tables-legacy table filter chain FORWARD has policy drop{_after(policy[1])}"]


def _filter_forward(family: int) -> "tuple[bool, int] | None":
    """Whether the policy of FORWARD is drop, and the number of its rules; None if the table is gone or too large."""
    socket = _socket.socket(family, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, _socket.IPPROTO_RAW)
    try:
        info = _get_option(socket, family, _GET_INFO, _INFO.pack(b"filter", *[0] * 13))
        if info is None:
            return None
        values = _INFO.unpack(info)
        begin, end, size = values[2 + _FORWARD], values[7 + _FORWARD], values[13]
        if size > _LARGEST_TABLE:
            return None
        raw = _get_option(socket, family, _GET_ENTRIES, _ENTRIES.pack(b"filter", size) + bytes(size))
    finally:
        socket.close()
    # A table that changed in between has another size, which the kernel refuses.
    if raw is None:
        return None
    offset, rules = begin + _ENTRIES.size, 0
    target, following = _OFFSET_PAIR.unpack_from(raw, offset + _OFFSETS[family])
    while offset < end + _ENTRIES.size:
        offset, rules = offset + following, rules + 1
        target, following = _OFFSET_PAIR.unpack_from(raw, offset + _OFFSETS[family])
    return _VERDICT.unpack_from(raw, offset + target + _TARGET_SIZE)[0] == _STANDARD_DROP, rules


def _get_option(socket: "_socket.socket", family: int, option: int, request: bytes) -> "bytes | None":
    """getsockopt with a buffer that the kernel reads first, which Python's own cannot give; None if it refuses."""
    import _ctypes
    from array import array

    class Pointer(_ctypes._SimpleCData):  # type: ignore[type-arg]
        _type_ = "P"

    buffer, length = array("B", request), array("I", [len(request)])
    call = _ctypes.dlsym(_ctypes.dlopen(None, 2), "getsockopt")  # type: ignore[arg-type]
    level = _SOL_IP if family == AF_INET else _SOL_IPV6
    pointers = [Pointer(each.buffer_info()[0]) for each in (buffer, length)]
    if _ctypes.call_function(call, (socket.fileno(), level, option, *pointers)) != 0:
        return None
    return buffer.tobytes()
