"""Which ways a node's second pod tries in a smoke test, and how the outcome is told."""

from collections.abc import Iterable
from typing import Any

from cni_plugin.install import smoke_traffic
from cni_plugin.install.site import Site
from cni_plugin.net import kernel

POD, HOST_PORT = "pod", "hostPort"


def ways(own: dict[str, Any], lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """To each node's first pod and hostPort, in the families that both sides have; this node's own come first.

    `source` is what the server must see: a pod's own address on the way to another pod, on any node.
    """
    sources = own["pods"][1]["addresses"]
    found = []
    for line in sorted(lines, key=lambda each: (each["token"] != own["token"], each["node"])):
        target = line["pods"][0]["addresses"]
        both = families(sources) & families(target)
        common = {"from": own["node"], "to": line["node"], "here": line["token"] == own["token"]}
        for address in target:
            if family(address) in both:
                expected = [each for each in sources if family(each) == family(address)]
                found.append(common | {"kind": POD, "address": address, "port": line["port"], "source": expected})
        common |= {"kind": HOST_PORT, "port": line["hostPort"], "source": []}
        found += [common | {"address": address} for address in line["nodeAddresses"] if family(address) in both]
    return found


def tried(site: Site, netns: str, wanted: list[dict[str, Any]], seconds: float) -> list[dict[str, Any]]:
    """The ways with their outcome. Raises NodeError."""
    site.say(f"  trying, for {seconds:g} s at most")
    return smoke_traffic.ask(netns, wanted, seconds)


def table(results: list[dict[str, Any]]) -> list[str]:
    """One row a way, for people."""
    rows = [("to", "what", "address", "ms", "")]
    for each in results:
        where = f"[{each['address']}]:{each['port']}" if ":" in each["address"] else f"{each['address']}:{each['port']}"
        place = f"{each['to']} (here)" if each["here"] else each["to"]
        outcome = "ok" if each["ok"] else each["error"]
        if each["ok"] and each["tries"] > 1:
            outcome = f"ok, at try {each['tries']}"
        rows.append((place, each["kind"], where, f"{each['ms']:.1f}", outcome))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    aligned = "<<<>"
    return [
        "  " + "  ".join([*(f"{row[i]:{aligned[i]}{widths[i]}}" for i in range(4)), row[4]]).rstrip() for row in rows
    ]


def explained(result: dict[str, Any]) -> str:
    """A way that failed, with what to look at."""
    what = f"{result['from']} -> {result['to']}, {result['kind']} {result['address']} port {result['port']}"
    if result["saw"]:
        hint = "something masquerades traffic between pods: `podwire-net doctor`, and the agent's cluster CIDRs"
    elif result["kind"] == HOST_PORT:
        hint = f"`podwire-net doctor` and `podwire-net leases` on {result['to']}; other firewalls on the node"
    elif result["here"]:
        hint = f"`podwire-net doctor` on {result['to']}"
    else:
        hint = (
            "`podwire-node status` on both nodes (does the agent say ready?), `ip route` for the pods of "
            f"{result['to']}, `podwire-net doctor` on both"
        )
    return f"{what}: {result['error']} -> {hint}"


def family(address: str) -> int:
    """4 or 6."""
    return 6 if ":" in address else 4


def families(addresses: Iterable[str]) -> set[int]:
    """Of several addresses."""
    return {family(each) for each in addresses}


def node_addresses() -> list[str]:
    """This node's addresses on the links that lead out of it; without a default route, those of all foreign links."""
    seen = kernel.read()
    out = {link.name for number in (2, 10) if (link := seen.way_out(number)) is not None}
    ours = {link.name for link in seen.links if link.ours}
    found = [
        address.partition("/")[0] for address, link, _ in seen.addresses if (link in out if out else link not in ours)
    ]
    return sorted(dict.fromkeys(found), key=lambda address: (family(address), address))
