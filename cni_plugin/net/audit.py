"""What on this node belongs to no live pod.

`audit` compares three things: the records, the claims made from them, and what the kernel holds. Nothing is changed.
A call of the plugin that is at work meanwhile holds its attachment's lock: what belongs to it is no finding.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from cni_plugin import nftables
from cni_plugin.attachment import Attachment, lease_id
from cni_plugin.net import kernel, namespaces, state
from cni_plugin.net.findings import ERROR, NOTE, WARNING, Finding, Garbage
from cni_plugin.net.kernel import Element, Kernel, Link

CHECK = "audit"
_GC = "podwire-net gc --yes"


@dataclass(frozen=True)
class Scene:
    """One reading of everything that is compared. `alive` maps the cookies of namespaces that were found."""

    state: state.State
    kernel: Kernel
    table: list[Element]
    alive: dict[int, str]

    @property
    def routed(self) -> set[str]:
        """The addresses that a route leads to one of our links."""
        ours = {link.name for link in self.kernel.links if link.ours}
        return {route.destination.partition("/")[0] for route in self.kernel.host_routes if route.link in ours}

    def is_alive(self, attachment: Attachment) -> bool:
        """Whether the pod's namespace was found, or its link still leads into one."""
        return attachment.netns_cookie in self.alive or self.link_of(attachment) is not None

    def link_of(self, attachment: Attachment) -> Link | None:
        """The attachment's host link, by alias, or by name where it has not got its alias yet."""
        found = self.kernel.by_key.get((attachment.container_id, attachment.ifname))
        named = self.kernel.by_name.get(attachment.host_link)
        return found or (named if named and named.ours and not named.alias else None)


def audit(state_dir: str | Path, held: Collection[str] = ()) -> list[Finding]:
    """Everything that belongs to no live pod, on the node whose network namespace this process is in.

    Empty means that links, routes, neighbours, nft elements, claims and files are those of the live attachments and
    nobody else's. `held` are leases whose locks the caller has: they are judged, other locked ones are not. What is
    found once is looked for again, so that a call which ended in between is no finding.
    """
    first = _judge(Path(state_dir), held)
    return [each for each in _judge(Path(state_dir), held) if each in first] if first else []


def notes(state_dir: str | Path) -> list[Finding]:
    """What is only mentioned: namespaces that a runtime pinned and that no record knows."""
    known = {record.attachment.netns_cookie for record in state.read(Path(state_dir)).records}
    pinned = [str(path) for path in namespaces.pinned_by_runtimes()]
    by_path = {path: cookie for cookie, path in namespaces.cookies(pinned).items()}
    return [
        Finding(CHECK, NOTE, f"{path} is pinned and no record names it: another plugin's pod, or a leak of the runtime")
        for path in pinned
        if path in by_path and by_path[path] not in known
    ]


def look(state_dir: Path) -> Scene:
    """Read everything. Records come before the kernel's objects, which are made after and removed before them."""
    read = state.read(state_dir)
    elements = kernel.elements(kernel.table() or [])
    return Scene(
        read, kernel.read(), elements, namespaces.cookies([record.attachment.netns for record in read.records])
    )


def _judge(state_dir: Path, held: Collection[str]) -> list[Finding]:
    scene = look(state_dir)
    probe = state.LockProbe(scene.state)
    try:
        return [
            finding
            for judge in _JUDGES
            for lease, finding in judge(scene)
            if not lease or lease in held or not probe.in_progress(lease)
        ]
    finally:
        probe.close()


