"""What a case works with: a plugin on a fresh node, and the words to say what happens to it."""

import ipaddress
import random
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.conformance.cni.network import Network
from tests.conformance.cni.plugin import LONGEST, Answer, Running
from tests.conformance.cni.runtime import Runtime
from tests.conformance.cni.site import Site
from tests.conformance.cni.subject import Subject
from tests.lab import witness
from tests.lab.netns import Named, Namespace

Target = Named | Namespace | str


class Cni:
    """A plugin on a node. `network` is what the verbs use where a case gives no other."""

    def __init__(self, subject: Subject, stack: ExitStack, folder: Path, seed: int) -> None:
        self.subject, self.stack, self.folder = subject, stack, folder
        self.random = random.Random(seed)
        self.network = subject.newest
        self.move(Site(stack))

    def move(self, site: Site) -> None:
        """Go on at another node, with a runtime that remembers nothing."""
        self.site = site
        self.runtime = Runtime(site, self.subject.search)

    def pod(self) -> Named:
        """A fresh pod."""
        return self.site.pod()

    def pods(self, count: int) -> list[Named]:
        """Fresh pods, made in one go."""
        return self.site.pods(count)

    def add(self, container: str, target: Target, ifname: str = "eth0", **more: Any) -> Answer:
        """ADD through the network's plugins, see `Runtime.add`; `network=` for another network."""
        return self.runtime.add(more.pop("network", self.network), container, target, ifname, **more)

    def delete(self, container: str, target: Target = "", ifname: str = "eth0", **more: Any) -> Answer:
        """DEL, see `Runtime.delete`."""
        return self.runtime.delete(more.pop("network", self.network), container, target, ifname, **more)

    def check(self, container: str, target: Target, ifname: str = "eth0", **more: Any) -> Answer:
        """CHECK, see `Runtime.check`."""
        return self.runtime.check(more.pop("network", self.network), container, target, ifname, **more)

    def gc(self, *valid: str, network: Network | None = None, keys: Sequence[str] | None = None) -> Answer:
        """GC that keeps `eth0` of these containers."""
        return self.runtime.gc(network or self.network, [(container, "eth0") for container in valid], keys)

    def status(self, network: Network | None = None) -> Answer:
        """STATUS."""
        return self.runtime.status(network or self.network)

    def start(self, verb: str, container: str = "", target: Target = "", **more: Any) -> Running:
        """Start the plugin under test alone, with the document that it gets as the only plugin."""
        network: Network = more.pop("network", self.network)
        environment = self.environment(verb, container, target, **more.pop("env", {}))
        return self.runtime.start(network, network.position, environment, more.pop("wrap", ()), **more)

    def call(self, verb: str, container: str = "", target: Target = "", **more: Any) -> Answer:
        """Execute the plugin under test alone: `network`, `env` (None drops one), `wrap`; the rest is for stdin."""
        seconds = more.pop("seconds", LONGEST)
        return self.start(verb, container, target, **more).finish(seconds)

    def raw(self, stdin: bytes, environment: Mapping[str, str], wrap: Sequence[str] = ()) -> Answer:
        """Execute the plugin under test with these very bytes."""
        executable = self.runtime.find(self.network.entry["type"])
        return Running(self.site.space, executable, environment, stdin, wrap).finish()

    def environment(self, verb: str, container: str = "", target: Target = "", **changes: str | None) -> dict[str, str]:
        """The variables of a call; `changes` are laid over, None drops one."""
        variables = {**self.runtime.environment(verb, container, target), **changes}
        return {name: value for name, value in variables.items() if value is not None}

    @property
    def shared_links(self) -> set[str]:
        """Links on the node that belong to no pod: a bridge stays when the last pod goes."""
        return {entry["bridge"] for entry in self.network.plugins if entry.get("bridge")}

    def host_links(self, result: Mapping[str, Any]) -> list[str]:
        """The pod's own links on the node, as a result names them."""
        names = [end["name"] for end in result["interfaces"] if not end.get("sandbox")]
        return [name for name in names if name not in self.shared_links]

    def holdings(self) -> witness.Snapshot:
        """What attachments hold on the node, see `Site.holdings`, with the files of the profile's state folder."""
        state = self.subject.profile.state
        found = self.site.holdings(state.folder, (*state.kept, *state.locks))
        if not self.shared_links:
            return found
        shared = re.compile(rf"\b(?:{'|'.join(map(re.escape, self.shared_links))})\b")
        return witness.Snapshot(
            {kind: frozenset(line for line in lines if not shared.search(line)) for kind, lines in found.kinds.items()}
        )

    def baseline(self) -> witness.Snapshot:
        """What stays on the node once the plugin has been used: an ADD and a DEL are done first, with hostPort."""
        ports = {"portMappings": [{"hostPort": 3999, "containerPort": 3999, "protocol": "tcp"}]}
        pod = self.pod()
        self.add("baseline", pod, capabilities=ports).ok()
        self.delete("baseline", pod).ok()
        return self.holdings()

    def restored(self, before: witness.Snapshot) -> None:
        """Assert that the node holds what it did before, once the kernel has finished."""
        difference = witness.settled(before, self.holdings, seconds=3)
        assert not difference, f"the node is not as before: {'; '.join(difference)}"

    def with_pool(self, *subnets: str) -> Network:
        """The network with these subnets as its range sets; the case is skipped where there is no pool."""
        self.subject.need("ipam")
        if len(subnets) > 1:
            self.subject.need("range_sets")
        for subnet in subnets:
            self.subject.need("ipv6" if ":" in subnet else "ipv4")
        self.network = self.network.with_ranges(*subnets)
        return self.network

    def capacity(self, limit: int = 64) -> set[str]:
        """Addresses that ADDs of new pods get until one is refused, all given back at the end."""
        given: dict[str, Named] = {}
        found: set[str] = set()
        for number, pod in enumerate(self.pods(limit)):
            answer = self.add(f"capacity-{number}", pod)
            if not answer.succeeded:
                answer.refused()
                break
            assert not found & set(answer.addresses), f"an address was given twice: {answer}"
            found |= set(answer.addresses)
            given[f"capacity-{number}"] = pod
        for container, pod in given.items():
            self.delete(container, pod).ok()
        return found

    def all_free(self, *counts: int) -> None:
        """Assert that so many addresses can be had, and say what the plugin's state holds where they cannot."""
        state = self.subject.profile.state
        held = {
            name: self.site.path(f"{state.folder}/{name}").read_bytes()[:80]
            for name in self.site.files(state.folder, (*state.kept, *state.locks))
        }
        found = len(self.capacity(max(counts) + 2))
        assert found in counts, f"{found} addresses can be had of {max(counts)}; before that its state held {held}"


def usable(subnet: str) -> set[str]:
    """The addresses of a subnet that a plugin may hand out: all but network and broadcast address."""
    return {str(address) for address in ipaddress.ip_network(subnet).hosts()}
