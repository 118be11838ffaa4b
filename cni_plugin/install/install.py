"""install: one transaction of steps, from the folders to the conflist, each in the journal before it is done.

Every step compares first and does nothing where the node is as wanted. So the same payload and options again are no
step at all, another payload is an upgrade, and one more option is the difference. `Install.run` is the order.
"""

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cni_plugin.install import entries, kubelet, manifest, pods, runtime, selftest, undo
from cni_plugin.install.entries import Entry
from cni_plugin.install.journal import Journal, Step
from cni_plugin.install.manifest import Manifest
from cni_plugin.install.options import NETWORK, Options
from cni_plugin.install.places import AGENT_UNIT, COMMANDS, SHIM_UNIT, WATCHDOG_TIMER, WATCHDOG_UNIT
from cni_plugin.install.site import NodeError, Site
from cni_plugin.net import conflists, kernel

KUBELET_UNIT = "kubelet.service"
KUBELET_STAYS_SECONDS = 5.0
SETTLE_SECONDS = 30.0
POKES = 3
_IP_FORWARD, _IPV6 = "net/ipv4/ip_forward", "net/ipv6/conf"


class Rehearsal(Journal):
    """A journal that writes nothing and does nothing: `planned` are the steps that there would be."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(journal.places)
        self.document = {**journal.document, "transaction": None}
        if journal.transaction is not None:
            self.document["steps"] = [*journal.steps, *journal.transaction["steps"]]
        self.planned: list[Step] = []

    @property
    def transaction(self) -> dict[str, Any]:
        """One that holds what is planned."""
        return {"steps": [step.document() for step in self.planned]}

    def perform(self, step: Step) -> None:
        """Only plan it."""
        self.planned.append(step)

    def keep(self, content: bytes) -> None:
        """Keep nothing."""


def rehearse(site: Site, journal: Journal, payload: Manifest, options: Options) -> list[Step]:
    """The steps that an installation would take now; empty when everything is as wanted."""
    rehearsal = Rehearsal(journal)
    Install(replace(site, say=lambda line: None), rehearsal, payload, options).run()
    return rehearsal.planned


class Install:
    """The steps of one installation on one node. The transaction is open, and whoever calls `run` undoes it."""

    def __init__(self, site: Site, journal: Journal, payload: Manifest, options: Options) -> None:
        self.site, self.journal, self.options = site, journal, options
        self.places = site.places
        self.identity = payload.identity
        self.folder = site.places.version(payload.identity)
        self._dry = isinstance(journal, Rehearsal)

    def run(self) -> None:
        """Every step, in order. What is raised leaves the rest undone and the journal able to undo what was done."""
        steps: list[tuple[str, Callable[[], None], bool]] = [
            ("folders", self._folders, True),
            ("self-test of the plugin", self._self_test, self.options.cni),
            ("forwarding", self._forwarding, self.options.cni),
            (f"version {self.identity}", self._version, True),
            ("node agent", self._agent, self.options.cni and self.options.agent),
            ("shim", self._shim, self.options.shim),
            ("kubelet", self._kubelet, self.options.shim),
            ("watchdog", self._watchdog, self.options.shim),
            ("network", self._network, self.options.cni),
        ]
        wanted = [(title, step) for title, step, applies in steps if applies]
        for number, (title, step) in enumerate(wanted, 1):
            self.site.say(f"[{number}/{len(wanted)}] {title}")
            step()

    # Folders, versions, links.

    def _folders(self) -> None:
        places = self.places
        folders = [(places.local_bin, "node"), (places.etc, "node")]
        if self.options.cni:
            folders += [(places.cni_bin, "executable"), (places.netd, "node")]
        if self.site.systemd.available():
            folders.append((places.units, "node"))
        for folder, part in folders:
            missing = [each for each in (folder, *folder.parents) if not each.is_dir()]
            for each in reversed(missing):
                self._perform(f"folder {each}", "folder", part, {"path": str(each)}, each.mkdir)

    def _self_test(self) -> None:
        plugin = self.folder / manifest.LAUNCHER
        current = self.places.executable.resolve() == plugin.resolve() and self.places.executable.is_symlink()
        if not current and not self._dry:
            self.site.say(f"  {selftest.run(self.site, plugin)}")

    def _forwarding(self) -> None:
        families = {6 if ":" in subnet else 4 for subnet in self.options.pod_cidrs}
        if 4 in families:
            self._sysctl(_IP_FORWARD, "1")
        if 6 in families:
            # A router takes no router advertisements unless told twice: the uplinks would lose their default route.
            folder = self.places.sysctls / _IPV6
            for link in sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []:
                value = folder / link / "accept_ra"
                if link not in ("all", "default", "lo") and value.exists() and value.read_text().strip() == "1":
                    self._sysctl(f"{_IPV6}/{link}/accept_ra", "2")
            self._sysctl(f"{_IPV6}/all/forwarding", "1")

    def _sysctl(self, setting: str, value: str) -> None:
        path = self.places.sysctls / setting
        try:
            before = path.read_text().strip()
        except OSError as fault:
            raise NodeError(f"{path} cannot be read: {fault}", "does this kernel have the family?") from None
        if before != value:
            name = setting.replace("/", ".")
            data = {"setting": setting, "before": before, "after": value, "boot": undo.boot()}
            self._perform(f"{name} {before} -> {value}", "sysctl", "node", data, lambda: path.write_text(value))

    def _version(self) -> None:
        places = self.places
        version = Path("versions", self.identity)
        if not entries.same(entries.look(places.current), _link(version)):
            # Undone after the link is back, so that each runs the old version again.
            for unit, hand_over in ((AGENT_UNIT, False), (SHIM_UNIT, True)):
                if self.site.systemd.available() and self.site.systemd.active(unit):
                    self._mark_restart(unit, "agent" if unit == AGENT_UNIT else "shim", hand_over=hand_over)
        self._link(places.current, version, "executable")
        for name in COMMANDS:
            self._link(places.command(name), places.current / "bin" / name, "node")
        if not self.options.cni:
            return
        self._link(places.executable, self.folder / manifest.LAUNCHER, "executable")
        if not places.loopback.exists() and not places.loopback.is_symlink():
            self._put(places.loopback, {"link": "podwire"}, b"", part="executable")

    # Agent, shim, kubelet, watchdog.

    def _agent(self) -> None:
        places, options = self.places, self.options
        template = (self.folder / "conf/agent.toml").read_text()
        changed = self._file(places.agent_config, options.agent_toml(template, places), part="agent")
        if options.kubeconfig:
            changed |= self._file(places.agent_kubeconfig, options.kubeconfig, mode=0o600, part="agent")
        if options.peers:
            changed |= self._file(places.peers, options.peers, part="agent")
        self._once("what the agent makes", "agent", "agent", {"identity": self.identity})
        self._unit(AGENT_UNIT, "agent", restart=changed or self._switched, hand_over=False)

    def _shim(self) -> None:
        places = self.places
        template = (self.folder / "conf/shim.toml").read_text()
        changed = self._file(places.shim_config, self.options.shim_toml(template, places), part="shim")
        self._once("what the shim leaves", "sockets", "shim", {})
        self._unit(SHIM_UNIT, "shim", restart=changed or self._switched, hand_over=True)
        if self._dry:
            return
        endpoint = f"unix://{places.shim_socket}"
        if not self.site.wait(lambda: _answers(places.shim_socket), self.site.seconds):
            raise NodeError(f"the shim runs, and nothing answers at {endpoint}", f"journalctl -u {SHIM_UNIT} -n 50")
        runtime.look(self.site, endpoint)

    def _kubelet(self) -> None:
        places, systemd = self.places, self.site.systemd
        endpoint = f"unix://{places.shim_socket}"
        before = kubelet.survey(places).endpoint
        if kubelet.same(before, endpoint):
            before = f"unix://{places.runtime_socket}"
        edits = kubelet.edits(places, endpoint)
        if not edits:
            return
        runs = systemd.available() and systemd.active(KUBELET_UNIT)
        if runs:
            self._mark_restart(KUBELET_UNIT, "kubelet", hand_over=False)
        for edit in edits:
            self.site.say(f"  {edit.path}: the runtime's endpoint is {endpoint}")
            self.journal.replace(
                edit.path, edit.before, edit.after, part="kubelet", name=f"{edit.path}", endpoint=before
            )
        if runs and not self._dry:
            self.site.say(f"  restarting {KUBELET_UNIT}")
            systemd.restart(KUBELET_UNIT)
            systemd.stays(KUBELET_UNIT, KUBELET_STAYS_SECONDS)

    def _watchdog(self) -> None:
        if not (self.folder / "conf" / WATCHDOG_TIMER).exists():
            self.site.say("  this payload has none")
            return
        self._unit_file(WATCHDOG_UNIT, "watchdog")
        self._unit(WATCHDOG_TIMER, "watchdog", restart=False, hand_over=False)

    def _unit_file(self, unit: str, part: str) -> bool:
        """Put a unit's file in place; True when it changed, and then systemd has read it."""
        if not self._is_stale(unit):
            return False
        self.journal.perform(Step(f"systemd reads {unit}", "reload", part, {"unit": unit}))
        self._file(self.places.unit(unit), (self.folder / "conf" / unit).read_text(), part=part)
        if not self._dry:
            self.site.systemd.daemon_reload()
        return True

    def _is_stale(self, unit: str) -> bool:
        """Whether a unit's file is not the payload's."""
        content = (self.folder / "conf" / unit).read_bytes()
        return not entries.same(entries.look(self.places.unit(unit)), entries.described(content, 0))

    def _unit(self, unit: str, part: str, *, restart: bool, hand_over: bool) -> None:
        """Have a unit installed, enabled and running what is current; returns when it is ready."""
        systemd = self.site.systemd
        if not systemd.available():
            raise NodeError(
                f"{unit} needs systemd, which is not this machine's init", "install without --shim, and with --no-agent"
            )
        active = systemd.active(unit)
        if active and (restart or self._is_stale(unit)):
            self._mark_restart(unit, part, hand_over=hand_over)
        changed = self._unit_file(unit, part)
        if not active or not systemd.enabled(unit):
            self.site.say(f"  starting {unit}")
            self.journal.perform(Step(f"unit {unit}", "unit", part, {"unit": unit}, lambda: systemd.enable_now(unit)))
        elif (restart or changed) and not self._dry:
            self.site.say(f"  {unit} {'hands over to its successor' if hand_over else 'is restarted'}")
            (systemd.reload if hand_over else systemd.restart)(unit)

    # The network, last.

    def _network(self) -> None:
        places = self.places
        self._once("what the plugin makes", "state", "state", {"table": kernel.table() is not None})
        text = self.options.conflist(places)
        now = entries.look(places.conflist)
        content = places.conflist.read_bytes() if now and "sha256" in now else b""
        ours = any(file.ours for file in conflists.read(places.netd) if file.path == places.conflist)
        # The shim renders it anew from what kubelet says; its word counts as long as the options are the same.
        whole = ours and not pods.is_withdrawn(content)
        kept = whole and self.options.owner == "shim" and self._same_network()
        if not kept:
            self.journal.put(
                places.conflist,
                entries.described(text.encode(), 0o644),
                text.encode(),
                part="network",
                kind="network",
                ours_before=ours,
                owner=self.options.owner,
            )
        if not self._dry:
            self._await_runtime()

    def _same_network(self) -> bool:
        earlier = self.journal.installed
        wanted = self.options.document()
        keys = ("pod_cidrs", "cluster_cidrs", "shim")
        return earlier is not None and all(earlier["options"][key] == wanted[key] for key in keys)

    def _await_runtime(self) -> None:
        path = self.places.conflist
        said = ""

        def shown() -> bool:
            nonlocal said
            try:
                ready, name, why = runtime.network(self.site)
            except NodeError as fault:
                said = str(fault)
                return False
            said = why or f"its network is {name!r}"
            return ready and name in ("", NETWORK)

        for attempt in range(POKES):
            if self.site.wait(shown, SETTLE_SECONDS / POKES, every=0.5):
                self.site.say(f"  the runtime shows the network {NETWORK}")
                return
            if attempt < POKES - 1:
                # A runtime can miss a change of its folder; it reads all of it again at the next one.
                self.site.say(f"  the runtime does not show it yet ({said}): writing it again")
                entries.replace(path, path.read_bytes())
        raise NodeError(
            f"the runtime does not take {path} within {SETTLE_SECONDS:g} s: {said}",
            "journalctl -u containerd -n 50  # what it says of its CNI configuration",
        )

    # Building blocks.

    @property
    def _switched(self) -> bool:
        """Whether this transaction changed the version in use."""
        assert self.journal.transaction is not None
        paths = (each["data"] for each in self.journal.transaction["steps"] if each["kind"] == "path")
        return any(data["path"] == str(self.places.current) and data["before"] is not None for data in paths)

    def _perform(self, name: str, kind: str, part: str, data: dict[str, Any], do: Callable[[], object]) -> None:
        self.site.say(f"  {name}")
        self.journal.perform(Step(name, kind, part, data, do))

    def _once(self, name: str, kind: str, part: str, data: dict[str, Any]) -> None:
        """Write down what is undone after what follows, unless an earlier transaction did."""
        if not any(each["kind"] == kind for each in self.journal.all_steps()):
            self.journal.perform(Step(name, kind, part, data))

    def _mark_restart(self, unit: str, part: str, *, hand_over: bool) -> None:
        assert self.journal.transaction is not None
        known = [each["data"] for each in self.journal.transaction["steps"] if each["kind"] == "restart"]
        if not any(data["unit"] == unit for data in known):
            self.journal.perform(Step(f"restart of {unit}", "restart", part, {"unit": unit, "hand_over": hand_over}))

    def _link(self, path: Path, target: Path, part: str) -> None:
        self._put(path, _link(target), b"", part=part)

    def _put(self, path: Path, entry: Entry, content: bytes, *, part: str) -> bool:
        changed = self.journal.put(path, entry, content, part=part)
        if changed:
            self.site.say(f"  {path}")
        return changed

    def _file(self, path: Path, text: str, *, part: str, mode: int = 0o644) -> bool:
        """Write a file of ours. One that somebody edited stays, unless it has to say something else now; then theirs
        is kept beside."""
        content, now, written = text.encode(), entries.look(path), self.journal.written(path)
        wanted = entries.described(content, mode)
        if now is not None and written is not None and not entries.same(now, written):
            if entries.same(wanted, written):
                self.site.say(f"  {path} was edited, and stays so")
                return False
            copy = path.with_name(path.name + undo.KEPT)
            self.site.say(f"  {path} was edited: that is kept as {copy}")
            data = {"path": str(path), "copy": str(copy)}
            self.journal.perform(Step(f"copy {copy}", "kept", part, data, lambda: undo.copy_aside(path)))
        return self._put(path, wanted, content, part=part)


def _link(target: Path) -> Entry:
    return {"link": str(target)}


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
