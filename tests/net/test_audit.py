"""audit and gc: each kind of leak is planted for real, found, and removed; a live pod is never touched."""

import json
import os
import threading
from collections.abc import Callable

import pytest

from cni_plugin.attachment import lease_id
from tests.lab.waiting import wait_until
from tests.net.conftest import POD_CIDR, POD_CIDR6, NetNode

pytestmark = pytest.mark.root


def everything(node: NetNode) -> dict[str, object]:
    """What the node holds of podwire: links, routes, neighbours, elements, files (cooling apart)."""
    folder = node.node_folder()
    return {
        "links": sorted(link["ifname"] for link in json.loads(node.sh("ip -j link show"))),
        "routes": sorted(
            node.sh("ip -4 route show proto 112; ip -6 route show proto 112").replace(" linkdown", "").splitlines()
        ),
        "neighbours": sorted(node.sh("ip neighbour show nud permanent").splitlines()),
        "elements": sorted(line.strip() for line in node.sh("nft list ruleset").splitlines() if "comment" in line),
        "files": sorted(
            str(path.relative_to(folder))
            for path in folder.rglob("*")
            if path.parent.name not in ("cooling", "cursors") and not path.is_dir()
        ),
        "folders": sorted(path.name for path in folder.parent.iterdir()),
    }


def namespace_gone(node: NetNode) -> None:
    node.end(node.add("dead", (8080, 80)))


def namespace_gone_while_pending(node: NetNode) -> None:
    node.end(node.add("dead", (8080, 80)))
    lease = lease_id("dead", "eth0")
    (node.node_folder() / "attachments" / lease).rename(node.node_folder() / "pending" / lease)


def namespace_gone_while_deleting(node: NetNode) -> None:
    node.end(node.add("dead"))
    lease = lease_id("dead", "eth0")
    (node.node_folder() / "attachments" / lease).rename(node.node_folder() / "deleting" / lease)


def another_namespace_at_its_path(node: NetNode) -> None:
    pod = node.add("dead")
    node.end(pod)
    node.sh(f"ip netns add {pod.rpartition('/')[2]}")


def link_with_alias(node: NetNode) -> None:
    node.sh("ip link add stray type veth peer name stray2 && ip link set stray alias 'podwire gone eth0 shop/gone'")


def link_in_our_group(node: NetNode) -> None:
    node.sh("ip link add stray type veth peer name stray2 && ip link set stray group 28792")


def route(node: NetNode) -> None:
    node.sh("ip route add 10.244.0.200/32 dev uplink proto 112")


def ipv6_route(node: NetNode) -> None:
    node.sh("ip route add fd00:10:244::99/128 dev uplink proto 112")


def route_on_a_live_pods_link(node: NetNode) -> None:
    node.sh(f"ip route add 10.244.0.201/32 dev {lease_id('live', 'eth0')} proto 112")


def neighbour(node: NetNode) -> None:
    node.sh(f"ip neighbour add 10.244.0.202 lladdr 0a:58:0a:f4:00:ca dev {lease_id('live', 'eth0')} nud permanent")


def ipv6_neighbour(node: NetNode) -> None:
    node.sh(f"ip neighbour add fd00:10:244::98 lladdr 0a:58:0a:f4:00:ca dev {lease_id('live', 'eth0')} nud permanent")


def ipv6_element(node: NetNode) -> None:
    lease = lease_id("gone", "eth0")
    key = "2001:db8::1 . tcp . 9"
    node.sh(f"""nft 'add element inet podwire1 hostport6ip {{ {key} comment "{lease}" : fd00:10:244::9 . 9 }}'""")


def element(node: NetNode) -> None:
    lease = lease_id("gone", "eth0")
    node.sh(f"""nft 'add element inet podwire1 hostport4 {{ tcp . 9 comment "{lease}" : 10.244.0.9 . 9 }}'""")
    node.sh(f"""nft 'add element inet podwire1 hairpin4 {{ 10.244.0.9 . 10.244.0.9 comment "{lease}" }}'""")


def element_of_a_live_pod_that_it_does_not_own(node: NetNode) -> None:
    lease = lease_id("live", "eth0")
    node.sh(f"""nft 'add element inet podwire1 hostport4 {{ udp . 9 comment "{lease}" : 10.244.0.1 . 9 }}'""")


def claim(node: NetNode) -> None:
    pod = node.add("dead", (8080, 80))
    node.end(pod)
    os.unlink(node.node_folder() / "attachments" / lease_id("dead", "eth0"))


def record_that_is_garbage(node: NetNode) -> None:
    (node.node_folder() / "attachments" / lease_id("gone", "eth0")).write_text('{"schema":')


def claim_that_is_garbage(node: NetNode) -> None:
    (node.node_folder() / "addresses" / "10.244.0.77").write_bytes(b"\0\0\0")


def folder_in_a_records_place(node: NetNode) -> None:
    os.mkfifo(node.node_folder() / "pending" / lease_id("gone", "eth0"))


def draft(node: NetNode) -> None:
    (node.node_folder() / "pending" / f".{lease_id('gone', 'eth0')}").write_text("{")


