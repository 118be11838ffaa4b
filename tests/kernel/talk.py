"""Two ends of a conversation, to be run inside namespaces.

talk.py serve PROTOCOL ADDRESS PORT          answer every caller with the address it came from
talk.py ask PROTOCOL ADDRESS PORT [SOURCE]   print that answer, or "no answer"
"""

import socket
import sys

IPPROTO_SCTP = 132
WAIT_SECONDS = 1.5


def open_socket(protocol: str) -> socket.socket:
    """A socket of this protocol."""
    if protocol == "udp":
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_SCTP if protocol == "sctp" else 0)


def serve(protocol: str, address: str, port: int) -> None:
    """Answer for ever."""
    server = open_socket(protocol)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((address, port))
    if protocol != "udp":
        server.listen()
    print("ready", flush=True)
    while True:
        if protocol == "udp":
            _, peer = server.recvfrom(100)
            server.sendto(peer[0].encode(), peer)
        else:
            connection, peer = server.accept()
            connection.sendall(peer[0].encode())
            connection.close()


def ask(protocol: str, address: str, port: int, source: str) -> str:
    """One question, bounded in time."""
    client = open_socket(protocol)
    client.settimeout(WAIT_SECONDS)
    if source:
        client.bind((source, 0))
    try:
        client.connect((address, port))
        if protocol == "udp":
            client.send(b"?")
        return client.recv(100).decode()
    except OSError:
        return "no answer"


if __name__ == "__main__":
    verb, protocol, address, port, *rest = sys.argv[1:]
    if verb == "serve":
        serve(protocol, address, int(port))
    else:
        print(ask(protocol, address, int(port), rest[0] if rest else ""))
