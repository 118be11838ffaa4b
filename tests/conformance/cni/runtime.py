"""The runtime's part of the protocol, as libcni plays it.

Sources: SPEC.md sections 2 to 4 and libcni/api.go. For one attachment the plugins of a list are executed in order for
ADD and CHECK and in reverse for DEL; ADD hands each the result of the one before as `prevResult`, CHECK and DEL hand
every one the last result, from 0.4.0 on. Capabilities that a plugin declares become its `runtimeConfig`. The result is
kept for as long as the attachment lives. No verb is called in a version that does not have it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conformance.cni.network import Network, version_number
from tests.conformance.cni.plugin import LONGEST, Answer, Running
from tests.conformance.cni.site import Site
from tests.lab.netns import Named, Namespace


@dataclass(frozen=True)
class Attachment:
    """What ADD of one container and interface on one network left in the runtime's memory."""

    result: dict[str, Any]
    netns: str
    args: str
    capabilities: dict[str, Any]


@dataclass
class Runtime:
    """Calls the plugins of a network on a site. `search` is CNI_PATH."""

    site: Site
    search: Sequence[Path]
    attachments: dict[tuple[str, str, str], Attachment] = field(default_factory=dict)

    def environment(
        self, verb: str, container: str = "", netns: Named | Namespace | str = "", ifname: str = "eth0", args: str = ""
    ) -> dict[str, str]:
        """The CNI_* variables; empty ones are left out, as a variable that is not given."""
        path = netns if isinstance(netns, str) else netns_path(netns)
        variables = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": path,
            "CNI_IFNAME": ifname if container else "",
            "CNI_ARGS": args,
            "CNI_PATH": ":".join(map(str, self.search)),
        }
        return {name: value for name, value in variables.items() if value}

    def find(self, kind: str) -> Path:
        """The executable of a plugin. Raises FileNotFoundError where no folder of the search path has it."""
        for folder in self.search:
            if (folder / kind).exists():
                return folder / kind
        raise FileNotFoundError(f"no plugin {kind} in {':'.join(map(str, self.search))}")

    def start(
        self, network: Network, position: int, environment: Mapping[str, str], wrap: Sequence[str] = (), **more: Any
    ) -> Running:
        """Start one plugin of the list with its document on stdin."""
        stdin = json.dumps(network.document(position, **more)).encode()
        return Running(self.site.space, self.find(network.plugins[position]["type"]), environment, stdin, wrap)

    def add(
        self,
        network: Network,
        container: str,
        netns: Named | Namespace | str,
        ifname: str = "eth0",
        *,
        args: str = "",
        capabilities: Mapping[str, Any] | None = None,
        seconds: float = LONGEST,
        **more: Any,
    ) -> Answer:
        """ADD through the list: the last plugin's answer, or that of the first that fails."""
        environment = self.environment("ADD", container, netns, ifname, args)
        previous: dict[str, Any] = {}
        answer = None
        for position in range(len(network.plugins)):
            extra = {**self._runtime_config(network, position, capabilities), **previous, **more}
            answer = self.start(network, position, environment, **extra).finish(seconds)
            if not answer.succeeded:
                return answer
            previous = {"prevResult": answer.document} if version_number(network.version) >= (0, 3, 0) else {}
        assert answer is not None, "a network without plugins"
        self.attachments[network.name, container, ifname] = Attachment(
            answer.document, environment.get("CNI_NETNS", ""), args, dict(capabilities or {})
        )
        return answer

    def delete(
        self,
        network: Network,
        container: str,
        netns: Named | Namespace | str = "",
        ifname: str = "eth0",
        *,
        forgetful: bool = False,
        **more: Any,
    ) -> Answer:
        """DEL through the list; `forgetful` plays a runtime that lost its results."""
        kept = None if forgetful else self.attachments.get((network.name, container, ifname))
        answer = self._backwards("DEL", network, container, netns, ifname, kept, more)
        if answer.succeeded:
            self.attachments.pop((network.name, container, ifname), None)
        return answer

    def check(
        self, network: Network, container: str, netns: Named | Namespace | str, ifname: str = "eth0", **more: Any
    ) -> Answer:
        """CHECK through the list with the kept result: the first answer that fails, or the last."""
        kept = self.attachments[network.name, container, ifname]
        environment = self.environment("CHECK", container, netns, ifname, kept.args)
        answer = None
        for position in range(len(network.plugins)):
            extra = {
                **self._runtime_config(network, position, kept.capabilities),
                "prevResult": kept.result,
                **more,
            }
            answer = self.start(network, position, environment, **extra).finish()
            if not answer.succeeded:
                return answer
        assert answer is not None, "a network without plugins"
        return answer

    def gc(self, network: Network, valid: Sequence[tuple[str, str]], keys: Sequence[str] | None = None) -> Answer:
        """GC of every plugin with the attachments that are still in use: the first answer that fails, or the last."""
        attachments = [{"containerID": container, "ifname": ifname} for container, ifname in valid]
        # libcni fills both keys: the second is a name that the specification had by mistake (cni#1101).
        keys = ("cni.dev/valid-attachments", "cni.dev/attachments") if keys is None else keys
        return self._each("GC", network, **dict.fromkeys(keys, attachments))

    def status(self, network: Network) -> Answer:
        """STATUS of every plugin: the first answer that fails, or the last."""
        return self._each("STATUS", network)

    def _each(self, verb: str, network: Network, **more: Any) -> Answer:
        answers = [
            self.start(network, position, self.environment(verb), **more).finish()
            for position in range(len(network.plugins))
        ]
        return next((answer for answer in answers if not answer.succeeded), answers[-1])

    def _backwards(
        self,
        verb: str,
        network: Network,
        container: str,
        netns: Named | Namespace | str,
        ifname: str,
        kept: Attachment | None,
        more: dict[str, Any],
    ) -> Answer:
        environment = self.environment(verb, container, netns, ifname, kept.args if kept else "")
        extra: dict[str, Any] = {}
        if kept and version_number(network.version) >= (0, 4, 0):
            extra["prevResult"] = kept.result
        answer = None
        for position in reversed(range(len(network.plugins))):
            runtime_config = self._runtime_config(network, position, kept.capabilities if kept else None)
            answer = self.start(network, position, environment, **{**runtime_config, **extra, **more}).finish()
            if not answer.succeeded:
                return answer
        assert answer is not None, "a network without plugins"
        return answer

    @staticmethod
    def _runtime_config(network: Network, position: int, given: Mapping[str, Any] | None) -> dict[str, Any]:
        declared = network.plugins[position].get("capabilities", {})
        wanted = {name: value for name, value in (given or {}).items() if declared.get(name)}
        return {"runtimeConfig": wanted} if wanted else {}


def netns_path(place: Named | Namespace) -> str:
    """The path of a namespace, as a runtime gives it in CNI_NETNS."""
    return place.path if isinstance(place, Named) else f"/proc/{place.pid}/ns/net"
