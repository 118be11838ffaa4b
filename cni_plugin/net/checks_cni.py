"""Checks of the runtime's side: its configuration folder, the plugins' binaries, and who else manages routes."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from cni_plugin.net import conflists
from cni_plugin.net.findings import ERROR, NOTE, WARNING
from cni_plugin.net.node import Node
from cni_plugin.net.registry import Complaint, check
from cni_plugin.spec import CniError

# Capabilities of podwire that make another plugin of the list do the same work twice.
_DOUBLES = {"portmap": "portMappings", "bandwidth": "bandwidth"}
# As networkd.conf(5) orders them: of equal names the first folder wins, and all are read in order of their names.
_SYSTEMD = tuple(Path(folder, "systemd") for folder in ("/etc", "/run", "/usr/local/lib", "/usr/lib"))


@check(
    "conflists", "files of the configuration folder: broken, before podwire's, refused by podwire, or doing its work"
)
def conflist_files(node: Node) -> Iterator[Complaint]:
    ours = [file for file in node.conflists if file.ours]
    for file in node.conflists:
        if file.fault:
            yield ERROR, f"{file.path} cannot be read by the runtime: {file.fault}", f"rm {file.path}  # or mend it"
    if not ours:
        what = f"no file in {node.netd} has a plugin of type podwire"
        yield WARNING, what, f"podwire-net conf render --pod-cidr CIDR --write {node.netd}/10-podwire.conflist"
        return
    first = ours[0].path
    for file in node.conflists:
        if file.path.name < first.name and not file.ours:
            what = f"{file.path} sorts before {first.name}: pods get that network instead"
            yield ERROR, what, f"rm {file.path}"
    for file in ours[1:]:
        what = f"{file.path} is a second network of podwire; the runtime takes {first.name}"
        yield NOTE, what, f"if it is a leftover: rm {file.path}"
    for file in ours:
        for plugin in file.ours:
            try:
                file.network(plugin)
            except CniError as fault:
                yield ERROR, f"{file.path}: podwire refuses it: {fault.message}", f"edit {file.path}: {fault.details}"
        yield from _doubles(file)


def _doubles(file: conflists.ConfFile) -> Iterator[Complaint]:
    for plugin in file.ours:
        capabilities = plugin.get("capabilities")
        for kind, capability in _DOUBLES.items():
            beside = any(each["type"] == kind for each in file.plugins)
            if beside and isinstance(capabilities, dict) and capabilities.get(capability):
                what = f"{file.path} lists {kind} beside podwire, which does {capability} itself"
                yield ERROR, what, f"take the plugin {kind} out of {file.path}"


@check("plugins", "executables of the conflist's plugins and of loopback in the plugin folder")
def plugin_binaries(node: Node) -> Iterator[Complaint]:
    wanted = {plugin["type"] for file in node.conflists if file.ours for plugin in file.plugins} | {"loopback"}
    wanted |= {
        plugin["ipam"]["type"]
        for file in node.conflists
        if file.ours
        for plugin in file.plugins
        if plugin["type"] != "podwire"
        and isinstance(plugin.get("ipam"), dict)
        and isinstance(plugin["ipam"].get("type"), str)
    }
    for name in sorted(wanted):
        path = node.bin / name
        if not os.access(path, os.X_OK):
            fix = (
                f"cp build/cni/podwire {node.bin}"
                if name == "podwire"
                else f"install the plugin {name} into {node.bin}"
            )
            if name == "loopback":
                fix = f"ln -s podwire {path}"
            yield ERROR, f"plugin {path} is missing or not executable", fix
    ours = node.bin / "podwire"
    if os.access(ours, os.X_OK) and not Path(f"{ours.resolve()}.lib").is_dir():
        yield ERROR, f"{ours} lacks its folder {ours.resolve()}.lib", f"cp -r build/cni/. {node.bin}/"


@check("permissions", "who may write what the runtime reads or executes as root")
def permissions(node: Node) -> Iterator[Complaint]:
    for path in (node.netd, node.bin, *(file.path for file in node.conflists), node.bin / "podwire"):
        try:
            status = path.stat()
        except OSError:
            continue
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o022:
            yield WARNING, f"{path} has mode {mode:04o}: others than its owner may write it", f"chmod go-w {path}"
        if status.st_uid != 0:
            yield WARNING, f"{path} belongs to uid {status.st_uid}", f"chown root {path}"


@check("networkd", "systemd-networkd's ManageForeignRoutes and ManageForeignRoutingPolicyRules, where it runs")
def networkd(node: Node) -> Iterator[Complaint]:
    if not _runs("systemd-networkd"):
        return
    settings = _networkd_settings()
    for key, harm in (("ManageForeignRoutes", "routes"), ("ManageForeignRoutingPolicyRules", "routing rules")):
        value = settings.get(key, "yes")
        if value.lower() in ("yes", "true", "on", "1", "y", "t"):
            stated = "set" if key in settings else "the default"
            what = f"systemd-networkd runs with {key}={value} ({stated}): its restart deletes pods' {harm}"
            place = "/etc/systemd/networkd.conf.d/50-podwire.conf"
            write = f"printf '[Network]\\nManageForeignRoutes=no\\nManageForeignRoutingPolicyRules=no\\n' >{place}"
            yield WARNING, what, f"mkdir -p {Path(place).parent} && {write} && systemctl restart systemd-networkd"


def _runs(name: str) -> bool:
    # The kernel keeps 15 bytes of a process's name.
    wanted = name[:15]
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if Path("/proc", entry, "comm").read_text().strip() == wanted:
                    return True
            except OSError:
                continue
    return False


def _networkd_settings() -> dict[str, str]:
    files = next(([path] for folder in _SYSTEMD if (path := folder / "networkd.conf").is_file()), [])
    drop_ins: dict[str, Path] = {}
    for folder in reversed(_SYSTEMD):
        drop_ins.update({path.name: path for path in (folder / "networkd.conf.d").glob("*.conf")})
    settings: dict[str, str] = {}
    for path in [*files, *(drop_ins[name] for name in sorted(drop_ins))]:
        section = ""
        for line in path.read_text(errors="replace").splitlines():
            text = line.strip()
            if text.startswith("["):
                section = text
            elif section == "[Network]" and "=" in text and text[0] not in "#;":
                key, _, value = text.partition("=")
                settings[key.strip()] = value.strip()
    return settings