def _records(scene: Scene) -> Iterator[tuple[str, Finding]]:
    for record in scene.state.records:
        attachment, where = record.attachment, f"{record.owner} {attachment_words(record)}"
        link = scene.link_of(attachment)
        found = attachment.netns_cookie in scene.alive
        garbage = Garbage("attachment", record.key, record.lease)
        if not found and link is None:
            what = f"{where} is recorded ({record.state}), and its namespace {attachment.netns} is gone"
            yield record.lease, Finding(CHECK, WARNING, what, _GC, garbage)
        elif not found and link is not None and not link.elsewhere:
            what = f"{where}: its namespace {attachment.netns} is gone, and link {link.name} leads nowhere"
            yield record.lease, Finding(CHECK, WARNING, what, _GC, garbage)
        elif not found:
            what = (
                f"{where}: {attachment.netns} is gone, but something still holds the namespace of {link and link.name}"
            )
            yield record.lease, Finding(CHECK, WARNING, what, "`lsns -t net` lists namespaces; wait for its end")
        elif record.state != "attachments":
            what = f"{where}: an {'ADD' if record.state == 'pending' else 'DEL'} was cut off; its namespace lives"
            yield record.lease, Finding(CHECK, WARNING, what, "delete the pod: the runtime's DEL takes the rest away")
        elif link is None and attachment.host_link:
            what = f"{where} lives in {attachment.netns} and has lost its link {attachment.host_link}"
            yield record.lease, Finding(CHECK, ERROR, what, _delete_pod(attachment))


def attachment_words(record: state.Record) -> str:
    """An attachment for messages: its interface and addresses."""
    return f"({record.attachment.ifname}, {', '.join(record.addresses) or 'no address'})"


def _delete_pod(attachment: Attachment) -> str:
    namespace, _, name = attachment.pod.partition("/")
    return f"kubectl delete pod -n {namespace} {name}" if name else f"crictl stopp {attachment.container_id}"


def _links(scene: Scene) -> Iterator[tuple[str, Finding]]:
    recorded = scene.state.by_key()
    by_name = {record.attachment.host_link: record for record in scene.state.records}
    unreadable = {each.lease for each in scene.state.unreadable}
    for link in scene.kernel.links:
        if not link.ours or link.key in recorded or link.name in by_name or link.name in unreadable:
            continue
        lease = lease_id(*link.key) if link.key else ""
        owner = f"alias {link.alias!r}" if link.alias else f"group {link.group}, no alias"
        if link.elsewhere:
            what = f"link {link.name} ({owner}) has no record, and its other end is in a namespace that exists"
            yield lease, Finding(CHECK, ERROR, what, f"delete its pod; without one: ip link delete {link.name}")
        else:
            what = f"link {link.name} ({owner}) has no record and leads into no pod"
            yield lease, Finding(CHECK, WARNING, what, _GC, Garbage("link", (link.name, str(link.index)), lease))


def _routes_and_neighbours(scene: Scene) -> Iterator[tuple[str, Finding]]:
    # What lies on an unrecorded link goes with it, and the link is a finding already.
    expected = {
        (link.name, address): record.lease
        for record in scene.state.records
        if (link := scene.link_of(record.attachment))
        for address in record.addresses
    }
    leases = {name: lease for (name, _), lease in expected.items()}
    stray = {link.name for link in scene.kernel.links if link.ours and link.name not in leases}
    for route in scene.kernel.host_routes:
        address = route.destination.partition("/")[0]
        if (route.link, address) not in expected and route.link not in stray:
            what = f"route {route.destination} dev {route.link} (protocol 112) belongs to no attachment"
            garbage = Garbage("route", (route.destination, route.link), leases.get(route.link, ""))
            yield leases.get(route.link, ""), Finding(CHECK, WARNING, what, _GC, garbage)
    for each in scene.kernel.neighbours:
        if each.link in leases and (each.link, each.address) not in expected:
            what = f"permanent neighbour {each.address} dev {each.link} belongs to no attachment"
            garbage = Garbage("neighbour", (each.address, each.link), leases[each.link])
            yield leases[each.link], Finding(CHECK, WARNING, what, _GC, garbage)


