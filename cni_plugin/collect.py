"""GC: what may go, by the specification's list or by a runtime's list of live sandboxes.

The specification's `cni.dev/valid-attachments` is complete by contract: what it does not name goes. A list of
sandboxes is not (a pod in the making has an attachment and no sandbox yet, and sandboxes have no interface names):
`podwire.dev/gc` removes an attachment only when it was made before the list was begun, two successive lists miss its
container, its network namespace is gone, and nobody works on it.
"""

import posix

from cni_plugin import claims, jsontext, netns, removal, rtnetlink, sweep
from cni_plugin.attachment import Attachment
from cni_plugin.config import Network, typed
from cni_plugin.journal import Journal
from cni_plugin.netlink import Refusal
from cni_plugin.spec import INTERNAL, INVALID_CONFIGURATION, CniError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# The specification names the first; libcni also sends the older second.
_LISTS = ("cni.dev/valid-attachments", "cni.dev/attachments")
_SANDBOXES = "podwire.dev/gc"


class _Judge:
    """Says which attachments of the network may go."""

    def __init__(self, document: "dict[str, Any]", ledger: "claims.Ledger | None", host: "rtnetlink.Socket") -> None:
        """Raises CniError 7 when the document holds no list, or a malformed one."""
        faults: list[str] = []
        self.began = claims.boot_time()
        self._ledger, self._host = ledger, host
        self._lists = [key for key in _LISTS if key in document]
        self._named = [entry for key in self._lists for entry in _attachments(document, key, faults)]
        self._sandboxes: set[str] | None = None
        if _SANDBOXES in document:
            section = typed(document, _SANDBOXES, dict, {}, faults)
            containers = section.get("containers")
            as_of = section.get("asOf")
            if not isinstance(containers, list) or not all(isinstance(each, str) for each in containers):
                faults.append(f"{_SANDBOXES}.containers is no list of container ids")
            elif isinstance(as_of, bool) or not isinstance(as_of, (int, float)) or not 0 < as_of <= self.began:
                faults.append(
                    f"{_SANDBOXES}.asOf {jsontext.dumps(as_of)[:40]} is no time in seconds since boot "
                    f"(CLOCK_BOOTTIME, now {self.began:.3f})"
                )
            else:
                self._sandboxes, self.began = set(containers), float(as_of)
        elif not self._lists:
            faults.append(
                f"{_LISTS[0]} is missing, and so is {_SANDBOXES}: nothing was removed, as everything would have been"
            )
        if faults:
            raise CniError(INVALID_CONFIGURATION, "; ".join(faults), "see docs/configuration.md, garbage collection")

    def condemns(self, seen: Attachment) -> bool:
        """Whether the attachment may go; leaves or clears the mark of the first list that missed it."""
        if seen.created >= self.began or any(
            seen.container_id == container_id and ifname in ("", seen.ifname) for container_id, ifname in self._named
        ):
            return False
        if self._sandboxes is None:
            return True
        mark = f"{self._ledger.path}/absent/{seen.lease}" if self._ledger else ""
        if seen.container_id in self._sandboxes:
            claims.unlink(mark)
            return False
        return self._missed_before(mark) and not self._is_alive(seen)

    def _missed_before(self, mark: str) -> bool:
        now = str(int(self.began * 1000))
        try:
            return int(posix.readlink(mark)) < int(now)
        except (OSError, ValueError):
            claims.unlink(mark)
            posix.symlink(now, mark)
            return False

    def _is_alive(self, seen: Attachment) -> bool:
        # A veth goes with its peer's namespace: while the host end is there, so is the pod's.
        if seen.host_link and removal.find_link(self._host, seen.container_id, seen.ifname) is not None:
            return True
        return _cookie_at(seen.netns) == seen.netns_cookie


def _cookie_at(path: str) -> int:
    try:
        sandbox = netns.open_netns(path)
    except CniError:
        return 0
    own = posix.open("/proc/self/ns/net", posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        pod = netns.socket_in(sandbox, own)
        found = netns.cookie(pod.raw)
        pod.close()
        return found
    finally:
        posix.close(own)
        posix.close(sandbox)


def _attachments(document: "dict[str, Any]", key: str, faults: "list[str]") -> "list[tuple[str, str]]":
    attachments = []
    for entry in typed(document, key, list, [], faults):
        ifname = (entry.get("ifname") or "") if isinstance(entry, dict) else None
        if isinstance(ifname, str) and isinstance(entry.get("containerID"), str):
            attachments.append((entry["containerID"], ifname))
        else:
            faults.append(f"{key} holds {jsontext.dumps(entry)[:80]}, which is no containerID with its ifname")
    return attachments


def collect(document: "dict[str, Any]", network: Network, journal: Journal) -> None:
    """Remove this network's attachments that the list condemns. Goes on after a failure, and reports all at the end.

    The runtime promises that no ADD or DEL runs meanwhile; that is not relied on: an attachment in the making
    holds its lock, and one made since this call (or the list) began is younger than the list.
    """
    host = rtnetlink.Socket()
    cookie = netns.cookie(host.raw)
    ledger = claims.Ledger(network.state_dir, cookie) if claims.exists(network.state_dir, cookie) else None
    judge = _Judge(document, ledger, host)
    if ledger is None:
        return
    removed, faults = 0, []
    for seen in [*ledger.records(*claims.STATES), *ledger.orphans()]:
        if seen.network != network.name:
            continue
        lock = ledger.attachment_lock(seen.container_id, seen.ifname)
        try:
            if not judge.condemns(seen):
                continue
            if not lock.try_acquire():
                journal.note(f"kept {seen.container_id}/{seen.ifname}: another call holds it")
                continue
            try:
                found = ledger.find(seen.container_id, seen.ifname)
                if found is None:
                    ledger.trim(seen, "")
                    removal.remove_now(host, seen.container_id, seen.ifname, seen)
                    ledger.release(seen)
                elif found[1].created == seen.created:
                    removal.dismantle(ledger, host, *found)
                else:
                    continue  # made anew meanwhile
                removed += 1
            finally:
                lock.release()
        except (OSError, Refusal) as fault:
            faults.append(f"{seen.container_id}/{seen.ifname}: {fault}")
        except CniError as fault:
            faults.append(fault.message)
    swept = sweep.sweep(ledger)
    journal.note(f"removed {removed} attachments and {swept} marks that ran out")
    if faults:
        raise CniError(
            INTERNAL,
            f"GC of {network.name} removed {removed} and failed at {len(faults)}: {'; '.join(faults)}",
        )
