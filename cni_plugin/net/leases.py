"""leases: who holds what since when, what cools down, and how full the pools are."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cni_plugin import claims, config
from cni_plugin.net import conflists, kernel, state
from cni_plugin.net.output import Output

_MANY = 10_000_000


@dataclass(frozen=True)
class Filter:
    """What to show; an empty field shows all. `pod` is `name` or `namespace/name`."""

    network: str = ""
    pod: str = ""
    address: str = ""

    def takes(self, record: state.Record) -> bool:
        """Whether the record is to be shown."""
        pod = record.attachment.pod
        return (
            self.network in ("", record.attachment.network)
            and self.pod in ("", pod, pod.partition("/")[2])
            and (not self.address or self.address in record.addresses)
        )


def document(state_dir: Path, netd: Path, wanted: Filter) -> dict[str, Any]:
    """What docs/podwire-net.md describes. Raises OSError and CniError."""
    read, links, now = state.read(state_dir), kernel.read().by_name, claims.boot_time()
    networks = conflists.networks(conflists.read(netd))
    records = sorted((each for each in read.records if wanted.takes(each)), key=lambda each: each.attachment.created)
    cooling = {
        address: left
        for address, mark in read.cooling.items()
        if (left := _cooldown(networks, address) - (now - mark.released)) > 0
    }
    kept = {address: left for address, mark in read.cooling.items() if (left := mark.kept - (now - mark.released)) > 0}
    narrowed = bool(wanted.network or wanted.pod)
    return {
        "command": "leases",
        "stateDir": str(state_dir),
        "leases": [_lease(record, links, now) for record in records],
        "cooling": _left(cooling, wanted, narrowed),
        "sticky": _left(kept, wanted, narrowed),
        "foreign": [
            {"address": address, "source": source}
            for address, source in sorted(read.foreign.items())
            if not narrowed and wanted.address in ("", address)
        ],
        "pools": [
            {
                "network": pool.network,
                "ranges": pool.ranges,
                "size": pool.size,
                "used": pool.used,
                "cooling": pool.cooling,
                "foreign": pool.foreign,
                "free": pool.free,
            }
            for pool in conflists.pools(networks, read, set(cooling))
            if wanted.network in ("", pool.network)
        ],
    }


def _lease(record: state.Record, links: dict[str, kernel.Link], now: float) -> dict[str, Any]:
    attachment = record.attachment
    age = max(0.0, now - attachment.created)
    return {
        "addresses": record.addresses,
        "pod": attachment.pod,
        "containerID": attachment.container_id,
        "ifname": attachment.ifname,
        "network": attachment.network,
        "hostPorts": record.host_ports,
        "state": "attached" if record.state == "attachments" else record.state,
        "hostLink": attachment.host_link,
        "hostLinkPresent": attachment.host_link in links if attachment.host_link else None,
        "netns": attachment.netns,
        "ageSeconds": round(age, 1),
        "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - age)),
    }


def _cooldown(networks: list[config.Network], address: str) -> float:
    for network in networks:
        if any(conflists.holds(each, address) for each in network.range_sets):
            return network.cooldown
    return config.COOLDOWN_SECONDS


def _left(seconds: dict[str, float], wanted: Filter, narrowed: bool) -> list[dict[str, Any]]:
    return [
        {"address": address, "remainingSeconds": round(left, 1)}
        for address, left in sorted(seconds.items())
        if not narrowed and wanted.address in ("", address)
    ]


def show(answer: dict[str, Any], output: Output) -> None:
    """The document as tables."""
    heads, rows = (_narrow if output.console.is_terminal else _wide)(answer["leases"])
    if rows:
        output.table(heads, rows)
    else:
        output.line(f"no leases in {answer['stateDir']}")
    for heads2, key, column in (
        (("COOLING", "FREE IN"), "cooling", "remainingSeconds"),
        (("KEPT FOR ITS POD", "STILL"), "sticky", "remainingSeconds"),
        (("ANOTHER PLUGIN'S", "ACCORDING TO"), "foreign", "source"),
    ):
        if answer[key]:
            output.line("")
            values = [(each["address"], each[column]) for each in answer[key]]
            output.table(heads2, [(one, two if isinstance(two, str) else duration(two)) for one, two in values])
    if answer["pools"]:
        output.line("")
        columns = ("network", "ranges", "size", "used", "free", "cooling", "foreign")
        output.table(
            ("POOL OF", *(name.upper() for name in columns[1:])),
            [[_count(pool[name]) for name in columns] for pool in answer["pools"]],
        )


def _count(value: str | int) -> str:
    """Counts as they are, and those of IPv6 pools, which nobody counts, by their size."""
    return f"{value:.2g}" if isinstance(value, int) and value > _MANY else str(value)


Table = tuple[tuple[str, ...], list[tuple[str, ...]]]


def _wide(found: list[dict[str, Any]]) -> Table:
    """A line per lease, for pipes."""
    heads = ("ADDRESS", "POD", "IF", "STATE", "AGE", "NETWORK", "HOSTPORTS", "LINK", "CONTAINER")
    return heads, [
        (
            ",".join(lease["addresses"]) or "-",
            lease["pod"] or "-",
            lease["ifname"],
            lease["state"],
            duration(lease["ageSeconds"]),
            lease["network"],
            ",".join(_ports(lease)) or "-",
            _link(lease),
            lease["containerID"],
        )
        for lease in found
    ]


def _narrow(found: list[dict[str, Any]]) -> Table:
    """Two lines or more per lease, for a terminal of 80 columns."""
    heads = ("ADDRESS", "POD, CONTAINER", "IF, LINK", "STATE, NET", "AGE", "HOSTPORTS")
    return heads, [
        (
            "\n".join(lease["addresses"]) or "-",
            f"{lease['pod'] or '-'}\n{lease['containerID'][:13]}",
            f"{lease['ifname']}\n{_link(lease)}",
            f"{lease['state']}\n{lease['network']}",
            duration(lease["ageSeconds"]),
            "\n".join(_ports(lease)) or "-",
        )
        for lease in found
    ]


def _link(lease: dict[str, Any]) -> str:
    if lease["hostLinkPresent"] is None:
        return "-"
    return str(lease["hostLink"]) if lease["hostLinkPresent"] else "missing"


def _ports(lease: dict[str, Any]) -> list[str]:
    """hostPorts without the words for every address, so that both families' are one."""
    short = [port.replace("/0.0.0.0:", "/").replace("/[::]:", "/") for port in lease["hostPorts"]]
    return list(dict.fromkeys(short))


def duration(seconds: float) -> str:
    """Seconds as people read them: `12s`, `3m20s`, `5h12m`, `9d4h`."""
    whole = int(seconds)
    for unit, size, smaller, small in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size}{unit}" + (f"{rest}{smaller}" if rest else "")
    return f"{whole}s"