def _elements(scene: Scene) -> Iterator[tuple[str, Finding]]:
    records = scene.state.by_lease()
    unreadable = {each.lease for each in scene.state.unreadable}
    for element in scene.table:
        record = records.get(element.comment)
        if record is not None:
            owned = {(each.set, _key(each)) for each in record.attachment.elements()}
            if (element.set, element.key) in owned:
                continue
        if element.comment in unreadable:
            continue
        what = f"nft element {element.set} {{ {element.key} }} (lease {element.comment or 'unknown'}) has no record"
        garbage = (
            Garbage("element", (element.set, element.key), element.comment) if state.is_lease(element.comment) else None
        )
        fix = _GC if garbage else f"nft delete element inet {nftables.TABLE} {element.set} '{{ {element.key} }}'"
        yield element.comment, Finding(CHECK, WARNING, what, fix, garbage)


def _key(element: "nftables.Element") -> str:
    return element.text.partition(" : ")[0]


def _claims(scene: Scene) -> Iterator[tuple[str, Finding]]:
    records = scene.state.by_key()
    for folder, claimed in (("addresses", scene.state.addresses), ("ports", scene.state.ports)):
        for name, claim in claimed.items():
            holder = claim.holder
            if holder is None or (holder.container_id, holder.ifname) in records:
                continue
            who = holder.pod or holder.container_id[:13]
            what = f"claim {folder}/{name} of {who} has no record"
            if scene.is_alive(holder):
                yield holder.lease, Finding(CHECK, ERROR, f"{what}, and its pod lives", _delete_pod(holder))
            else:
                garbage = Garbage("claim", (folder, name), holder.lease)
                yield holder.lease, Finding(CHECK, WARNING, what, _GC, garbage)
    for record in scene.state.records:
        for name in record.claimed:
            held = scene.state.addresses.get(name)
            if held is None or held.holder is None or (held.holder.container_id, held.holder.ifname) != record.key:
                what = f"{record.owner} {attachment_words(record)} does not hold the claim of its address {name}"
                # A DEL releases claims before records: what was cut off there is reported as a record.
                if record.state == "attachments" and scene.is_alive(record.attachment):
                    yield record.lease, Finding(CHECK, ERROR, what, _delete_pod(record.attachment))


def _files(scene: Scene) -> Iterator[tuple[str, Finding]]:
    living = _inodes_of_living(scene)
    for each in scene.state.unreadable:
        what = f"{each.path} cannot be read: {each.fault}"
        if each.newer:
            fix = "a later podwire wrote it: use that version's podwire-net"
            yield each.lease, Finding(CHECK, WARNING, what, fix)
        elif each.inode in living or each.path.name in scene.routed:
            yield (
                each.lease,
                Finding(
                    CHECK,
                    ERROR,
                    what,
                    f"delete its pod: DEL releases what is told by the rest; without a pod: rm {each.path}",
                ),
            )
        else:
            garbage = Garbage("file", (str(each.path),), each.lease)
            yield each.lease, Finding(CHECK, WARNING, what, _GC, garbage)
    for path in scene.state.drafts:
        lease = path.name.removeprefix(".")
        what = f"{path} is a draft that an ADD left when it was killed"
        yield lease, Finding(CHECK, WARNING, what, _GC, Garbage("file", (str(path),), lease))
    for path in scene.state.absent:
        if path.name not in scene.state.by_lease() and path.name not in {each.lease for each in scene.state.unreadable}:
            what = f"{path} is the mark of an attachment that is gone"
            yield path.name, Finding(CHECK, WARNING, what, _GC, Garbage("file", (str(path),), path.name))
    for folder in state.folders_of_other_boots(scene.state.state_dir):
        what = f"{folder} is the state of an earlier boot"
        yield "", Finding(CHECK, WARNING, what, _GC, Garbage("folder", (str(folder),)))


def _inodes_of_living(scene: Scene) -> set[int]:
    """The files of unreadable records whose link or nft elements are there; their claims are hard links to them."""
    signs = {*scene.kernel.by_name, *(each.comment for each in scene.table)}
    return {each.inode for each in scene.state.unreadable if each.lease in signs}


_JUDGES: tuple[Callable[[Scene], Iterator[tuple[str, Finding]]], ...] = (
    _records,
    _links,
    _routes_and_neighbours,
    _elements,
    _claims,
    _files,
)