def absent_mark(node: NetNode) -> None:
    (node.node_folder() / "absent" / lease_id("gone", "eth0")).symlink_to("1234")


def earlier_boot(node: NetNode) -> None:
    folder = node.node_folder().parent / "00000000-1111-2222-3333-444444444444-1"
    (folder / "attachments").mkdir(parents=True)
    (folder / "attachments" / "pw0").write_text("{}")


LEAKS: list[tuple[Callable[[NetNode], None], str, str]] = [
    (namespace_gone, "attachment", "its namespace /run/netns/cni-2 is gone"),
    (namespace_gone_while_pending, "attachment", "is recorded (pending), and its namespace"),
    (namespace_gone_while_deleting, "attachment", "is recorded (deleting), and its namespace"),
    (another_namespace_at_its_path, "attachment", "its namespace /run/netns/cni-2 is gone"),
    (link_with_alias, "link", "alias 'podwire gone eth0 shop/gone'"),
    (link_in_our_group, "link", "group 28792, no alias"),
    (route, "route", "10.244.0.200/32 dev uplink"),
    (route_on_a_live_pods_link, "route", "10.244.0.201/32"),
    (ipv6_route, "route", "fd00:10:244::99/128"),
    (ipv6_neighbour, "neighbour", "fd00:10:244::98"),
    (ipv6_element, "element", "hostport6ip { 2001:db8::1 . tcp . 9 }"),
    (neighbour, "neighbour", "10.244.0.202"),
    (element, "element", "hostport4 { tcp . 9 }"),
    (element_of_a_live_pod_that_it_does_not_own, "element", "hostport4 { udp . 9 }"),
    (claim, "claim", "claim addresses/10.244.0.2 of shop/dead has no record"),
    (record_that_is_garbage, "file", "cannot be read"),
    (claim_that_is_garbage, "file", "addresses/10.244.0.77 cannot be read"),
    (folder_in_a_records_place, "file", "it is no regular file"),
    (draft, "file", "is a draft"),
    (absent_mark, "file", "is the mark of an attachment that is gone"),
    (earlier_boot, "folder", "is the state of an earlier boot"),
]


def titled(leak: tuple[Callable[[NetNode], None], str, str]) -> str:
    return leak[0].__name__.replace("_", " ")


@pytest.mark.parametrize(("plant", "kind", "words"), LEAKS, ids=map(titled, LEAKS))
def test_a_leak_is_found_and_gc_leaves_the_baseline(
    node: NetNode, plant: Callable[[NetNode], None], kind: str, words: str
) -> None:
    node.configure(POD_CIDR, POD_CIDR6)
    node.add("live", (7070, 70))
    baseline = everything(node)
    plant(node)
    planted = everything(node)
    found = [each for each in node.json("audit", code=1)["findings"] if each["severity"] != "note"]
    assert kind in [each["garbage"]["kind"] for each in found if "garbage" in each], found
    assert any(words in each["what"] for each in found), found

    would = node.json("gc", code=1)
    assert (would["dryRun"], would["removed"]) == (True, [])
    assert len(would["garbage"]) == len(found)
    assert everything(node) == planted

    done = node.json("gc", "--yes", code=0)
    assert done["failed"] == done["kept"] == []
    assert sorted(each["what"] for each in done["removed"]) == sorted(each["what"] for each in would["garbage"])
    assert everything(node) == baseline
    assert [each for each in node.json("audit", code=0)["findings"] if each["severity"] != "note"] == []


def test_a_node_with_live_pods_has_nothing_to_find(node: NetNode) -> None:
    node.add("one", (8080, 80))
    node.add("two")
    before = everything(node)
    assert node.findings("audit") == []
    done = node.json("gc", "--yes", code=0)
    assert (done["garbage"], done["removed"], done["kept"]) == ([], [], [])
    assert everything(node) == before


def test_a_node_where_the_plugin_never_ran_has_nothing_to_find_and_gets_no_folder(node: NetNode) -> None:
    assert node.findings("audit") == []
    assert node.json("gc", "--yes", code=0)["removed"] == []
    assert node.sh("ls /run/podwire 2>/dev/null || true") == ""


@pytest.mark.parametrize("state", ["pending", "deleting"])
def test_a_call_that_was_cut_off_is_found_and_left_to_the_runtime_while_its_pod_lives(
    node: NetNode, state: str
) -> None:
    node.add("cut", (8080, 80))
    lease = lease_id("cut", "eth0")
    (node.node_folder() / "attachments" / lease).rename(node.node_folder() / state / lease)
    before = everything(node)
    assert [line for line in node.findings("audit") if "was cut off; its namespace lives" in line]
    assert node.json("gc", "--yes", code=1)["removed"] == []
    assert everything(node) == before


