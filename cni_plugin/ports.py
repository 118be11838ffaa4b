"""hostPorts as the runtime passes them: the capability `portMappings` of CONVENTIONS.md."""

from cni_plugin import ipam
from cni_plugin.attachment import HostPort


def parse_mappings(mappings: object, widths: "list[int]", faults: "list[str]") -> "list[HostPort]":
    """The hostPorts of `runtimeConfig.portMappings`; what is wrong with them is appended to `faults`.

    `widths` are those of the pod's addresses (4, 16): a mapping without hostIP is made for each family.
    """
    if mappings is None:
        return []
    if not isinstance(mappings, list):
        faults.append("runtimeConfig.portMappings is no list")
        return []
    ports: list[HostPort] = []
    for position, entry in enumerate(mappings):
        where = f"runtimeConfig.portMappings[{position}]"
        if not isinstance(entry, dict):
            faults.append(f"{where} is no object")
            continue
        # CONVENTIONS.md says hostPort, containerd sends HostPort: to Go, whose readers ignore case, they are one.
        entry = {key[:1].lower() + key[1:]: value for key, value in entry.items()}
        host_port, container_port = entry.get("hostPort", 0), entry.get("containerPort", 0)
        if host_port == 0:
            continue  # CRI: a mapping without a host port only documents the container's port
        protocol = str(entry.get("protocol") or "tcp").lower()
        wrong = [
            f"{key} {value!r} is no port (1-65535)"
            for key, value in (("hostPort", host_port), ("containerPort", container_port))
            if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 65536
        ]
        if protocol not in ("tcp", "udp", "sctp"):
            wrong.append(f"protocol {protocol!r} is none of tcp, udp, sctp")
        hosts = [bytes(width) for width in sorted(set(widths))]
        if entry.get("hostIP"):
            try:
                hosts = [ipam.parse_address(entry["hostIP"])]
                if len(hosts[0]) not in widths:
                    wrong.append(f"hostIP {entry['hostIP']} is of a family of which the pod has no address")
            except ValueError as fault:
                wrong.append(f"hostIP: {fault}")
        if wrong:
            faults.append(f"{where}: {', '.join(wrong)}")
            continue
        for host in hosts:
            port = HostPort(protocol, host, host_port, container_port)
            for each in ports:
                if _collide(port, each):
                    faults.append(f"{where}: hostPort {port} is given twice")
            ports.append(port)
    return ports


def _collide(one: HostPort, other: HostPort) -> bool:
    # A wildcard and a single address of its family collide too.
    same = (one.protocol, one.host_port, len(one.host)) == (other.protocol, other.host_port, len(other.host))
    return same and (one.host == other.host or not any(one.host) or not any(other.host))
