"""kube-proxy in nftables mode: its table, as a script for `nft -f` (pkg/proxy/nftables/proxier.go)."""

from tests.kernel.kube_proxy import Service, digest
from tests.lab.netns import Namespace

_TABLE = """\
table {ip} kube-proxy {{
  set cluster-ips {{ type {type}; }}
  set nodeport-ips {{ type {type}; }}
  map firewall-ips {{ type {type} . inet_proto . inet_service : verdict; }}
  map no-endpoint-services {{ type {type} . inet_proto . inet_service : verdict; }}
  map no-endpoint-nodeports {{ type inet_proto . inet_service : verdict; }}
  map service-ips {{ type {type} . inet_proto . inet_service : verdict; }}
  map service-nodeports {{ type inet_proto . inet_service : verdict; }}
  chain mark-for-masquerade {{ meta mark set meta mark or 0x4000; }}
  chain masquerading {{
    meta mark and 0x4000 == 0 return
    meta mark set meta mark xor 0x4000
    masquerade fully-random
  }}
  chain reject-chain {{ reject; }}
  chain services {{
    {ip} daddr . meta l4proto . th dport vmap @service-ips
    {ip} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
  }}
  chain firewall-check {{ {ip} daddr . meta l4proto . th dport vmap @firewall-ips; }}
  chain service-endpoints-check {{ {ip} daddr . meta l4proto . th dport vmap @no-endpoint-services; }}
  chain nodeport-endpoints-check {{ {ip} daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports; }}
  chain cluster-ips-check {{ {ip} daddr @cluster-ips reject; }}
  chain filter-prerouting-pre-dnat {{
    type filter hook prerouting priority dstnat - 10;
    ct state new jump firewall-check
  }}
  chain filter-output-pre-dnat {{
    type filter hook output priority -110;
    ct state new jump firewall-check
  }}
  chain filter-input {{
    type filter hook input priority filter;
    ct state new jump nodeport-endpoints-check
    ct state new jump service-endpoints-check
  }}
  chain filter-forward {{
    type filter hook forward priority filter;
    ct state new jump service-endpoints-check
    ct state new jump cluster-ips-check
  }}
  chain filter-output {{
    type filter hook output priority filter;
    ct state new jump service-endpoints-check
    ct state new jump cluster-ips-check
  }}
  chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
  chain nat-output {{ type nat hook output priority -100; jump services; }}
  chain nat-postrouting {{ type nat hook postrouting priority srcnat; jump masquerading; }}
}}
"""


def install(space: Namespace, ipv6: bool, pods: str, services: list[Service], node_ips: list[str]) -> None:
    """Put the table into a namespace; `pods` is the cluster's CIDR, `node_ips` take node ports."""
    ip = "ip6" if ipv6 else "ip"
    lines = [f"add element {ip} kube-proxy nodeport-ips {{ {', '.join(node_ips)} }}"]
    for service in services:
        lines += _service(ip, pods, service)
    script = _TABLE.format(ip=ip, type="ipv6_addr" if ipv6 else "ipv4_addr") + "\n".join(lines) + "\n"
    space.run(["nft", "-f", "-"], input=script)


def _service(ip: str, pods: str, service: Service) -> list[str]:
    table = f"{ip} kube-proxy"
    name = f"{service.hash[:8]}-default/{service.name}/{service.protocol}/p{service.port}"
    svc, ext, local = f"service-{name}", f"external-{name}", f"local-{name}"
    at = f"{service.cluster_ip} . {service.protocol} . {service.port}"
    lines = [f"add element {table} cluster-ips {{ {service.cluster_ip} }}"]
    if not service.endpoints:
        return [*lines, f"add element {table} no-endpoint-services {{ {at} : goto reject-chain }}"]
    endpoints = [
        (
            f"endpoint-{digest(f'{name}{address}{port}')[:8]}-{name[9:]}__{address.replace(':', '.')}/{port}",
            address,
            port,
        )
        for address, port in service.endpoints
    ]
    lines += [f"add chain {table} {chain}" for chain in (svc, ext, local, *(chain for chain, _, _ in endpoints))]
    for chain, address, port in endpoints:
        target = f"[{address}]:{port}" if ip == "ip6" else f"{address}:{port}"
        lines.append(f"add rule {table} {chain} {ip} saddr {address} jump mark-for-masquerade")
        lines.append(f"add rule {table} {chain} meta l4proto {service.protocol} dnat to {target}")
    choices = ", ".join(f"{number} : goto {chain}" for number, (chain, _, _) in enumerate(endpoints))
    pick = f"numgen random mod {len(endpoints)} vmap {{ {choices} }}"
    match = f"{ip} daddr {service.cluster_ip} {service.protocol} dport {service.port}"
    lines.append(f"add rule {table} {svc} {match} {ip} saddr != {pods} jump mark-for-masquerade")
    lines.append(f"add rule {table} {svc} {pick}")
    lines.append(f"add rule {table} {local} {pick}")
    if service.local:
        lines += [
            f"add rule {table} {ext} {ip} saddr {pods} goto {svc}",
            f"add rule {table} {ext} fib saddr type local jump mark-for-masquerade",
            f"add rule {table} {ext} fib saddr type local goto {svc}",
            f"add rule {table} {ext} goto {local}",
        ]
    else:
        lines += [f"add rule {table} {ext} jump mark-for-masquerade", f"add rule {table} {ext} goto {svc}"]
    lines.append(f"add element {table} service-ips {{ {at} : goto {svc} }}")
    if service.external_ip:
        external = f"{service.external_ip} . {service.protocol} . {service.port}"
        lines.append(f"add element {table} service-ips {{ {external} : goto {ext} }}")
    if service.node_port:
        lines.append(
            f"add element {table} service-nodeports {{ {service.protocol} . {service.node_port} : goto {ext} }}"
        )
    return lines
