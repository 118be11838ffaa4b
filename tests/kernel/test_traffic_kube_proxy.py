"""Services beside pods: kube-proxy's rules and ours in one kernel, and each caller is seen as kube-proxy intends."""

import shutil
from collections.abc import Callable

import pytest

from tests.kernel.conftest import Node
from tests.kernel.families import IPV4, IPV6, Family, add_ipv6, both_families
from tests.kernel.kube_proxy import Service, iptables, nftables

pytestmark = pytest.mark.root

CLUSTER = {IPV4: "10.244.0.0/16", IPV6: "fd00:10:244::/48"}
SERVICE_IPS = {IPV4: "10.96.0.{}", IPV6: "fd00:10:96::{}"}
FIRST_POD = {IPV4: "10.244.0.1", IPV6: "fd00:10:244::1"}
EXTERNAL_IP = {IPV4: "203.0.113.9", IPV6: "2001:db8:9::9"}
MODES = ["iptables-nft", "iptables-legacy", "nftables"]


class Cluster:
    """A node with a client, a web server that is a Service of every kind, and kube-proxy's rules."""

    def __init__(self, node: Node, family: Family, mode: str, rules_first: bool) -> None:
        family.use(node)
        self.node, self.family = node, family
        node.config["noMasquerade"] = [CLUSTER[family]]
        node.outside.run(["ip", "route", "add", EXTERNAL_IP[family], "via", family.node])
        # Addresses are handed out in order, so the rules can be there before the pods.
        self.web_address = FIRST_POD[family]
        if rules_first:
            self.install(mode)
        self.web, self.client = node.pod(), node.pod()
        assert node.add("web", self.web, ("tcp", 8080, 80)).address == self.web_address
        self.client_address = node.add("client", self.client).address
        if not rules_first:
            self.install(mode)
        node.serve(self.web, family.anywhere, 80)
        node.serve(self.web, family.anywhere, 80, "udp")

    def install(self, mode: str) -> None:
        """Put kube-proxy's rules in place."""
        web = ((self.web_address, 80),)
        services = [
            Service("web", self.ip(10), 80, web, 30080, EXTERNAL_IP[self.family]),
            Service("web-udp", self.ip(10), 53, web, 30053, protocol="udp"),
            Service("web-local", self.ip(11), 80, web, 30081, local=True),
            Service("nobody", self.ip(12), 80, ()),
        ]
        ipv6, pods = self.family is IPV6, CLUSTER[self.family]
        if mode == "nftables":
            nftables.install(self.node.space, ipv6, pods, services, [self.family.node])
        else:
            variant = mode.partition("-")[2]
            if shutil.which(f"iptables-{variant}-restore") is None:
                pytest.skip(f"iptables-{variant}-restore is not installed")
            iptables.install(self.node.space, ipv6, pods, services, variant)

    def ip(self, number: int) -> str:
        """A cluster IP."""
        return SERVICE_IPS[self.family].format(number)


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[False, True], ids=["made after ours", "made before ours"])
def cluster(node: Node, family: Family, mode: str, request: pytest.FixtureRequest) -> Cluster:
    return Cluster(node, family, mode, request.param)


@both_families
def test_services_and_pods_each_see_the_caller_that_kube_proxy_intends(cluster: Cluster, family: Family) -> None:
    ask, node = cluster.node.ask, cluster.node
    seen = {
        "pod to cluster IP": ask(cluster.client, cluster.ip(10), 80),
        "pod to cluster IP, udp": ask(cluster.client, cluster.ip(10), 53, "udp"),
        "pod to a service of local policy": ask(cluster.client, cluster.ip(11), 80),
        "pod to node port": ask(cluster.client, family.node, 30080),
        "pod to node port of local policy": ask(cluster.client, family.node, 30081),
        "pod to external IP": ask(cluster.client, EXTERNAL_IP[family], 80),
        "pod to itself through its service": ask(cluster.web, cluster.ip(10), 80),
        "pod to itself through its node port": ask(cluster.web, family.node, 30080),
        "node to cluster IP": ask(node.space, cluster.ip(10), 80),
        "outside to node port": ask(node.outside, family.node, 30080),
        "outside to node port, udp": ask(node.outside, family.node, 30053, "udp"),
        "outside to node port of local policy": ask(node.outside, family.node, 30081),
        "outside to external IP": ask(node.outside, EXTERNAL_IP[family], 80),
        "a service without endpoints": ask(cluster.client, cluster.ip(12), 80),
        # Ours beside them.
        "pod to pod": ask(cluster.client, cluster.web_address, 80),
        "pod to hostPort": ask(cluster.client, family.node, 8080),
        "outside to hostPort": ask(node.outside, family.node, 8080),
        "node to hostPort": ask(node.space, family.node, 8080),
    }
    assert seen == {
        "pod to cluster IP": cluster.client_address,
        "pod to cluster IP, udp": cluster.client_address,
        "pod to a service of local policy": cluster.client_address,
        "pod to node port": family.node,
        "pod to node port of local policy": cluster.client_address,
        "pod to external IP": family.node,
        "pod to itself through its service": family.node,
        "pod to itself through its node port": family.node,
        "node to cluster IP": family.node,
        "outside to node port": family.node,
        "outside to node port, udp": family.node,
        "outside to node port of local policy": family.outside,
        "outside to external IP": family.node,
        "a service without endpoints": "no answer",
        "pod to pod": cluster.client_address,
        "pod to hostPort": cluster.client_address,
        "outside to hostPort": family.outside,
        "node to hostPort": family.node,
    }


