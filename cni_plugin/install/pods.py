"""The pods that hold an attachment of ours, and taking the network from them.

Removing the conflist is not enough while there are such pods. A runtime that has no network left refuses to stop a
sandbox ("cni plugin not initialized"), and the pod stays Terminating for ever. So where no other network is there, a
conflist that refuses every ADD and serves every DEL takes the place of ours until the last pod is gone.
"""

import json
import shutil
import time
from pathlib import Path
from typing import Any

from cni_plugin import claims, nftables
from cni_plugin.install import entries
from cni_plugin.install.site import NodeError, Site
from cni_plugin.net import collect, conflists, kernel, state
from cni_plugin.spec import CniError

STOP_SECONDS = 60.0
# What ADD's error says: the plugin refuses a key that it does not know, and shows its value.
WITHDRAWN = "withdrawn"
_WHY = "podwire is being removed from this node"


def state_dirs(site: Site) -> list[Path]:
    """Where attachments may be recorded: the usual folder, and the one that the conflist names."""
    try:
        named = conflists.state_dir([each for each in conflists.read(site.places.netd) if each.ours])
    except OSError:
        named = site.places.run
    folders = [site.places.run]
    if named not in (site.places.run, Path("/run/podwire")):
        folders.append(named)
    return folders


def attached(site: Site) -> list[state.Record]:
    """Every recorded attachment of this node, the half-made ones included."""
    return [record for folder in state_dirs(site) for record in state.read(folder).records]


def words(record: state.Record) -> str:
    """A pod for messages."""
    return f"{record.owner} ({', '.join(record.addresses) or record.attachment.ifname})"


def collect_garbage(site: Site) -> None:
    """Take away what belongs to pods whose namespaces are gone; what fails is found again by whoever looks."""
    for folder in state_dirs(site):
        try:
            found = collect.removable(folder)
            for removal in collect.collect(folder, found) if found else ():
                if removal.fault:
                    site.say(f"  not removed: {removal.finding.what}: {removal.fault}")
        except (OSError, CniError, kernel.ToolError) as fault:
            site.say(f"  looking for what dead pods left in {folder}: {fault}")


def other_network(site: Site) -> Path | None:
    """Another conflist, which the runtime takes when ours is gone."""
    found = [each for each in conflists.read(site.places.netd) if not each.fault and not each.ours]
    return found[0].path if found else None


def withdraw(site: Site) -> None:
    """No pod gets our network any more; those that have it can still be stopped."""
    path = site.places.conflist
    if not path.exists():
        return
    other = other_network(site)
    if other is not None:
        site.say(f"  {path} removed: new pods get {other.name}")
        entries.put(path, None)
        return
    try:
        document = json.loads(path.read_bytes())
        for plugin in document["plugins"]:
            plugin[WITHDRAWN] = _WHY
    except (ValueError, KeyError, TypeError):
        document = _minimal()
    text = json.dumps(document, indent=2) + "\n"
    if path.read_text() != text:
        site.say(f"  {path} withdrawn: no new pod gets this network, and those that have it can be stopped")
        entries.replace(path, text.encode())


def is_withdrawn(content: bytes) -> bool:
    """Whether this is what `withdraw` writes."""
    return f'"{WITHDRAWN}": "{_WHY}"'.encode() in content


def _minimal() -> dict[str, Any]:
    plugin = {"type": "podwire", WITHDRAWN: _WHY}
    return {"cniVersion": "1.0.0", "name": "podwire", "plugins": [plugin]}


def remove_sandboxes(site: Site, found: list[state.Record]) -> None:
    """Have the runtime remove the sandboxes of these attachments; kubelet makes them anew with the next network.

    Stopping alone is not enough: whoever stops such a sandbox once more, as kubelet does before it removes one, is
    refused as long as the runtime has no network.
    """
    for container in dict.fromkeys(record.attachment.container_id for record in found):
        who = next(words(record) for record in found if record.attachment.container_id == container)
        site.say(f"  removing the sandbox of {who}")
        try:
            site.run([site.program("podwire-cri"), "sandbox", "remove", "--any", container], STOP_SECONDS)
        except NodeError as fault:
            site.say(f"  {fault}")


def drain(site: Site, seconds: float, *, delete: bool) -> list[str]:
    """Wait until nothing is attached; `delete` removes the sandboxes. Returns in words what is left."""
    deadline = time.monotonic() + seconds
    tried: set[str] = set()
    told = 0
    while True:
        collect_garbage(site)
        found = attached(site)
        if not found:
            return []
        fresh = [record for record in found if record.lease not in tried]
        if delete and fresh:
            tried |= {record.lease for record in fresh}
            remove_sandboxes(site, fresh)
            continue
        if time.monotonic() >= deadline:
            return [words(record) for record in found]
        if len(found) != told:
            told = len(found)
            site.say(f"  waiting for {told} pod{'s' if told > 1 else ''}: {', '.join(map(words, found[:5]))}")
        time.sleep(0.5)


def clear_state(site: Site, *, table: bool) -> list[str]:
    """Remove the plugin's state of this node, and the nft table if `table`. Only when nothing is attached.

    Returns in words what is not podwire's and stays.
    """
    collect_garbage(site)
    if table and kernel.table() is not None:
        site.run([kernel.nft_program() or "nft", "delete", "table", "inet", nftables.TABLE])
    left = []
    for folder in state_dirs(site):
        if not folder.is_dir():
            continue
        for path in [Path(claims.node_folder(str(folder), state.own_cookie())), *state.folders_of_other_boots(folder)]:
            shutil.rmtree(path, ignore_errors=True)
        # Folders of other network namespaces in this boot are another node's that shares /run with us.
        rest = [path for path in folder.iterdir() if not _is_ours(path)]
        if rest:
            left.append(f"{folder} stays: {', '.join(sorted(path.name for path in rest))} in it is not this node's")
            continue
        shutil.rmtree(folder)
    return left


def clear_sockets(site: Site) -> None:
    """Remove what the shim and its watchdog leave, and their folder where nothing else is in it."""
    site.places.pod_cidr.unlink(missing_ok=True)
    folder = site.places.run
    if folder.is_dir():
        for path in folder.iterdir():
            if _is_the_shims(path):
                path.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()


def _is_the_shims(path: Path) -> bool:
    return path.is_socket() or path.name == "watchdog.json" or path.name.endswith((".sock", ".sock.lock"))


def _is_ours(path: Path) -> bool:
    return path.name in (".draft", "lock") or _is_the_shims(path)
