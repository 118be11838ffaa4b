"""Undoing by data: each kind of step that the journal knows, and how it is taken back.

An undoer gets the step's data and returns notes for people. It must do for a step that was done, half done, not done,
or undone before. A file that somebody changed since we wrote it is never lost: it is kept beside, as NAME.podwire-kept,
and told. Steps go backwards; one that fails does not keep the others from being undone, and stays in the journal.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cni_plugin.install import entries, manifest, pods
from cni_plugin.install.entries import EntryError
from cni_plugin.install.journal import Journal
from cni_plugin.install.site import NodeError, Site
from cni_plugin.install.systemd import SystemdError
from cni_plugin.net import kernel
from cni_plugin.spec import CniError

KEPT = ".podwire-kept"
DRAIN_SECONDS = 60.0
FAULTS = (OSError, EntryError, NodeError, SystemdError, CniError, kernel.ToolError, subprocess.SubprocessError)


class Undo:
    """Takes steps back. `delete_pods`: pods that hold an attachment are stopped when their network is taken away."""

    def __init__(self, site: Site, journal: Journal, *, delete_pods: bool = True, drain: float = DRAIN_SECONDS) -> None:
        self.site, self.journal = site, journal
        self._delete_pods, self._drain = delete_pods, drain
        self.left: list[str] = []
        """Pods that still need the plugin; as long as there are any, it stays."""

    def steps(self, steps: Iterable[dict[str, Any]]) -> list[str]:
        """Undo these in their order, and forget each that is undone; returns every failure in words."""
        faults = []
        for step in steps:
            if self.left and _needed_by_pods(self.site, step):
                continue
            try:
                notes = UNDOERS[step["kind"]](self, step["data"])
            except FAULTS as fault:
                details = getattr(fault, "details", "")
                faults.append(f"{step['name']}: {fault}{f' -> {details}' if details else ''}")
                self.site.say(f"  NOT undone: {faults[-1]}")
                continue
            except KeyError as missing:
                faults.append(f"{step['name']}: the journal's step lacks {missing} or is of an unknown kind")
                self.site.say(f"  NOT undone: {faults[-1]}")
                continue
            for note in notes:
                self.site.say(f"  {note}")
            if step["kind"] not in SILENT:
                self.site.say(f"  undone: {step['name']}")
            self.journal.drop(step)
        return faults

    # One method per kind.

    def path(self, data: dict[str, Any]) -> list[str]:
        """A file or link: back to what it was."""
        path, before, after = Path(data["path"]), data["before"], data["after"]
        content = self.journal.store.content(before["sha256"]) if before and "sha256" in before else b""
        entries.draft(path).unlink(missing_ok=True)
        now = entries.look(path)
        notes = []
        if entries.equal(now, before):
            return []
        if not entries.same(now, after) and not entries.same(now, before):
            merged = _merged(self.site, path, data)
            if merged is not None:
                return merged
            if now is None:
                notes.append(f"{path} was removed by somebody since")
            else:
                notes.append(f"{path} was changed since podwire wrote it: kept as {_set_aside(path)}")
        if before is None or path.parent.is_dir():
            entries.put(path, before, content)
        return notes

    def network(self, data: dict[str, Any]) -> list[str]:
        """The conflist: pods that have the network lose it, if there was none of ours before."""
        path = Path(data["path"])
        notes = []
        now = entries.look(path)
        # The shim may have become the owner of a conflist that the installer wrote.
        owners = (data["owner"], (self.journal.in_force or {}).get("owner"))
        if not data["ours_before"]:
            if now and not entries.same(now, data["after"]) and "shim" not in owners and not _withdrawn(path):
                notes.append(f"{path} was changed since podwire wrote it: kept as {copy_aside(path)}")
            if pods.attached(self.site):
                pods.withdraw(self.site)
                self.left = pods.drain(self.site, self._drain, delete=self._delete_pods)
            if self.left:
                raise NodeError(
                    f"{len(self.left)} pods still have the network: {', '.join(self.left[:10])}",
                    "delete them, then run the same command again; the plugin stays until then",
                )
            data = {**data, "after": entries.look(path)}
        elif now is not None:
            data = {**data, "after": now}
        return [*notes, *self.path(data)]

    def folder(self, data: dict[str, Any]) -> list[str]:
        """A folder that we made, unless somebody put something in."""
        path = Path(data["path"])
        if not path.is_dir():
            return []
        rest = sorted(os.listdir(path))
        if rest:
            return [f"{path} stays: {', '.join(rest[:5])} in it {'is' if len(rest) == 1 else 'are'} not podwire's"]
        path.rmdir()
        return []

    def sysctl(self, data: dict[str, Any]) -> list[str]:
        """A setting of the kernel, unless it is of an earlier boot or somebody changed it."""
        path = self.site.places.sysctls / data["setting"]
        name = str(data["setting"]).replace("/", ".")
        if data["boot"] != boot():
            return [f"{name} stays as it is: {data['before']} was its value in an earlier boot"]
        try:
            now = path.read_text().strip()
        except FileNotFoundError:
            return []  # with its link
        if now == data["before"]:
            return []
        if now != data["after"]:
            return [f"{name} stays {now}: somebody changed it since podwire set it to {data['after']}"]
        path.write_text(data["before"])
        return []

    def unit(self, data: dict[str, Any]) -> list[str]:
        """A unit that we enabled and started."""
        if self.site.systemd.available():
            self.site.systemd.disable_now(data["unit"])
        return []

    def reload(self, data: dict[str, Any]) -> list[str]:
        """Written down before unit files are changed, so that systemd reads them again after they are back."""
        if self.site.systemd.available():
            self.site.systemd.daemon_reload()
        return []

    def restart(self, data: dict[str, Any]) -> list[str]:
        """Written down before what a unit reads is changed: the unit reads it again after it is back."""
        unit, systemd = data["unit"], self.site.systemd
        if not systemd.available() or systemd.state(unit) in ("inactive", "unknown"):
            return []
        if data.get("hand_over") and systemd.active(unit):
            systemd.reload(unit)
        else:
            systemd.restart(unit)
        return []

    def agent(self, data: dict[str, Any]) -> list[str]:
        """What the agent made: routes, its tunnel, its share of the table."""
        program = self.site.places.version(data["identity"]) / "bin/podwire-agent"
        if not program.exists():
            program = self.site.program("podwire-agent")
        if program.exists():
            self.site.run([program, "cleanup"], self.site.seconds)
            return []
        return [f"{program} is gone: routes of the agent are left, see `ip route show proto 113`"]

    def state(self, data: dict[str, Any]) -> list[str]:
        """What the plugin made: its claims and the nft table."""
        found = pods.attached(self.site)
        if found:
            self.left = [pods.words(each) for each in found]
            raise NodeError(f"{len(found)} pods still have the network: {', '.join(self.left[:10])}")
        return pods.clear_state(self.site, table=not data["table"])

    def sockets(self, data: dict[str, Any]) -> list[str]:
        """What the shim leaves: its sockets, and the pod CIDRs that kubelet told it."""
        pods.clear_sockets(self.site)
        return []

    def version(self, data: dict[str, Any]) -> list[str]:
        """A payload that this transaction brought."""
        manifest.remove(self.site.places, data["identity"])
        return []

    def kept(self, data: dict[str, Any]) -> list[str]:
        """The copy of somebody's file, which is in its place again."""
        Path(data["copy"]).unlink(missing_ok=True)
        return []


