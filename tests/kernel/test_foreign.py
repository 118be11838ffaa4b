"""What a real host-local leaves on disk is read as what it is."""

import json
import subprocess
from ipaddress import ip_address
from pathlib import Path

import pytest

from cni_plugin import foreign

HOST_LOCAL = Path("/usr/lib/cni/host-local")


@pytest.mark.skipif(not HOST_LOCAL.exists(), reason=f"{HOST_LOCAL} is missing (package containernetworking-plugins)")
@pytest.mark.parametrize("subnets", [["10.9.0.0/24"], ["fd00:9::/64"], ["10.9.0.0/24", "fd00:9::/64"]], ids="+".join)
def test_the_leases_of_host_local_are_taken_until_it_releases_them(tmp_path: Path, subnets: list[str]) -> None:
    ranges = [[{"subnet": subnet}] for subnet in subnets]
    ipam = {"type": "host-local", "dataDir": str(tmp_path / "networks"), "ranges": ranges}
    config = json.dumps({"cniVersion": "1.0.0", "name": "othernet", "type": "ptp", "ipam": ipam})

    def call(command: str, container: str) -> list[bytes]:
        env = {"CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_NETNS": "/n", "CNI_IFNAME": "eth0"}
        done = subprocess.run(
            [HOST_LOCAL], input=config, env=env | {"CNI_PATH": "/usr/lib/cni"}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout
        found = json.loads(done.stdout)["ips"] if command == "ADD" else []
        return [ip_address(each["address"].partition("/")[0]).packed for each in found]

    def survey() -> dict[bytes, str]:
        return foreign.survey(str(tmp_path / "results"), (str(tmp_path / "networks"),))

    first, second = call("ADD", "first"), call("ADD", "second")
    taken = survey()
    assert sorted(taken) == sorted(first + second)
    links = tmp_path / "links"
    links.mkdir()
    for number, (address, path) in enumerate(taken.items()):
        (links / f"{'first' if address in first else 'second'}{number}").symlink_to(path)
    assert {name[:5] for name in foreign.released_by(str(links), "first")} == {"first"}
    assert len(foreign.released_by(str(links), "first")) == len(subnets)
    call("DEL", "first")
    assert sorted(survey()) == sorted(second)
    assert foreign.released_by(str(links), "first") == []
