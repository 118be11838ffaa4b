"""What pyroute2 reads in the namespace it is run in, as JSON: the independent reading of what our codec wrote."""

import json
from typing import Any

from pyroute2 import IPRoute


def attributes(message: Any) -> dict[str, Any]:
    """The attributes of a pyroute2 message."""
    return dict(message["attrs"])


def main() -> None:
    """Print links (by name), addresses, routes and neighbours."""
    links: dict[str, Any] = {}
    names: dict[int, str] = {}
    with IPRoute() as kernel:
        for message in kernel.get_links():
            held = attributes(message)
            names[message["index"]] = held["IFLA_IFNAME"]
            inet = dict(dict(held["IFLA_AF_SPEC"]["attrs"])["AF_INET"]) if "IFLA_AF_SPEC" in held else {}
            links[held["IFLA_IFNAME"]] = {
                "index": message["index"],
                "up": bool(message["flags"] & 1),
                "mac": held.get("IFLA_ADDRESS"),
                "mtu": held["IFLA_MTU"],
                "group": held["IFLA_GROUP"],
                "alias": held.get("IFLA_IFALIAS"),
                "conf": {key: inet.get(key) for key in ("forwarding", "rp_filter", "send_redirects", "route_localnet")},
            }
        addresses = [
            f"{attributes(message)['IFA_ADDRESS']}/{message['prefixlen']} {names[message['index']]}"
            for message in kernel.get_addr(family=2)
        ]
        routes = []
        for message in kernel.get_routes(family=2, table=254):
            held = attributes(message)
            text = f"{held['RTA_DST']}/{message['dst_len']}" if "RTA_DST" in held else "default"
            if "RTA_GATEWAY" in held:
                text += f" via {held['RTA_GATEWAY']}"
            text += f" dev {names[held['RTA_OIF']]} proto {message['proto']}"
            routes.append(text + (" onlink" if message["flags"] & 4 else ""))
        neighbours = [
            f"{attributes(message)['NDA_DST']} {attributes(message).get('NDA_LLADDR')} {names[message['ifindex']]}"
            for message in kernel.get_neighbours(family=2)
            if message["state"] & 0x80
        ]
    seen = {"links": links, "addresses": addresses, "routes": routes, "neighbours": neighbours}
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
