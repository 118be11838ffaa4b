"""`podwire-agent check`: every key with its value, and where the list of nodes would come from."""

from pathlib import Path
from typing import Any, TextIO

from cni_plugin.agent import config
from cni_plugin.agent.config import AUTO, KUBERNETES, NONE, SETTINGS, STATIC, Config
from cni_plugin.agent.errors import SourceError
from cni_plugin.agent.static import read


def show(chosen: Config, file: str | None, output: TextIO) -> int:
    """Print the configuration; 1 when a list of nodes that it names cannot be used as it is."""
    default = Config()
    output.write(f"{file or config.FILE}: fine\n")
    for setting in SETTINGS:
        value = getattr(chosen, setting.attribute)
        mark = "" if value == getattr(default, setting.attribute) else "    (set)"
        output.write(f"  {setting.key} = {_toml(value)}{mark}\n")
    return _show_source(chosen, output)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(each) for each in value)}]"
    if isinstance(value, float | int):
        return f"{value:g}"
    return f'"{value or ""}"'


def _show_source(chosen: Config, output: TextIO) -> int:
    kubeconfig, file = Path(chosen.kubernetes_kubeconfig), Path(chosen.file_path)
    wanted = chosen.source
    if wanted == AUTO:
        wanted = KUBERNETES if kubeconfig.exists() else STATIC if file.exists() else NONE
    if wanted == KUBERNETES:
        output.write(f"the list of nodes comes from the API server in {kubeconfig}\n")
        return 0
    if wanted == NONE:
        output.write(f"no list of nodes: neither {kubeconfig} nor {file} is there\n" if chosen.source == AUTO else "")
        return 0
    try:
        nodes = read(file, lambda names, faults: {name: [] for name in names})
    except SourceError as fault:
        output.write(f"{fault}\n")
        return 1
    for peer in nodes.peers:
        addresses = ", ".join(map(str, peer.addresses)) or "host names"
        output.write(f"node {peer.name}: {addresses}: {', '.join(map(str, peer.pod_cidrs)) or 'no pod CIDR'}\n")
    for each in nodes.faults:
        output.write(f"{each}\n")
    return 1 if nodes.faults else 0