@both_families
def test_what_leaves_the_node_is_masqueraded_once_beside_services(cluster: Cluster, family: Family) -> None:
    node = cluster.node
    node.serve(node.outside, family.outside, 90)
    assert node.ask(cluster.client, family.outside, 90) == family.node


@pytest.mark.parametrize("mode", ["iptables-nft"])
def test_the_nodes_loopback_stays_shut_though_kube_proxy_opens_every_link(node: Node, mode: str) -> None:
    cluster = Cluster(node, IPV4, mode, rules_first=True)
    node.serve(node.space, "127.0.0.1", 5000)
    assert node.ask(node.space, "127.0.0.1", 8080) == IPV4.node
    pod = cluster.client
    for route in ("127.0.0.0/8", "127.0.0.1"):
        pod.run(["ip", "route", "del", "local", route, "dev", "lo", "table", "local"], check=False)
    pod.run(["ip", "address", "flush", "dev", "lo"])
    pod.run(["ip", "route", "add", "127.0.0.1/32", "via", "169.254.1.1", "dev", "eth0", "onlink"])
    pod.run(["sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet"])
    assert node.refused(pod, "127.0.0.1", 5000)


@pytest.mark.parametrize("mark", [0x4000, 0x8000, 0xC000], ids=hex)
def test_marks_pass_through_our_rules_as_they_are(node: Node, mark: int) -> None:
    add_ipv6(node)
    node.add("web", (web := node.pod()), ("tcp", 8080, 80))
    node.serve(web, "0.0.0.0", 80)
    script = f"""
table inet marks {{
  counter kept {{ }}
  counter changed {{ }}
  chain first {{ type filter hook prerouting priority -310; tcp dport 8080 meta mark set {mark:#x}; }}
  chain last {{ type filter hook postrouting priority 300; tcp dport 80 jump judge; }}
  chain judge {{ meta mark {mark:#x} counter name kept; meta mark != {mark:#x} counter name changed; }}
}}
"""
    node.space.run(["nft", "-f", "-"], input=script)
    assert node.ask(node.outside, IPV4.node, 8080) == IPV4.outside
    listed = node.space.run(["nft", "list", "counters", "table", "inet", "marks"]).stdout.split()
    packets = {listed[i + 1]: int(listed[i + 4]) for i, word in enumerate(listed) if word == "counter"}
    assert packets["kept"] > 0
    assert packets["changed"] == 0


@both_families
@pytest.mark.parametrize("mode", ["iptables-nft", "nftables"])
def test_two_endpoints_share_the_callers(node: Node, family: Family, mode: str) -> None:
    family.use(node)
    pods = [node.pod() for _ in range(3)]
    *webs, caller = [node.add(f"pod{number}", pod).address for number, pod in enumerate(pods)]
    for pod in pods[:2]:
        node.serve(pod, family.anywhere, 80)
    service = Service("web", SERVICE_IPS[family].format(10), 80, tuple((address, 80) for address in webs))
    installers: dict[str, Callable[[], None]] = {
        "nftables": lambda: nftables.install(node.space, family is IPV6, CLUSTER[family], [service], [family.node]),
        "iptables-nft": lambda: iptables.install(node.space, family is IPV6, CLUSTER[family], [service], "nft"),
    }
    installers[mode]()
    assert {node.ask(pods[2], service.cluster_ip, 80) for _ in range(12)} == {caller}
    tables = node.space.run(["conntrack", "-L", "-f", family.name, "-p", "tcp"]).stdout
    assert all(f"src={address} dst={caller}" in tables for address in webs)
