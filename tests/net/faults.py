"""What can be wrong on a node, and how a test makes it wrong for real."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass

from cni_plugin.attachment import lease_id
from tests.lab.images import pause_binary
from tests.lab.waiting import wait_until
from tests.net.conftest import POD_CIDR, POD_CIDR6, NetNode


@dataclass
class Fault:
    """How a healthy node with one pod is broken, and the words of the finding. `mends`: its fix can be run here."""

    check: str
    severity: str
    words: str
    make: Callable[[NetNode], object]
    mends: bool = False

    @property
    def title(self) -> str:
        return f"{self.check}: {self.words}"


def shell(script: str) -> Callable[[NetNode], object]:
    return lambda node: node.sh(script)


def write(name: str, text: str) -> Callable[[NetNode], object]:
    return lambda node: (node.netd / name).write_text(text)


def portmap_beside(node: NetNode) -> None:
    node.conflist["plugins"].append({"type": "portmap", "capabilities": {"portMappings": True}})
    (node.netd / "10-podwire.conflist").write_text(json.dumps(node.conflist))
    (node.bin / "portmap").symlink_to(node.executable)


def foreign_plugin_without_binary(node: NetNode) -> None:
    node.conflist["plugins"].append({"type": "tuning"})
    (node.netd / "10-podwire.conflist").write_text(json.dumps(node.conflist))


def plugin_without_its_folder(node: NetNode) -> None:
    (node.bin / "podwire").unlink()
    shutil.copy2(node.executable, node.bin / "podwire")


def networkd_running(node: NetNode) -> None:
    node.sh("mount --no-mtab -t tmpfs systemd /etc/systemd")
    program = node.folder / "systemd-networkd"
    shutil.copy2(pause_binary(), program)
    node.space.start([program], node.folder / "networkd.log")
    wait_until(lambda: "systemd-network" in node.sh("cat /proc/[0-9]*/comm"), 10, "the daemon to run")


def networkd_told_for_routes_only(node: NetNode) -> None:
    networkd_running(node)
    node.sh("mkdir /etc/systemd/networkd.conf.d")
    node.sh("printf '# a comment\\n[Network]\\nManageForeignRoutes=no\\n' >/etc/systemd/networkd.conf.d/a.conf")
    node.sh("printf '[Network]\\nManageForeignRoutes = yes\\n' >/etc/systemd/networkd.conf")


def nft_of_old(node: NetNode) -> None:
    script = node.folder / "nft"
    script.write_text("#!/bin/sh\necho 'nftables v0.9.3 (Topsy)'\n")
    script.chmod(0o755)
    node.sh(f"mount --no-mtab --bind {script} {shutil.which('nft')}")


def conntrack_full(node: NetNode) -> None:
    send = "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 9))"
    node.space.run([sys.executable, "-c", send])
    node.lay_over("/proc/sys/net/netfilter/nf_conntrack_max", "1")


def pool_exhausted(node: NetNode) -> None:
    node.configure("10.244.0.0/30")
    node.add("second")


def pool_nearly_full(node: NetNode) -> None:
    node.configure("10.244.0.0/28")
    for number in range(12):
        node.add(f"more{number}")


def dead_pod(node: NetNode) -> None:
    node.end(node.add("dead"))


def docker(node: NetNode) -> None:
    node.sh("iptables -P FORWARD DROP; iptables -N DOCKER-USER; iptables -A FORWARD -j DOCKER-USER")
    node.sh("iptables -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")


FIREWALLD = """
add table inet firewalld
add chain inet firewalld filter_FORWARD { type filter hook forward priority filter + 10; policy accept; }
add chain inet firewalld filter_FORWARD_ZONES
add chain inet firewalld filter_FWD_docker
add rule inet firewalld filter_FORWARD ct state { established, related } accept
add rule inet firewalld filter_FORWARD iifname "lo" accept
add rule inet firewalld filter_FORWARD jump filter_FORWARD_ZONES
add rule inet firewalld filter_FORWARD_ZONES iifname vmap { "docker0" : goto filter_FWD_docker }
add rule inet firewalld filter_FORWARD ct state invalid drop
add rule inet firewalld filter_FORWARD reject with icmpx admin-prohibited
"""


def firewalld(node: NetNode) -> None:
    node.space.run(["nft", "-f", "-"], input=FIREWALLD)


def mtu(node: NetNode) -> None:
    node.sh("ip link set uplink mtu 1400")


def dual_stack(script: str) -> Callable[[NetNode], object]:
    """Make the node dual stack, with a pod and an IPv6 way out, and then run the script."""

    def make(node: NetNode) -> None:
        node.configure(POD_CIDR, POD_CIDR6)
        node.sh("ip -6 address add 2001:db8:1::2/64 dev uplink nodad; ip -6 route add default via 2001:db8:1::1")
        node.add("six", (8081, 80))
        node.sh(script)

    return make


LEASE = lease_id("web", "eth0")
DROP = "type filter hook forward priority 0; policy drop;"
FAULTS = [
    Fault("forwarding", "error", "net.ipv4.ip_forward is 0", lambda n: n.sysctl("net.ipv4.ip_forward", 0), True),
    Fault(
        "firewall",
        "error",
        "nft chain inet own fw drops pod traffic to the outside (IPv4) by its policy drop",
        shell(f"nft 'add table inet own; add chain inet own fw {{ {DROP} }}'"),
        True,
    ),
    Fault(
        "firewall",
        "error",
        "nft chain ip own fw drops traffic from outside to pods (IPv4) by 'fw: rule handle",
        shell(
            "nft 'add table ip own; add chain ip own fw { type filter hook forward priority 0; };"
            'add rule ip own fw iifname "pw*" accept; add rule ip own fw oifname "pw*" ct state new drop\''
        ),
        True,
    ),
    Fault("firewall", "error", "nft chain ip filter FORWARD (Docker) drops pod traffic to the outside", docker, True),
    Fault(
        "firewall",
        "error",
        "nft chain ip filter FORWARD (ufw) drops",
        shell("iptables -P FORWARD DROP; iptables -N ufw-before-forward; iptables -A FORWARD -j ufw-before-forward"),
    ),
    Fault("firewall", "error", "nft chain inet firewalld filter_FORWARD (firewalld) drops", firewalld),
    Fault(
        "firewall",
        "error",
        "iptables-legacy chain ip filter FORWARD drops pod traffic to the outside (IPv4) by its policy drop",
        shell("iptables-legacy -P FORWARD DROP"),
        True,
    ),
    Fault(
        "firewall",
        "error",
        "iptables-legacy chain ip filter FORWARD drops traffic from outside to pods (IPv4) by 'FORWARD: -A FORWARD",
        shell("iptables-legacy -A FORWARD ! -i pw+ -o pw+ -j DROP"),
        True,
    ),
    Fault(
        "rp-filter",
        "warning",
        "all.rp_filter is 2 (loose)",
        lambda n: n.sysctl("net.ipv4.conf.all.rp_filter", 2),
        True,
    ),
    Fault(
        "rp-filter",
        "warning",
        f"{LEASE}.rp_filter is 0",
        lambda n: n.sysctl(f"net.ipv4.conf.{LEASE}.rp_filter", 0),
        True,
    ),
    Fault(
        "route-localnet",
        "note",
        "route_localnet is 1; chain guard",
        lambda n: n.sysctl("net.ipv4.conf.all.route_localnet", 1),
    ),
    Fault(
        "route-localnet",
        "error",
        "pods reach services that listen on the node's 127.0.0.1",
        shell("echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet; nft delete table inet podwire1"),
    ),
    Fault("mtu", "warning", f"1 pod links have a larger MTU than uplink (1400): {LEASE} (1500)", mtu),
    Fault(
        "inotify",
        "warning",
        "max_user_instances is 128",
        lambda n: n.lay_over("/proc/sys/fs/inotify/max_user_instances", "128"),
    ),
    Fault(
        "inotify",
        "warning",
        "max_user_watches is 8192",
        lambda n: n.lay_over("/proc/sys/fs/inotify/max_user_watches", "8192"),
    ),
    Fault("conflists", "error", "05-x.conflist cannot be read by the runtime", write("05-x.conflist", "{"), True),
    Fault("conflists", "error", "90-x.conf cannot be read by the runtime", write("90-x.conf", '{"name": "x"}'), True),
    Fault(
        "conflists",
        "error",
        "05-kindnet.conflist sorts before 10-podwire.conflist",
        write("05-kindnet.conflist", '{"name": "kindnet", "plugins": [{"type": "ptp"}]}'),
        True,
    ),
    Fault(
        "conflists",
        "error",
        "podwire refuses it: network configuration 'podwire': mtu 7",
        lambda n: n.configure(mtu=7),
    ),
    Fault("conflists", "error", "lists portmap beside podwire, which does portMappings itself", portmap_beside),
    Fault(
        "conflists",
        "note",
        "second network of podwire",
        lambda n: shutil.copy(n.netd / "10-podwire.conflist", n.netd / "20-podwire.conflist"),
    ),
    Fault("conflists", "warning", "has a plugin of type podwire", lambda n: (n.netd / "10-podwire.conflist").unlink()),
    Fault("plugins", "error", "loopback is missing", lambda n: (n.bin / "loopback").unlink(), True),
    Fault("plugins", "error", "tuning is missing", foreign_plugin_without_binary),
    Fault("plugins", "error", "podwire.lib", plugin_without_its_folder),
    Fault("permissions", "warning", "net.d has mode 0777", lambda n: n.netd.chmod(0o777), True),
    Fault(
        "permissions",
        "warning",
        "10-podwire.conflist belongs to uid 65534",
        lambda n: os.chown(n.netd / "10-podwire.conflist", 65534, 65534),
        True,
    ),
    Fault("networkd", "warning", "ManageForeignRoutes=yes (the default)", networkd_running),
    Fault(
        "networkd",
        "warning",
        "ManageForeignRoutingPolicyRules=yes (the default)",
        networkd_told_for_routes_only,
    ),
    Fault("table", "error", "table inet podwire1 is missing", shell("nft delete table inet podwire1")),
    Fault("table", "error", "chain guard of the nft table", shell("nft delete chain inet podwire1 guard")),
    Fault(
        "table",
        "error",
        "chain postrouting of inet podwire1 has 0 rules",
        shell("nft flush chain inet podwire1 postrouting"),
    ),
    Fault(
        "table",
        "error",
        "shop/web: nft elements are missing: hostport4 { tcp . 8080",
        shell("nft flush map inet podwire1 hostport4"),
    ),
    Fault("state-folder", "error", "cannot be written", shell("mount --no-mtab -o remount,ro /run"), False),
    Fault("state-folder", "warning", "/run/podwire has mode 0777", shell("chmod 777 /run/podwire"), True),
    Fault("state-folder", "warning", "belongs to uid 65534", shell("chown 65534 /run/podwire"), True),
    Fault(
        "state-folder",
        "error",
        "KiB left",
        shell("mount --no-mtab -o remount,size=2m /run; head -c 1800000 /dev/zero >/run/filler"),
    ),
    Fault("state-folder", "error", "inodes left", shell("mount --no-mtab -o remount,nr_inodes=100 /run")),
    Fault("pool", "error", "the pool is exhausted: network podwire, 10.244.0.1-10.244.0.2: 2 held", pool_exhausted),
    Fault("pool", "warning", "the pool is nearly full: network podwire, 10.244.0.1-10.244.0.14: 13", pool_nearly_full),
    Fault("leaks", "warning", "podwire-net audit finds 1; the first: shop/dead", dead_pod, False),
    Fault(
        "forwarding",
        "error",
        "net.ipv6.conf.all.forwarding is 0",
        dual_stack("echo 0 >/proc/sys/net/ipv6/conf/all/forwarding"),
        True,
    ),
    Fault(
        "firewall",
        "error",
        "nft chain ip6 filter FORWARD drops pod traffic to the outside (IPv6) by its policy drop",
        dual_stack("ip6tables -P FORWARD DROP"),
        True,
    ),
    Fault(
        "firewall",
        "error",
        "ip6tables-legacy chain ip6 filter FORWARD drops",
        dual_stack("ip6tables-legacy -P FORWARD DROP"),
        True,
    ),
    Fault(
        "ipv6",
        "error",
        "net.ipv6.conf.default.disable_ipv6 is 1, and a network has an IPv6 range",
        dual_stack("echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6"),
        True,
    ),
    Fault(
        "ipv6",
        "warning",
        "net.ipv6.conf.uplink.accept_ra is 1 and forwarding is on",
        dual_stack("ip -6 route del default; echo 1 >/proc/sys/net/ipv6/conf/uplink/accept_ra"),
        True,
    ),
    Fault(
        "ipv6",
        "warning",
        "net.ipv6.conf.uplink.accept_ra is 1 and forwarding is on",
        dual_stack(
            "ip -6 route add 2001:db8:7::/64 dev uplink proto ra; echo 1 >/proc/sys/net/ipv6/conf/uplink/accept_ra"
        ),
        True,
    ),
    Fault("nft", "error", "nft is not installed", shell(f"mount --no-mtab --bind /dev/null {shutil.which('nft')}")),
    Fault("nft", "error", "is v0.9.3, and podwire needs 0.9.8", nft_of_old),
    Fault("conntrack", "error", "of 1 tracked connections are in use", conntrack_full),
]
