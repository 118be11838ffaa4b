"""What this kernel can do, found out by doing it in a network namespace that ends with this child process.

`run` starts the module; it prints a JSON list of [severity, what, fix].
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from pyroute2 import IPRoute, NetlinkError

import cni_plugin
from cni_plugin import nftables, nfttable
from cni_plugin.install.selftest import unshare
from cni_plugin.install.site import NodeError
from cni_plugin.net import kernel
from cni_plugin.net.findings import ERROR
from cni_plugin.net.registry import Complaint

SECONDS = 30.0


def run(*, vxlan: bool, table: bool) -> list[Complaint]:
    """What the kernel lacks. Raises NodeError when it cannot be found out."""
    program = [sys.executable, "-s", "-P", "-m", "cni_plugin.install.probe", json.dumps([vxlan, table])]
    environment = {
        "PYTHONPATH": str(Path(cni_plugin.__file__).parents[1]),
        "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
    }
    try:
        done = subprocess.run(
            program,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise NodeError(f"probing the kernel did not end within {SECONDS:g} s") from None
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise NodeError(f"the kernel could not be probed: {said[-1] if said else done.returncode}", "run it as root")
    return [(severity, what, fix) for severity, what, fix in json.loads(done.stdout)]


def probe(*, vxlan: bool, table: bool) -> Iterator[Complaint]:
    """Every feature that is missing."""
    unshare()
    with IPRoute() as route:
        for kind, wanted, module in (("veth", True, "CONFIG_VETH"), ("vxlan", vxlan, "CONFIG_VXLAN")):
            more = {"vxlan_id": 7077, "vxlan_port": 9473} if kind == "vxlan" else {}
            if wanted:
                try:
                    route.link("add", ifname=f"probe-{kind}", kind=kind, **more)
                except NetlinkError as fault:
                    instead = "; or --mode host-gw" if kind == "vxlan" else ""
                    yield ERROR, f"this kernel makes no {kind} link: {fault}", f"modprobe {kind} ({module}){instead}"
    program = kernel.nft_program()
    if table and program is not None:
        done = subprocess.run(
            [program, "-c", "-f", "-"],
            input=nfttable.table_script([], []),
            capture_output=True,
            text=True,
            timeout=SECONDS / 2,
            check=False,
        )
        if done.returncode != 0:
            said = done.stderr.strip().splitlines()
            what = f"nft refuses the table inet {nftables.TABLE}: {said[0] if said else done.returncode}"
            yield (
                ERROR,
                what,
                "a kernel with nf_tables, nat, fib and masquerade (CONFIG_NFT_NAT, NFT_FIB_INET, NFT_MASQ)",
            )


if __name__ == "__main__":
    with_vxlan, with_table = json.loads(sys.argv[1])
    print(json.dumps(list(probe(vxlan=with_vxlan, table=with_table))))
