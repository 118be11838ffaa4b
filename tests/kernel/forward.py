"""cni_plugin.firewall, to be run inside a namespace: prints the lines of both families, all and the certain ones."""

import json
import socket

from cni_plugin import firewall

if __name__ == "__main__":
    print(
        json.dumps(
            {
                f"{name}{' certain' if certain else ''}": firewall.forward_drops(family, possible=not certain)
                for name, family in (("ipv4", socket.AF_INET), ("ipv6", socket.AF_INET6))
                for certain in (False, True)
            }
        )
    )
