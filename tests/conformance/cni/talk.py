"""Two ends of a conversation, run inside namespaces; both families, tcp, udp and sctp.

talk.py serve PROTOCOL ADDRESS PORT WORD              answer every caller with WORD and the address it came from
talk.py ask PROTOCOL ADDRESS PORT SOURCE SOURCE_PORT  print the answer, or "no answer"; SOURCE "-" and port 0 are any
"""

import socket
import sys

IPPROTO_SCTP = 132
WAIT_SECONDS = 1.5


def open_socket(protocol: str, address: str) -> socket.socket:
    """A socket of this protocol and the address's family."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if protocol == "udp":
        return socket.socket(family, socket.SOCK_DGRAM)
    return socket.socket(family, socket.SOCK_STREAM, IPPROTO_SCTP if protocol == "sctp" else 0)


def serve(protocol: str, address: str, port: int, word: str) -> None:
    """Answer for ever."""
    server = open_socket(protocol, address)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((address, port))
    if protocol != "udp":
        server.listen()
    print("ready", flush=True)
    while True:
        if protocol == "udp":
            _, peer = server.recvfrom(100)
            server.sendto(f"{word} {peer[0]}".encode(), peer)
        else:
            connection, peer = server.accept()
            connection.sendall(f"{word} {peer[0]}".encode())
            connection.close()


def ask(protocol: str, address: str, port: int, source: str, source_port: int) -> str:
    """One question, bounded in time."""
    client = open_socket(protocol, address)
    client.settimeout(WAIT_SECONDS)
    try:
        if source != "-" or source_port:
            any_source = "::" if ":" in address else "0.0.0.0"
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.bind((any_source if source == "-" else source, source_port))
        client.connect((address, port))
        if protocol == "udp":
            client.send(b"?")
        return client.recv(200).decode()
    except OSError as error:
        print(error, file=sys.stderr)
        return "no answer"


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
    else:
        print(ask(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5], int(sys.argv[6])))
