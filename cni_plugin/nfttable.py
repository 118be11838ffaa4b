"""The table `inet podwire1` as text, and nft(8) to make or repair it: once per node, and after a flush."""

import posix
import time

from cni_plugin.nftables import GROUP_MASQUERADE, GROUP_PLAIN, TABLE, Element
from cni_plugin.spec import NFT_FAILURE, CniError

_SCRIPT_SECONDS = 5
_ELEMENT_SETS = ("hostport4", "hostport4ip", "hairpin4", "hostport6", "hostport6ip", "hairpin6")

_RULES = """\
create table inet {table}
add map inet {table} hostport4 {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
add map inet {table} hostport4ip {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
add map inet {table} hostport6 {{ type inet_proto . inet_service : ipv6_addr . inet_service; }}
add map inet {table} hostport6ip {{ type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }}
add set inet {table} hairpin4 {{ type ipv4_addr . ipv4_addr; }}
add set inet {table} hairpin6 {{ type ipv6_addr . ipv6_addr; }}
add set inet {table} nomasq4 {{ type ipv4_addr; flags interval; }}
add set inet {table} nomasq6 {{ type ipv6_addr; flags interval; }}
add chain inet {table} guard {{ type filter hook prerouting priority -300; }}
add chain inet {table} hostports
add chain inet {table} prerouting {{ type nat hook prerouting priority -100; }}
add chain inet {table} output {{ type nat hook output priority -100; }}
add chain inet {table} postrouting {{ type nat hook postrouting priority 100; }}
add rule inet {table} guard iifgroup != {{ {masq}, {plain} }} accept
add rule inet {table} guard ip daddr 127.0.0.0/8 drop
add rule inet {table} guard icmpv6 type nd-router-advert drop
add rule inet {table} guard ip6 saddr != fe80::/10 fib saddr . iif oif missing drop
add rule inet {table} hostports dnat ip addr . port to ip daddr . meta l4proto . th dport map @hostport4ip
add rule inet {table} hostports dnat ip addr . port to meta l4proto . th dport map @hostport4
add rule inet {table} hostports dnat ip6 addr . port to ip6 daddr . meta l4proto . th dport map @hostport6ip
add rule inet {table} hostports dnat ip6 addr . port to meta l4proto . th dport map @hostport6
add rule inet {table} prerouting fib daddr type local jump hostports
add rule inet {table} output fib daddr type local jump hostports
add rule inet {table} postrouting ct status dnat ip saddr . ip daddr @hairpin4 masquerade
add rule inet {table} postrouting ct status dnat ip6 saddr . ip6 daddr @hairpin6 masquerade
add rule inet {table} postrouting oifgroup {{ {masq}, {plain} }} ct status dnat ip saddr 127.0.0.0/8 masquerade
add rule inet {table} postrouting iifgroup {masq} oifgroup != {{ {masq}, {plain} }} \
ip daddr != @nomasq4 masquerade fully-random
add rule inet {table} postrouting iifgroup {masq} oifgroup != {{ {masq}, {plain} }} \
ip6 daddr != @nomasq6 masquerade fully-random
"""


def table_script(no_masquerade: "list[str]", elements: "list[Element]") -> str:
    """The nft script that makes the whole table with its elements, or fails with EEXIST when it is there.

    `create table` comes first: of several makers in a race one wins, and the others change nothing.
    `no_masquerade` are disjoint intervals of both families in nft's words.
    """
    script = _RULES.format(table=TABLE, masq=GROUP_MASQUERADE, plain=GROUP_PLAIN)
    script += _no_masquerade(no_masquerade)
    for name in _ELEMENT_SETS:
        words = []
        for each in elements:
            if each.set == name:
                left, colon, right = each.text.partition(" : ")
                words.append(f'{left} comment "{each.comment}"{colon}{right}')
        script += _add(name, words)
    return script


def no_masquerade_script(no_masquerade: "list[str]") -> str:
    """The nft script that replaces the destinations which are never masqueraded, in one transaction."""
    flush = f"flush set inet {TABLE} nomasq4\nflush set inet {TABLE} nomasq6\n"
    return flush + _no_masquerade(no_masquerade)


def _no_masquerade(intervals: "list[str]") -> str:
    return _add("nomasq4", [each for each in intervals if ":" not in each]) + _add(
        "nomasq6", [each for each in intervals if ":" in each]
    )


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
