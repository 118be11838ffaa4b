"""One comparison of plan and kernel, part after part; a part that fails is a fault, and the others go on.

The order keeps packets right in between: what is never masqueraded is stated before routes lead there, the tunnel
stands before routes enter it, and what no route needs any more goes last.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pyroute2 import IPRoute, NetlinkError

from cni_plugin.agent import forwarding, masquerade, plan, routes, scene, vxlan
from cni_plugin.agent.config import Config
from cni_plugin.agent.peers import Nodes
from cni_plugin.agent.plan import Identity, Plan
from cni_plugin.agent.routes import Outcome as RouteOutcome
from cni_plugin.agent.vxlan import Device
from cni_plugin.netlink import Refusal
from cni_plugin.spec import CniError


@dataclass(slots=True)
class Result:
    """What a comparison found and did. `faults` by part; `plan` is None where no list of nodes is known."""

    plan: Plan | None = None
    tunnel: int = 0
    routes: RouteOutcome = field(default_factory=RouteOutcome)
    rebuilt: bool = False
    notes: list[str] = field(default_factory=list)
    faults: dict[str, list[str]] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Whether anything was made or removed."""
        return bool(self.notes or self.routes.made or self.routes.removed)


class Reconciler:
    """Knows what the configuration says; holds no state between two comparisons."""

    def __init__(self, config: Config, node_name: str, alive: Callable[[], None] = lambda: None) -> None:
        self._config, self._alive = config, alive
        self.device = Device(
            config.vxlan_device, config.vxlan_vni, config.vxlan_port, checksum_offload=config.vxlan_checksum_offload
        )
        self.identity = Identity(
            node_name,
            config.pod_cidrs,
            config.addresses,
            config.cluster_cidrs,
            config.mode,
            config.vxlan_underlay,
            config.vxlan_mtu,
        )

    def turn(self, nodes: Nodes | None, *, full: bool) -> Result:
        """Compare and correct. Without a list of nodes nothing is removed: what is there was right once."""
        result = Result()
        if nodes is None:
            with _part("masquerade", result):
                result.rebuilt = masquerade.keep(self._config.state_dir).rebuilt
            self._keep_node(result, frozenset(each.version for each in self._config.pod_cidrs))
            return result
        with _part("routes", result), IPRoute() as ip:
            others = {each for peer in nodes.peers if peer.name != self.identity.name for each in peer.addresses}
            result.tunnel = vxlan.find(ip, self.device)
            result.plan = made = plan.make(self.identity, nodes, scene.read(ip, result.tunnel, others))
            result.faults["nodes"] = list(made.faults)
            self._masquerade(result, made, full=full)
            self._apply(ip, made, result)
        self._keep_node(result, result.plan.families if result.plan else frozenset())
        return result

    def _apply(self, ip: IPRoute, made: Plan, result: Result) -> None:
        prepared = vxlan.prepare(ip, self.device, made.tunnel, self._alive) if made.tunnel else vxlan.Outcome()
        result.tunnel = prepared.link
        result.routes = routes.apply(ip, made.routes, self._config.routes_protocol, prepared.link, self._alive)
        if made.tunnel is None:
            prepared = vxlan.prepare(ip, self.device, None)
        elif prepared.link:
            vxlan.trim(ip, made.tunnel, prepared)
        result.notes += prepared.notes
        result.faults["tunnel"] = prepared.faults
        result.faults["routes"] = result.routes.faults

    def _masquerade(self, result: Result, made: Plan, *, full: bool) -> None:
        with _part("masquerade", result):
            done = masquerade.apply(self._config.state_dir, made.no_masquerade, force=full)
            result.notes += done.notes
            result.rebuilt = done.rebuilt

    def _keep_node(self, result: Result, families: frozenset[int]) -> None:
        with _part("forwarding", result):
            result.notes += forwarding.keep(families)


def cleanup(config: Config) -> list[str]:
    """Remove everything that an agent with this configuration made; returns faults."""
    result = Result()
    device = Device(config.vxlan_device, config.vxlan_vni, config.vxlan_port)
    steps: list[Callable[[IPRoute], list[str]]] = [
        lambda ip: routes.remove_all(ip, config.routes_protocol).faults,
        lambda ip: vxlan.remove_all(ip, device).faults,
    ]
    for step in steps:
        with _part("kernel", result), IPRoute() as ip:
            result.faults.setdefault("kernel", []).extend(step(ip))
    with _part("masquerade", result):
        masquerade.forget(config.state_dir)
    return [fault for faults in result.faults.values() for fault in faults]


@contextmanager
def _part(name: str, result: Result) -> Iterator[None]:
    try:
        yield
    except CniError as fault:
        hint = f"; {fault.details}" if fault.details else ""
        result.faults.setdefault(name, []).append(f"{name}: {fault.message}{hint}")
    except NetlinkError as fault:
        result.faults.setdefault(name, []).append(f"{name}: the kernel said {routes.reason(fault)}")
    except (OSError, Refusal) as fault:
        result.faults.setdefault(name, []).append(f"{name}: {fault}")
