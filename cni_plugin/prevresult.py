"""A result of any CNI version, as plugins before us and runtimes pass it in `prevResult`."""

from cni_plugin import ipam

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def addresses(result: "dict[str, Any]") -> "list[tuple[bytes, int]]":
    """The addresses of a result with their prefix lengths: `ips` (0.3.0 on) or `ip4`/`ip6` (before).

    Raises ValueError for what is no result.
    """
    entries = _list(result, "ips")
    found = [entry.get("address") for entry in entries]
    for key in ("ip4", "ip6"):
        section = result.get(key)
        if isinstance(section, dict):
            found.append(section.get("ip"))
        elif section is not None:
            raise ValueError(f"{key} is no object")
    return [ipam.parse_network(text) for text in found]


def interfaces(result: "dict[str, Any]") -> "list[dict[str, Any]]":
    """The interfaces of a result, empty before 0.3.0. Raises ValueError."""
    return _list(result, "interfaces")


def _list(result: "dict[str, Any]", key: str) -> "list[dict[str, Any]]":
    entries = result.get(key) or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{key} is no list of objects")
    return entries
