#!/usr/bin/python3 -I
"""A CNI plugin of one page, which the suite is tested with: correct as it is, and broken on demand.

It makes a veth with ip(8), takes IPv4 addresses from the first range and keeps them as files in /run/mini. Installed
under the name `mini`, it is meant to pass; as `mini-FAULT` it has that fault, so that the cases about it must fail.
Not to be used on a node: it has no undo and its lock is coarse.
"""

import fcntl
import ipaddress
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

FAULT = Path(sys.argv[0]).name.partition("-")[2]
VERSIONS = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
STATE = Path("/run/mini")
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*\Z")
SINCE = {"ADD": "0.1.0", "DEL": "0.1.0", "CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}


def fail(code: int, message: str, version: str = "1.1.0") -> NoReturn:
    """Print an error document and end."""
    print(json.dumps({"cniVersion": version, "code": code, "msg": message}))
    sys.exit(1)


def ip(*words: str, netns: str = "", check: bool = True) -> str:
    """Run ip(8), in a namespace where one is given."""
    enter = ["nsenter", f"--net={netns}"] if netns else []
    done = subprocess.run([*enter, "ip", *words], capture_output=True, text=True, check=False)
    if check and done.returncode:
        fail(100, f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def read() -> tuple[str, dict[str, Any]]:
    """Verb and configuration, judged."""
    verb = os.environ["CNI_COMMAND"]
    if verb not in SINCE:
        fail(4, f"CNI_COMMAND {verb} is unknown")
    needed = ["CNI_PATH"]
    if verb in ("ADD", "DEL", "CHECK"):
        needed += ["CNI_CONTAINERID", "CNI_IFNAME"] + (["CNI_NETNS"] if verb != "DEL" else [])
    missing = [name for name in needed if not os.environ.get(name)]
    if missing:
        fail(4, f"{', '.join(missing)} missing")
    container, ifname = os.environ.get("CNI_CONTAINERID", "a"), os.environ.get("CNI_IFNAME", "a")
    if (
        not NAME.match(container)
        or len(os.fsencode(ifname)) > 15
        or ifname in (".", "..")
        or re.search(r"[/:\s]", ifname)
    ):
        fail(4, "CNI_CONTAINERID or CNI_IFNAME is malformed")
    text = sys.stdin.buffer.read()
    if FAULT == "traceback":
        return verb, json.loads(text)
    try:
        conf = json.loads(text.decode("utf-8"), parse_constant=lambda word: fail(6, f"{word} is no JSON"))
    except ValueError as error:
        fail(6, f"stdin: {error}")
    if not isinstance(conf, dict) or not isinstance(conf.get("cniVersion", ""), str):
        fail(6, "stdin is no configuration")
    if conf.get("cniVersion") not in VERSIONS:
        fail(1, f"version {conf.get('cniVersion')} is not among {VERSIONS}")
    if not isinstance(conf.get("name"), str) or not NAME.match(conf["name"]):
        fail(7, "the network needs a proper name", conf["cniVersion"])
    if conf["cniVersion"] < SINCE[verb]:
        fail(1, f"{verb} came with {SINCE[verb]}", conf["cniVersion"])
    return verb, conf


def add(conf: dict[str, Any]) -> None:
    """Link, address and route; the result on stdout."""
    version, netns, ifname = conf["cniVersion"], os.environ["CNI_NETNS"], os.environ["CNI_IFNAME"]
    try:
        same = os.stat(netns).st_ino == os.stat("/proc/self/ns/net").st_ino
    except OSError as error:
        fail(3, str(error), version)
    if same:
        if FAULT == "host-netns":
            ip("link", "add", "left", "type", "bridge")
        fail(8, f"{netns} is the node's own", version)
    if ip("-br", "link", "show", ifname, netns=netns, check=False):
        if FAULT != "overwrites":
            fail(103, f"{ifname} exists", version)
        ip("link", "delete", ifname, netns=netns)
    subnet = ipaddress.ip_network(conf["ipam"]["ranges"][0][0]["subnet"])
    gateway = subnet[1]
    for address in list(subnet.hosts())[1:]:
        try:
            with (STATE / conf["name"] / str(address)).open("w" if FAULT == "same-address" else "x") as claim:
                claim.write(key())
            break
        except FileExistsError:
            continue
    else:
        fail(100, f"no IP addresses available in range set: {subnet}", version)
    host = "mini" + str(address).replace(".", "")[-9:]
    ip("link", "add", host, "type", "veth", "peer", "name", ifname, "netns", netns)
    ip("link", "set", host, "up")
    ip("address", "add", f"{gateway}/32", "dev", host, check=False)
    ip("route", "add", f"{address}/32", "dev", host)
    for words in (
        ("link", "set", "lo", "up"),
        ("link", "set", ifname, "up"),
        ("address", "add", f"{address}/{subnet.prefixlen}", "dev", ifname),
        ("route", "add", "default", "via", str(gateway), "dev", ifname),
    ):
        ip(*words, netns=netns)
    mac = json.loads(ip("-j", "link", "show", ifname, netns=netns))[0]["address"]
    entry: dict[str, Any] = {"address": f"{address}/{subnet.prefixlen}", "gateway": str(gateway), "interface": 1}
    if version < "1.0.0":
        entry["version"] = "4"
    ends = [{"name": host}, {"name": ifname, "mac": mac, "sandbox": netns}]
    if FAULT == "garbage":
        print("debug: all is well")
    routes = [{"dst": "0.0.0.0/0", "gw": str(gateway)}]
    print(json.dumps({"cniVersion": version, "interfaces": ends, "ips": [entry], "routes": routes}))


def key() -> str:
    """What a claim holds."""
    return f"{os.environ['CNI_CONTAINERID']}\n{os.environ['CNI_IFNAME']}\n"


def free(claim: Path) -> None:
    """Give an address back, and its link on the node with it."""
    ip("link", "delete", "mini" + claim.name.replace(".", "")[-9:], check=False)
    if FAULT != "leaks-address":
        claim.unlink()


def delete(conf: dict[str, Any]) -> None:
    """Everything that this container has on this network by this name."""
    claims = [claim for claim in (STATE / conf["name"]).iterdir() if claim.read_text() == key()]
    if FAULT == "del-once" and not claims:
        fail(100, "nothing is known of this container", conf["cniVersion"])
    for claim in claims:
        free(claim)


def check(conf: dict[str, Any]) -> None:
    """Compare with prevResult."""
    if "prevResult" not in conf:
        fail(7, "prevResult is missing")
    netns, ifname = os.environ["CNI_NETNS"], os.environ["CNI_IFNAME"]
    link = json.loads(ip("-j", "address", "show", ifname, netns=netns, check=False) or "[{}]")[0]
    held = {f"{each['local']}/{each['prefixlen']}" for each in link.get("addr_info", [])}
    wanted = {each["address"] for each in conf["prevResult"]["ips"]}
    macs = {each.get("mac") for each in conf["prevResult"]["interfaces"] if each.get("sandbox")}
    route = ip("route", "show", "default", netns=netns, check=False)
    whole = wanted <= held and "UP" in link.get("flags", []) and link.get("address") in macs and "default" in route
    if not whole and FAULT != "blind-check":
        fail(108, f"{ifname} is not as prevResult says")


def collect(conf: dict[str, Any]) -> None:
    """Free what the list does not name."""
    lists = [conf[name] for name in ("cni.dev/valid-attachments", "cni.dev/attachments") if name in conf]
    if not lists and FAULT != "gc-all":
        fail(7, "cni.dev/valid-attachments is missing")
    valid = {f"{each['containerID']}\n{each['ifname']}\n" for one in lists for each in one}
    for claim in (STATE / conf["name"]).iterdir():
        if claim.read_text() not in valid:
            free(claim)


def main() -> None:
    """One call."""
    if not os.environ.get("CNI_COMMAND"):
        print("mini: a CNI plugin for the tests of a conformance suite", file=sys.stderr)
        return
    if os.environ["CNI_COMMAND"] == "VERSION":
        print(json.dumps({"cniVersion": "1.1.0", "supportedVersions": VERSIONS}))
        return
    verb, conf = read()
    (STATE / conf["name"]).mkdir(parents=True, exist_ok=True)
    with (STATE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        verbs = {"ADD": add, "DEL": delete, "CHECK": check, "GC": collect}
        if verb in verbs:
            verbs[verb](conf)


main()
