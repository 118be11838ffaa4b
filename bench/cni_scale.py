"""How the cost of an ADD grows with the addresses that are held already, beside host-local's.

The holders are records and claims (for host-local: its files) without a kernel object each, so that only the cost of
choosing an address differs between the columns.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from bench.cni_chains import Chain, Place, Pod, podwire_step, reference_step
from bench.driver import Exec, Running, percentile, settle
from cni_plugin import claims, ipam, netns, rtnetlink
from cni_plugin.attachment import Address, Attachment, derived_mac

HELD = (1, 250, 5000)
_WARM_UP = 3
_SUBNETS = {"IPv4 /16": "10.{}.0.0/16", "IPv6 /64": "fd00:{}::/64"}
_FIRST_POSITION = 40


def rows(place: Place, pods: Sequence[Pod], runs: int) -> list[list[str]]:
    """One row for each plugin and family: p50 of ADD's wall time in ms by held addresses, and last to first."""
    table = []
    position = _FIRST_POSITION
    for family, pattern in _SUBNETS.items():
        for name in ("podwire", "ptp + host-local"):
            chains = []
            for held in HELD:
                position += 1
                subnet = pattern.format(position)
                if name == "podwire":
                    state = f"{place.state}/scale-{position}"
                    hold(state, f"bench{position}", subnet, held)
                    step = podwire_step(place, [subnet], state)
                else:
                    state = f"{place.state}/host-local-{position}"
                    hold_for_host_local(Path(state, f"bench{position}"), subnet, held)
                    step = reference_step(place, "ptp", [subnet], state)
                chains.append(Chain(f"{name} {held}", position, [step], place))
            medians = _measure(chains, pods, runs)
            cells = [f"{median * 1000:.2f}" for median in medians]
            table.append([f"{name}, {family}", *cells, f"{medians[-1] / medians[0]:.3f}"])
    return table


def _measure(chains: Sequence[Chain], pods: Sequence[Pod], runs: int) -> list[float]:
    samples: list[list[float]] = [[] for _ in chains]
    for run in range(-_WARM_UP, runs):
        for chain, pod, kept in zip(chains, pods, samples, strict=False):
            wall = sum(each.wall for each in chain.add(pod))
            chain.delete(pod)
            settle()
            if run >= 0:
                kept.append(wall)
    return [percentile(each, 0.5) for each in samples]


def status_seconds(place: Place, runs: int, count: int) -> float:
    """p50 of the wall time of STATUS on a node where `count` addresses are held."""
    subnet, state = "10.39.0.0/16", f"{place.state}/scale-status"
    hold(state, "status", subnet, count)
    program, own = podwire_step(place, [subnet], state)
    document = {"cniVersion": "1.1.0", "name": "status", **own}
    call = Exec([program], {"CNI_COMMAND": "STATUS", "CNI_PATH": place.plugins}, json.dumps(document).encode())
    return percentile([Running(call).finish().wall for _ in range(runs)], 0.5)


def hold(state: str, network: str, subnet: str, count: int) -> None:
    """Reserve `count` addresses of the namespace that this process is in."""
    ledger = claims.Ledger(state, netns.cookie(rtnetlink.Socket().raw))
    range_set = ipam.RangeSet([ipam.Range(subnet)], [])
    candidates = range_set.candidates(None)
    for number in range(count):
        address = next(candidates)
        made = Attachment(
            container_id=f"held-{number}",
            ifname="eth0",
            network=network,
            pod=f"bench/held-{number}",
            netns="/run/netns/none",
            netns_cookie=1,
            host_link=f"held{number}",
            group=0,
            mtu=1500,
            mac=derived_mac(address),
            addresses=[Address(address)],
            routes=[],
            table=0,
            host_ports=[],
            sticky=None,
            created=claims.boot_time(),
        )
        ledger.reserve(made, lambda: None)
        ledger.complete(made)
    # The next ADD begins behind them, as it would had they been made by ADD.
    claims.write(f"{ledger.path}/cursors/{range_set.name()}", address)


def hold_for_host_local(folder: Path, subnet: str, count: int) -> None:
    """As many of host-local's files, and its mark of the last one."""
    folder.mkdir(parents=True)
    candidates = ipam.RangeSet([ipam.Range(subnet)], []).candidates(None)
    for number in range(count):
        text = ipam.format_address(next(candidates))
        (folder / text).write_text(f"held-{number}\r\neth0")
    (folder / "last_reserved_ip.0").write_text(text)
