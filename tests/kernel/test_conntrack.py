"""Connection tracking entries of a freed address or hostPort go, and no others: conntrack(8) makes and lists them."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.netns import Namespace

REPOSITORY = Path(__file__).resolve().parents[2]
FLUSH = Path(__file__).with_name("flush.py")
POD, POD6 = "10.244.0.5", "fd00:10:244::5"
NODE, NODE6 = "192.0.2.2", "2001:db8::2"

pytestmark = pytest.mark.root


class Table:
    """The table of a namespace; entries are named by a port that each has to itself."""

    def __init__(self, space: Namespace) -> None:
        self.space = space

    def put(self, text: str, status: str = "SEEN_REPLY") -> None:
        """An entry: "PROTOCOL SOURCE SPORT DESTINATION DPORT [REPLY-SOURCE REPLY-DESTINATION]"."""
        protocol, source, sport, destination, dport, *reply = text.split()
        command = ["conntrack", "-I", "-p", protocol, "-s", source, "-d", destination, "-t", "600", "-u", status]
        command += ["--sport", sport, "--dport", dport, "-r", reply[0] if reply else destination]
        command += ["-q", reply[1] if reply else source, "--reply-port-src", dport, "--reply-port-dst", sport]
        self.space.run([*command, *(["--state", "ESTABLISHED"] if protocol == "tcp" else [])])

    def left(self) -> list[int]:
        """The source ports of what is there."""
        lines: list[str] = []
        for family in ("ipv4", "ipv6"):
            lines += self.space.run(["conntrack", "-L", "-f", family]).stdout.splitlines()
        return sorted(int(line.partition("sport=")[2].split()[0]) for line in lines)

    def flush(self, way: str, *targets: str) -> int:
        """Run the flush, which must be complete and never ask for the whole table; gives the number removed."""
        command: list[str | Path] = ["env", f"PYTHONPATH={REPOSITORY}", sys.executable, "-B", FLUSH, way, *targets]
        removed, complete, bare = self.space.run(command).stdout.split()
        assert (complete, bare) == ("True", "0")
        return int(removed)


@pytest.fixture
def table() -> Iterator[Table]:
    with Namespace() as space:
        space.run(["ip", "address", "add", f"{NODE}/32", "dev", "lo"])
        space.run(["ip", "address", "add", f"{NODE6}/128", "dev", "lo"])
        yield Table(space)


every_way = pytest.mark.parametrize("way", ["filtered", "dumped"])


@every_way
def test_entries_of_an_address_go_in_every_role(table: Table, way: str) -> None:
    table.put(f"udp {POD} 1 198.51.100.1 53")  # from the pod
    table.put(f"udp {POD} 2 198.51.100.1 53 198.51.100.1 {NODE}")  # masqueraded
    table.put(f"udp 198.51.100.1 3 {POD} 53")  # to the pod
    table.put(f"udp 198.51.100.1 4 {NODE} 8080 {POD} 198.51.100.1")  # to its hostPort
    table.put(f"udp 198.51.100.1 5 {POD} 53 198.51.100.9 198.51.100.1")  # to the pod, led elsewhere
    table.put(f"tcp 198.51.100.1 6 198.51.100.2 80 198.51.100.2 {POD}")  # somebody's, led by the pod's address
    table.put("udp 10.244.0.55 7 198.51.100.1 53")
    table.put(f"udp {POD6} 8 2001:db8::9 53")
    assert table.flush(way, POD) == 6
    assert table.left() == [7, 8]


@every_way
def test_both_families_go_in_one_call(table: Table, way: str) -> None:
    table.put(f"udp {POD} 1 198.51.100.1 53")
    table.put(f"tcp {POD6} 2 2001:db8::9 53")
    table.put(f"udp 2001:db8::9 3 {NODE6} 8080 {POD6} 2001:db8::9")
    table.put("tcp fd00:10:244::55 4 2001:db8::9 53")
    assert table.flush(way, POD, POD6) == 3
    assert table.left() == [4]


@every_way
def test_entries_of_other_zones_go_too(table: Table, way: str) -> None:
    for zone, port in (("7", "1"), ("8", "2")):
        common = ["-p", "udp", "-s", POD, "-d", "198.51.100.1", "--sport", port, "--dport", "53", "-t", "600"]
        table.space.run(["conntrack", "-I", *common, "-w", zone])
    assert table.flush(way, POD) == 2
    assert table.left() == []


@every_way
def test_what_lies_on_a_host_port_goes_wherever_it_led(table: Table, way: str) -> None:
    table.put(f"udp 198.51.100.1 1 {NODE} 8080", "UNSET")  # made before anything listened
    table.put(f"udp 198.51.100.1 2 {NODE} 8080 {POD} 198.51.100.1")  # left by an earlier owner
    table.put(f"udp {POD} 3 127.0.0.1 8080")
    table.put(f"udp 198.51.100.1 4 {NODE} 8081")
    table.put(f"udp {POD} 5 198.51.100.1 8080")  # a pod's own conversation with the same port elsewhere
    table.put(f"tcp 198.51.100.1 6 {NODE} 8080")
    table.put(f"udp 2001:db8::9 7 {NODE6} 8080")
    assert table.flush(way, "udp/0.0.0.0/8080") == 3
    assert table.left() == [4, 5, 6, 7]
    assert table.flush(way, "udp/::/8080") == 1
    assert table.left() == [4, 5, 6]


@every_way
def test_a_host_port_of_one_address_touches_that_address_alone(table: Table, way: str) -> None:
    table.put(f"udp 198.51.100.1 1 {NODE} 8080")
    table.put("udp 198.51.100.1 2 192.0.2.3 8080")
    assert table.flush(way, "udp/192.0.2.3/8080") == 1
    assert table.left() == [1]


@pytest.mark.parametrize("protocol", ["tcp", "sctp"])
def test_established_conversations_with_the_node_go_on(table: Table, protocol: str) -> None:
    state = ["--state", "ESTABLISHED"]
    common = ["-p", protocol, "-s", "198.51.100.1", "-d", NODE, "--dport", "8080", "-t", "600", *state]
    if protocol == "sctp":
        common += ["--orig-vtag", "1", "--reply-vtag", "2"]
    for port, status in (("1", "SEEN_REPLY,ASSURED"), ("2", "SEEN_REPLY"), ("3", "UNSET")):
        table.space.run(["conntrack", "-I", *common, "--sport", port, "-u", status])
    assert table.flush("filtered", f"{protocol}/0.0.0.0/8080") == 2
    assert table.left() == [1]


def test_a_node_of_many_addresses_is_searched_once(table: Table) -> None:
    for number in range(10, 40):
        table.space.run(["ip", "address", "add", f"192.0.2.{number}/32", "dev", "lo"])
        table.put(f"udp 198.51.100.1 {number} 192.0.2.{number} 8080")
    table.put("udp 198.51.100.1 50 192.0.2.50 8080")
    assert table.flush("filtered", "udp/0.0.0.0/8080") == 30
    assert table.left() == [50]


@every_way
def test_nothing_to_look_for_and_nothing_there_change_nothing(table: Table, way: str) -> None:
    assert table.flush(way, POD, "udp/0.0.0.0/53") == 0
    table.put("udp 10.244.0.55 7 198.51.100.1 53")
    assert table.flush(way) == 0
    assert table.flush(way, POD, POD6, "udp/0.0.0.0/53", "tcp/::/53") == 0
    assert table.left() == [7]


def test_one_namespace_never_loses_anothers_entries(table: Table) -> None:
    with Namespace() as other:
        neighbour = Table(other)
        neighbour.put(f"udp {POD} 1 198.51.100.1 53")
        table.put(f"udp {POD} 1 198.51.100.1 53")
        assert table.flush("filtered", POD) == 1
        assert neighbour.left() == [1]