UNDOERS: dict[str, Callable[[Undo, dict[str, Any]], list[str]]] = {
    "path": Undo.path,
    "network": Undo.network,
    "folder": Undo.folder,
    "sysctl": Undo.sysctl,
    "unit": Undo.unit,
    "reload": Undo.reload,
    "restart": Undo.restart,
    "agent": Undo.agent,
    "state": Undo.state,
    "sockets": Undo.sockets,
    "version": Undo.version,
    "kept": Undo.kept,
}
SILENT = ("reload",)


def boot() -> str:
    """This boot, as the kernel calls it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _set_aside(path: Path) -> Path:
    kept = path.with_name(path.name + KEPT)
    path.rename(kept)
    return kept


def copy_aside(path: Path) -> Path:
    """Copy what somebody wrote to NAME.podwire-kept."""
    kept = path.with_name(path.name + KEPT)
    shutil.copy2(path, kept)
    return kept


def _withdrawn(path: Path) -> bool:
    return pods.is_withdrawn(path.read_bytes())


def _merged(site: Site, path: Path, data: dict[str, Any]) -> list[str] | None:
    """For kubelet's files, which kubeadm rewrites in an upgrade: only the endpoint goes back, the rest stays."""
    endpoint = data.get("endpoint")
    if not endpoint:
        return None
    from cni_plugin.install import kubelet

    for edit in kubelet.edits(site.places, endpoint):
        if edit.path == path:
            if edit.after is None:
                entries.put(path, None)
            else:
                now = entries.look(path) or {"mode": 0o644, "uid": 0, "gid": 0}
                made = entries.described(edit.after, now["mode"], now["uid"], now["gid"])
                entries.put(path, made, edit.after)
    return [f"{path} was changed since podwire edited it: only the runtime's endpoint is put back"]


def _needed_by_pods(site: Site, step: dict[str, Any]) -> bool:
    """Whether DEL needs what this step made: the executable, its version, and the records."""
    return step["part"] in ("state", "executable") or step["kind"] == "version"
