"""What the watchdog does when the shim is down: whose fault it is, since when, and kubelet's way back to containerd.

The way back does not depend on the rest of the installation: kubelet's files are put back from the originals that the
journal names where they still are what the installation made of them, and edited to name containerd's socket
otherwise, also without a readable journal. First the files, then a mark in the journal, then kubelet's restart: a
look that was killed is finished by the next one.
"""

import json
import os
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cni_plugin.install import entries, kubelet
from cni_plugin.install.entries import EntryError, Store
from cni_plugin.install.journal import Journal, JournalError
from cni_plugin.install.kubelet import EndpointError
from cni_plugin.install.locking import Turn
from cni_plugin.install.places import Places
from cni_plugin.install.systemd import Systemd, SystemdError

KUBELET_UNIT = "kubelet.service"
# kubelet is Type=simple: whether it likes its configuration shows a moment after its start.
STAYS_SECONDS = 5.0
DONE, FAILED, BUSY = "done", "failed", "busy"

Say = Callable[..., None]


def concerned(places: Places) -> bool:
    """Whether kubelet's runtime is the shim; also True where its files cannot be read, so that this is told."""
    try:
        return _is_shim(places, kubelet.survey(places).endpoint)
    except (EndpointError, OSError):
        return True


def unfinished(places: Places) -> bool:
    """Whether kubelet's files were put back, and it was not restarted since."""
    try:
        mark = Journal(places).load().document.get("reverted")
    except (JournalError, OSError):
        return False
    return isinstance(mark, dict) and not mark.get("restarted")


def runtime_socket(places: Places) -> Path:
    """The socket of the runtime behind the shim: as shim.toml says, else containerd's."""
    try:
        told = tomllib.loads(places.shim_config.read_text()).get("upstream")
    except (OSError, ValueError):
        told = None
    if isinstance(told, str) and told.startswith("unix:///"):
        # shim.toml of another root names its socket as it is there, or with the root in front.
        path = Path(told.removeprefix("unix://"))
        return path if path.is_relative_to(places.root) else places.at(path)
    return places.runtime_socket


def down_since(state: Path, now: float) -> float:
    """When the shim was first found down, in seconds since boot; `now`, kept in the file, when it was not before."""
    try:
        since = float(json.loads(state.read_text())["downSince"])
    except (OSError, ValueError, KeyError, TypeError):
        since = -1.0
    # A file of an earlier boot has times that are still to come.
    if 0 <= since <= now:
        return since
    state.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    made = state.with_name(f".{state.name}.new")
    made.write_text(json.dumps({"downSince": now}) + "\n")
    made.rename(state)
    return now


def revert(places: Places, reason: str, say: Say, systemd: Systemd | None = None) -> str:
    """Kubelet back to the runtime: DONE, or FAILED or BUSY, and then the next look tries again."""
    try:
        with Turn(places, "watchdog", 0):
            _revert(places, reason, say, systemd or Systemd())
            return DONE
    except JournalError as fault:
        say(f"the shim is down, and nothing is changed: {fault}", 4)
        return BUSY
    except (EndpointError, EntryError, SystemdError, OSError) as fault:
        details = getattr(fault, "details", "")
        say(f"kubelet could not be put back to the runtime: {fault}{f' -> {details}' if details else ''}", 2)
        return FAILED


def _revert(places: Places, reason: str, say: Say, systemd: Systemd) -> None:
    endpoint = f"unix://{runtime_socket(places)}"
    journal = _journal(places, say)
    mark = dict(journal.document.get("reverted") or {}) if journal else {}
    if not mark or mark.get("restarted"):
        say(f"{reason}: kubelet goes back to {endpoint}", 2)
        files = _originals(places, journal, say) if journal else []
        files += _edited(places, endpoint)
        mark = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "reason": reason, "endpoint": endpoint}
        mark |= {"files": [str(path) for path in files], "restarted": False}
        _record(journal, mark)
    if systemd.available():
        systemd.daemon_reload()
        systemd.restart(KUBELET_UNIT)
        systemd.stays(KUBELET_UNIT, STAYS_SECONDS)
    _record(journal, mark | {"restarted": True})
    say(
        f"kubelet uses {mark['endpoint']} again, without the shim, and stays there. Find out why the shim is down "
        "(journalctl -u podwire-shim), then install again: that switches kubelet once more",
        2,
    )


def _originals(places: Places, journal: Journal, say: Say) -> list[Path]:
    """Put back the files of kubelet's that still are what the installation made of them."""
    done = []
    store = Store(places.originals)
    first: dict[str, dict[str, Any]] = {}
    last: dict[str, dict[str, Any]] = {}
    for step in journal.all_steps():
        if step["part"] == "kubelet" and step["kind"] == "path" and "after" in step["data"]:
            first.setdefault(step["data"]["path"], step["data"])
            last[step["data"]["path"]] = step["data"]
    for name, data in first.items():
        path, before, after = Path(name), data["before"], last[name]["after"]
        if before is None or not entries.same(entries.look(path), after):
            continue
        try:
            entries.put(path, before, store.content(before["sha256"]))
        except (EntryError, KeyError) as fault:
            say(f"{path}: its original is lost ({fault}); it is edited instead", 4)
            continue
        done.append(path)
    return done


def _edited(places: Places, endpoint: str) -> list[Path]:
    """Edit what still names the shim, mode and owner kept."""
    found = kubelet.survey(places)
    if not any(_is_shim(places, each.value) for each in found.named):
        return []
    done = []
    for edit in kubelet.edits(places, endpoint):
        if edit.after is not None:
            now = entries.look(edit.path) or {"mode": 0o644, "uid": os.geteuid(), "gid": os.getegid()}
            entries.put(edit.path, entries.described(edit.after, now["mode"], now["uid"], now["gid"]), edit.after)
            done.append(edit.path)
    return done


def _is_shim(places: Places, endpoint: str) -> bool:
    socket = "/" + str(places.shim_socket.relative_to(places.root))
    return kubelet.same(endpoint, socket) or kubelet.same(endpoint, str(places.shim_socket))


def _journal(places: Places, say: Say) -> Journal | None:
    """The installation's journal; None also where the shim was set up without one."""
    if not places.journal.exists():
        return None
    try:
        return Journal(places).load()
    except (JournalError, OSError) as fault:
        say(f"the installation's record cannot be used: {fault}", 4)
        return None


def _record(journal: Journal | None, mark: dict[str, Any]) -> None:
    if journal is not None:
        journal.document["reverted"] = mark
        journal.save()