@pytest.mark.parametrize("lost", ["record", "state folder", "link", "claim"])
def test_what_a_live_pod_has_lost_is_found_and_nothing_of_it_is_removed(node: NetNode, lost: str) -> None:
    node.add("live", (8080, 80))
    lease = lease_id("live", "eth0")
    folder = node.node_folder()
    if lost == "record":
        (folder / "attachments" / lease).unlink()
    if lost == "claim":
        (folder / "addresses" / "10.244.0.1").unlink()
    if lost == "state folder":
        node.sh("rm -r /run/podwire/*")
    if lost == "link":
        node.sh(f"ip link delete {lease}")
    found = node.json("audit", code=1)["findings"]
    words = {
        "record": "claim addresses/10.244.0.1 of shop/live has no record, and its pod lives",
        "state folder": "has no record, and its other end is in a namespace that exists",
        "link": f"lives in /run/netns/cni-1 and has lost its link {lease}",
        "claim": "does not hold the claim of its address 10.244.0.1",
    }
    assert any(words[lost] in each["what"] for each in found), found
    links = node.links()
    node.json("gc", "--yes", code=1)
    assert node.links() == links


def test_what_a_running_call_holds_is_neither_found_nor_removed(node: NetNode) -> None:
    node.end(node.add("busy", (8080, 80)))
    before = everything(node)
    folder = node.node_folder()
    holder = node.space.start(
        ["python3", "-c", HOLD, str(folder / "lock").partition("/root")[2], lease_id("busy", "eth0")],
        node.folder / "holder",
    )
    try:
        wait_until(lambda: "held" in (node.folder / "holder").read_text(), 10, "the lock to be held", hint=holder.tail)
        assert node.findings("audit") == []
        assert node.json("gc", "--yes", code=0)["removed"] == []
        assert everything(node) == before
    finally:
        holder.kill()
    assert len(node.json("gc", "--yes", code=0)["removed"]) > 0


# Takes the byte that the plugin's own code takes for this attachment.
HOLD = """
import fcntl, os, struct, sys, time
position = 1 + (int(sys.argv[2][2:], 32) >> 2)
file = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(file, 37, struct.pack("=hh4xqqi4x", fcntl.F_WRLCK, 0, position, 1, 0))
print("held", flush=True)
time.sleep(60)
"""


def test_host_ports_behind_another_plugin_are_judged_by_the_namespace_alone(node: NetNode) -> None:
    node.configure(chained=["portMappings"], ipam=None)
    pod = node.add("behind", (8080, 80))
    assert node.links() == []
    assert node.findings("audit") == []
    assert node.json("leases")["leases"][0]["hostLinkPresent"] is None
    node.end(pod)
    [line] = node.findings("audit")
    assert "shop/behind (eth0, 10.9.0.7) is recorded (attachments), and its namespace /run/netns/cni-1 is gone" in line
    assert len(node.json("gc", "--yes", code=0)["removed"]) == 1
    assert "8080" not in node.sh("nft list ruleset")
    assert node.findings("audit") == []


def test_a_record_of_a_later_version_is_named_and_kept(node: NetNode) -> None:
    node.end(node.add("newer"))
    path = node.node_folder() / "attachments" / lease_id("newer", "eth0")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 99}))
    before = everything(node)
    assert any("99" in line for line in node.findings("audit"))
    node.json("gc", "--yes", code=1)
    assert everything(node) == before


def test_a_pinned_namespace_without_a_record_is_only_mentioned(node: NetNode) -> None:
    node.add("live")
    node.pod()
    [line] = node.findings("audit")
    assert line.startswith("note audit: /run/netns/cni-2 is pinned and no record names it")
    assert node.net("audit").returncode == 0


def test_many_dead_pods_are_removed_in_one_run(node: NetNode) -> None:
    dead = [node.add(f"dead{number}") for number in range(45)]
    node.add("live")
    for pod in dead:
        node.sh(f"ip netns delete {pod.rpartition('/')[2]}")
    wait_until(lambda: len(node.links()) == 1, 20, "the kernel to end 45 namespaces")
    assert len(node.json("gc", "--yes", code=0)["removed"]) == 45
    assert node.findings("audit") == []
    assert node.links() == [lease_id("live", "eth0")]


def test_pods_that_come_and_go_meanwhile_are_no_findings_and_lose_nothing(node: NetNode) -> None:
    node.configure(POD_CIDR, POD_CIDR6)
    pods = [node.pod() for _ in range(4)]
    stop = threading.Event()
    failures: list[str] = []
    rounds = [0] * len(pods)

    def churn(number: int) -> None:
        while not stop.is_set():
            for verb in ("ADD", "DEL"):
                answer = node.call(verb, f"c{number}", pods[number], (8000 + number, 80))
                if answer.exit_code != 0:
                    failures.append(f"{verb} {number}: {answer.stdout}")
                    return
            rounds[number] += 1

    workers = [threading.Thread(target=churn, args=(number,)) for number in range(len(pods))]
    for worker in workers:
        worker.start()
    try:
        found = [line for _ in range(4) for line in node.findings("audit") if not line.startswith("note")]
        removed = [each for _ in range(2) for each in node.json("gc", "--yes")["removed"]]
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert (failures, found, removed) == ([], [], [])
    assert min(rounds) > 0
    assert [line for line in node.findings("audit") if not line.startswith("note")] == []
