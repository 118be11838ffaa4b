"""hostPorts as the runtime passes them: the capability `portMappings` of CONVENTIONS.md."""

from cni_plugin import ipam
from cni_plugin.attachment import HostPort


def parse_mappings(runtime: object, faults: "list[str]") -> "list[HostPort]":
    """The hostPorts in `runtimeConfig.portMappings`; what is wrong with them is appended to `faults`."""
    if runtime is not None and not isinstance(runtime, dict):
        faults.append("runtimeConfig is no object")
    mappings = runtime.get("portMappings") if isinstance(runtime, dict) else None
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
        host = bytes(4)
        try:
            host = ipam.parse_address(entry.get("hostIP") or "0.0.0.0")
        except ValueError as fault:
            wrong.append(f"hostIP: {fault}")
        if wrong:
            faults.append(f"{where}: {', '.join(wrong)}")
            continue
        port = HostPort(protocol, host, host_port, container_port)
        if any(str(port) == str(each) for each in ports):
            faults.append(f"{where}: hostPort {port} is given twice")
        ports.append(port)
    return ports
