"""Rule sets as kube-proxy writes them, one module for each of its modes, over one description of services."""

import dataclasses
import hashlib

MASQUERADE_MARK = 0x4000


@dataclasses.dataclass(frozen=True)
class Service:
    """One port of a Service: where it is called, and the (address, port) of its endpoints.

    `local` is externalTrafficPolicy: Local, which keeps the caller's address for node port and external IP.
    """

    name: str
    cluster_ip: str
    port: int
    endpoints: tuple[tuple[str, int], ...]
    node_port: int = 0
    external_ip: str = ""
    protocol: str = "tcp"
    local: bool = False

    @property
    def hash(self) -> str:
        """Sixteen characters that stand for the service in names of chains."""
        return digest(f"default/{self.name}{self.protocol}")


def digest(text: str) -> str:
    """A name's stand-in: sixteen capitals and digits."""
    return hashlib.sha256(text.encode()).hexdigest().upper()[:16]
