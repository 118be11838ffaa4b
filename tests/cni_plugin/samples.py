"""What the tests of this package begin with: a configuration, an environment, an attachment."""

from __future__ import annotations

from typing import Any

import pytest

from cni_plugin import claims
from cni_plugin.attachment import Attachment, HostPort, lease_id
from cni_plugin.spec import CniError

COOKIE = 4242


def configuration(**changes: Any) -> dict[str, Any]:
    """A configuration that is right; a change to None takes the key away."""
    document: dict[str, Any] = {
        "cniVersion": "1.1.0",
        "name": "pods",
        "type": "podwire",
        "ipam": {"ranges": [[{"subnet": "10.1.0.0/24"}]]},
    }
    document.update(changes)
    return {key: value for key, value in document.items() if value is not None}


def environment(command: str = "ADD", **changes: str) -> dict[str, str]:
    """The variables of a call; a change to the empty string leaves one out."""
    variables = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/run/netns/c1",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
    }
    variables.update(changes)
    return {key: value for key, value in variables.items() if value}


def attachment(
    container_id: str = "c1",
    ifname: str = "eth0",
    *,
    address: bytes = b"",
    ports: list[HostPort] | None = None,
    pod: str = "shop/cart",
    routes: list[str] | None = None,
    network: str = "pods",
) -> Attachment:
    """An attachment as ADD makes it, without an address unless one is given."""
    return Attachment(
        container_id,
        ifname,
        network,
        pod,
        f"/run/netns/{container_id}",
        77,
        lease_id(container_id, ifname),
        0x7077,
        1500,
        address,
        ["0.0.0.0/0"] if routes is None else routes,
        ports or [],
        claims.boot_time(),
    )


def fails(code: int, *words: str) -> Any:
    """A context in which CniError `code` is raised, whose message and details hold all the words."""

    def matches(fault: CniError) -> bool:
        text = f"{fault.message} | {fault.details}"
        missing = [word for word in words if word not in text]
        assert not missing, f"{missing} not in {text!r}"
        assert fault.code == code, f"code {fault.code}: {text}"
        return True

    return pytest.raises(CniError, check=matches)
