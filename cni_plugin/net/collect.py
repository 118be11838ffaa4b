"""gc: take away what `audit` calls garbage, each thing under its attachment's lock and after a second look.

The plugin's own modules do the removing: what DEL would have done is done here, in the same order.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute, NetlinkError

from cni_plugin import claims, nftables, nfttable, removal, rtnetlink
from cni_plugin.attachment import parse
from cni_plugin.net import state
from cni_plugin.net.audit import audit
from cni_plugin.net.findings import Finding, Garbage
from cni_plugin.netlink import Refusal
from cni_plugin.spec import CniError

# Locks are held while a batch is looked at again and removed (20-30 ms a link), and ADD waits 5 s for one.
_BATCH = 40
_SEARCH = ""
_ANY_SCOPE = 255


@dataclass(frozen=True)
class Removal:
    """What became of a finding: `fault` is empty when the garbage is gone."""

    finding: Finding
    fault: str = ""


def removable(state_dir: Path) -> list[Finding]:
    """The findings that `collect` would remove."""
    return [each for each in audit(state_dir) if each.garbage]


def collect(state_dir: Path, found: list[Finding]) -> Iterator[Removal]:
    """Remove what these findings name, as far as it is garbage still; yields each as it is done.

    What another call holds meanwhile, or has taken away, is passed over in silence.
    """
    ledger = claims.Ledger(str(state_dir), state.own_cookie())
    host = rtnetlink.Socket()
    try:
        for start in range(0, len(found), _BATCH):
            batch = found[start : start + _BATCH]
            taken = state.try_locks(ledger, [each.garbage.lease for each in batch if each.garbage])
            try:
                held = [lease for lease, _ in taken]
                again = audit(state_dir, held)
                for finding in batch:
                    garbage = finding.garbage
                    if garbage and finding in again and (not garbage.lease or garbage.lease in held):
                        yield _remove(ledger, host, finding, garbage)
            finally:
                for _, lock in taken:
                    lock.release()
    finally:
        host.close()


def _remove(ledger: claims.Ledger, host: "rtnetlink.Socket", finding: Finding, garbage: Garbage) -> Removal:
    try:
        REMOVERS[garbage.kind](ledger, host, *garbage.subject)
    except CniError as fault:
        return Removal(finding, fault.message)
    except (OSError, IndexError, Refusal, NetlinkError) as fault:
        return Removal(finding, str(fault))
    return Removal(finding)


def _attachment(ledger: claims.Ledger, host: "rtnetlink.Socket", container_id: str, ifname: str) -> None:
    found = ledger.find(container_id, ifname)
    if found is not None:
        removal.dismantle(ledger, host, *found)


def _link(ledger: claims.Ledger, host: "rtnetlink.Socket", name: str, index: str) -> None:
    link = host.link_at(int(index))
    if link is not None and link.name == name:
        host.batch([rtnetlink.delete_link(link.index)])


def _route(ledger: claims.Ledger, host: "rtnetlink.Socket", destination: str, link: str) -> None:
    with IPRoute() as kernel:
        # RT_SCOPE_NOWHERE matches every scope.
        found = {"oif": kernel.link_lookup(ifname=link)[0]} if link else {}
        kernel.route("del", dst=destination, proto=rtnetlink.ROUTE_PROTOCOL, scope=_ANY_SCOPE, **found)


def _neighbour(ledger: claims.Ledger, host: "rtnetlink.Socket", address: str, link: str) -> None:
    with IPRoute() as kernel:
        kernel.neigh("del", dst=address, ifindex=kernel.link_lookup(ifname=link)[0])


def _element(ledger: claims.Ledger, host: "rtnetlink.Socket", set_name: str, key: str) -> None:
    nfttable.run_script(f"delete element inet {nftables.TABLE} {set_name} {{ {key} }}\n", _SEARCH)


def _claim(ledger: claims.Ledger, host: "rtnetlink.Socket", folder: str, name: str) -> None:
    path = Path(ledger.path, folder, name)
    try:
        holder = parse(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return
    ledger.release(holder)


def _file(ledger: claims.Ledger, host: "rtnetlink.Socket", path: str) -> None:
    with ledger.host_lock():
        Path(path).unlink(missing_ok=True)


def _folder(ledger: claims.Ledger, host: "rtnetlink.Socket", path: str) -> None:
    shutil.rmtree(path)


# By the `kind` of a Garbage; called with its `subject`.
REMOVERS: dict[str, Callable[..., None]] = {
    "attachment": _attachment,
    "link": _link,
    "route": _route,
    "neighbour": _neighbour,
    "element": _element,
    "claim": _claim,
    "file": _file,
    "folder": _folder,
}
