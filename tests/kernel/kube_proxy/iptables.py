"""kube-proxy in iptables mode: input of `iptables-restore --noflush` (pkg/proxy/iptables/proxier.go).

With kubelet's KUBE-FIREWALL beside it, and the sysctl that the mode sets for node ports on 127.0.0.1.
"""

from tests.kernel.kube_proxy import Service, digest
from tests.lab.netns import Namespace


def install(space: Namespace, ipv6: bool, pods: str, services: list[Service], variant: str) -> None:
    """Put the rules into a namespace; `variant` is nft or legacy, `pods` the cluster's CIDR."""
    text = "\n".join([*_filter(ipv6), *_nat(ipv6, pods, services)]) + "\n"
    program = f"{'ip6tables' if ipv6 else 'iptables'}-{variant}-restore"
    space.run([program, "--noflush"], input=text)
    if not ipv6:
        space.run(["sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet"])


def _comment(text: str) -> str:
    return f'-m comment --comment "{text}"'


def _filter(ipv6: bool) -> list[str]:
    established = "-m conntrack --ctstate RELATED,ESTABLISHED"
    rules = [
        "*filter",
        ":KUBE-FORWARD - [0:0]",
        ":KUBE-FIREWALL - [0:0]",
        f"-A FORWARD {_comment('kubernetes forwarding rules')} -j KUBE-FORWARD",
        "-A INPUT -j KUBE-FIREWALL",
        "-A OUTPUT -j KUBE-FIREWALL",
        "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
        f"-A KUBE-FORWARD {_comment('kubernetes forwarding rules')} -m mark --mark 0x4000/0x4000 -j ACCEPT",
        f"-A KUBE-FORWARD {_comment('kubernetes forwarding conntrack rule')} {established} -j ACCEPT",
    ]
    if not ipv6:
        rules.append(
            f"-A KUBE-FIREWALL {_comment('block incoming localnet connections')} -d 127.0.0.0/8 ! -s 127.0.0.0/8 "
            "-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"
        )
    return [*rules, "COMMIT"]


def _nat(ipv6: bool, pods: str, services: list[Service]) -> list[str]:
    chains = ["KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ"]
    rules = [
        f"-A PREROUTING {_comment('kubernetes service portals')} -j KUBE-SERVICES",
        f"-A OUTPUT {_comment('kubernetes service portals')} -j KUBE-SERVICES",
        f"-A POSTROUTING {_comment('kubernetes postrouting rules')} -j KUBE-POSTROUTING",
        "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
        "-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000",
        f"-A KUBE-POSTROUTING {_comment('kubernetes service traffic requiring SNAT')} -j MASQUERADE --random-fully",
        "-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000",
    ]
    for service in services:
        more_chains, more_rules = _service(ipv6, pods, service)
        chains += more_chains
        rules += more_rules
    last = "kubernetes service nodeports; NOTE: this must be the last rule in this chain"
    rules.append(f"-A KUBE-SERVICES {_comment(last)} -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS")
    return ["*nat", *(f":{chain} - [0:0]" for chain in chains), *rules, "COMMIT"]


def _service(ipv6: bool, pods: str, service: Service) -> tuple[list[str], list[str]]:
    full, name = "/128" if ipv6 else "/32", f"default/{service.name}"
    svc, ext, svl = (f"KUBE-{kind}-{service.hash}" for kind in ("SVC", "EXT", "SVL"))
    match = f"-m {service.protocol} -p {service.protocol}"
    at = f"{match} -d {service.cluster_ip}{full} --dport {service.port}"
    if not service.endpoints:
        return [], []
    chains = [svc, ext]
    rules = [f"-A KUBE-SERVICES {_comment(f'{name} cluster IP')} {at} -j {svc}"]
    if service.external_ip:
        external = f"{match} -d {service.external_ip}{full} --dport {service.port}"
        rules.append(f"-A KUBE-SERVICES {_comment(f'{name} external IP')} {external} -j {ext}")
    if service.node_port:
        rules.append(f"-A KUBE-NODEPORTS {_comment(name)} {match} --dport {service.node_port} -j {ext}")
    if service.local:
        chains.append(svl)
        rules += [
            f"-A {ext} {_comment(f'pod traffic for {name} external destinations')} -s {pods} -j {svc}",
            f"-A {ext} {_comment('masquerade LOCAL traffic')} -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ",
            f"-A {ext} {_comment('route LOCAL traffic')} -m addrtype --src-type LOCAL -j {svc}",
            f"-A {ext} -j {svl}",
        ]
    else:
        masquerade = _comment(f"masquerade traffic for {name} external destinations")
        rules += [f"-A {ext} {masquerade} -j KUBE-MARK-MASQ", f"-A {ext} -j {svc}"]
    rules.append(f"-A {svc} {_comment(f'{name} cluster IP')} {at} ! -s {pods} -j KUBE-MARK-MASQ")
    for position, (address, port) in enumerate(service.endpoints):
        sep = f"KUBE-SEP-{digest(f'{name}{address}{port}')}"
        target = f"[{address}]:{port}" if ipv6 else f"{address}:{port}"
        left = len(service.endpoints) - position
        share = f"-m statistic --mode random --probability {1 / left:.10f} " if left > 1 else ""
        chains.append(sep)
        for chain in (svc, svl) if service.local else (svc,):
            rules.append(f"-A {chain} {_comment(f'{name} -> {target}')} {share}-j {sep}")
        rules.append(f"-A {sep} {_comment(name)} -s {address}{full} -j KUBE-MARK-MASQ")
        rules.append(f"-A {sep} {_comment(name)} {match} -j DNAT --to-destination {target}")
    return chains, rules
