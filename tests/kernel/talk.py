"""Two ends of a conversation, to be run inside namespaces.

talk.py serve PROTOCOL ADDRESS PORT                           answer every caller with the address it came from
talk.py ask PROTOCOL ADDRESS PORT [SOURCE [SPORT [SECONDS]]]  print that answer, or "no answer"

Where the kernel has no SCTP sockets, SCTP is the first half of its handshake by raw sockets, which is what
connection tracking and NAT go by: an INIT, answered by an INIT ACK that holds the address in an extra parameter.
"""

import socket
import struct
import sys

IPPROTO_SCTP = 132
# RFC 9260: chunk types, and a parameter type whose high bits let an unaware reader skip it.
INIT, INIT_ACK, SKIPPED_PARAMETER = 1, 2, 0x8001
TAG = 0x70776972


def family_of(address: str) -> int:
    """AF_INET or AF_INET6."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def open_socket(protocol: str, address: str) -> socket.socket:
    """A socket of this protocol and the address's family."""
    family = family_of(address)
    if protocol == "udp":
        return socket.socket(family, socket.SOCK_DGRAM)
    return socket.socket(family, socket.SOCK_STREAM, IPPROTO_SCTP if protocol == "sctp" else 0)


def has_sctp() -> bool:
    """Whether the kernel has SCTP sockets."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_SCTP).close()
    except OSError:
        return False
    return True


def crc32c(data: bytes) -> int:
    """The checksum of RFC 9260, appendix A."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def sctp_packet(source: int, destination: int, tag: int, chunk: int, text: bytes = b"") -> bytes:
    """A packet with one INIT or INIT ACK, and `text` in a parameter."""
    parameter = struct.pack("!HH", SKIPPED_PARAMETER, 4 + len(text)) + text if text else b""
    padding = b"\0" * (-len(parameter) % 4)
    # Flags 0, length, own tag, window, outbound and inbound streams, initial TSN.
    body = struct.pack("!BBHIIHHI", chunk, 0, 20 + len(parameter), TAG, 65536, 1, 1, 1) + parameter + padding
    head = struct.pack("!HHI", source, destination, tag)
    return head + struct.pack("<I", crc32c(head + bytes(4) + body)) + body


def sctp_fields(data: bytes, family: int) -> tuple[int, int, int, int, bytes]:
    """Source port, destination port, chunk type, the sender's tag and the text of a received packet."""
    # IPv4 gives the IP header with it, IPv6 does not.
    data = data[(data[0] & 15) * 4 :] if family == socket.AF_INET else data
    source, destination = struct.unpack_from("!HH", data)
    chunk, _, length, tag = struct.unpack_from("!BBHI", data, 12)
    return source, destination, chunk, tag, data[36 : 12 + length]


def serve_raw_sctp(address: str, port: int) -> None:
    """Answer every INIT to the port for ever."""
    family = family_of(address)
    server = socket.socket(family, socket.SOCK_RAW, IPPROTO_SCTP)
    server.bind((address, 0))
    print("ready", flush=True)
    while True:
        data, peer = server.recvfrom(2048)
        source, destination, chunk, tag, _ = sctp_fields(data, family)
        if destination == port and chunk == INIT:
            server.sendto(sctp_packet(port, source, tag, INIT_ACK, peer[0].encode()), (peer[0], 0))


def ask_raw_sctp(address: str, port: int, source: str, source_port: int, seconds: float) -> str:
    """One INIT, and the text of its answer."""
    family = family_of(address)
    client = socket.socket(family, socket.SOCK_RAW, IPPROTO_SCTP)
    client.settimeout(seconds)
    if source:
        client.bind((source, 0))
    client.connect((address, 0))
    client.send(sctp_packet(source_port, port, 0, INIT))
    while True:
        sender, destination, chunk, _, text = sctp_fields(client.recv(2048), family)
        if (sender, destination, chunk) == (port, source_port, INIT_ACK):
            return text.decode()


def serve(protocol: str, address: str, port: int) -> None:
    """Answer for ever."""
    if protocol == "sctp" and not has_sctp():
        serve_raw_sctp(address, port)
    server = open_socket(protocol, address)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family_of(address) == socket.AF_INET6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
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


def ask(protocol: str, address: str, port: int, source: str = "", source_port: str = "0", seconds: str = "1.5") -> str:
    """One question, bounded in time."""
    try:
        if protocol == "sctp" and not has_sctp():
            return ask_raw_sctp(address, port, source, int(source_port) or 40000, float(seconds))
        client = open_socket(protocol, address)
        client.settimeout(float(seconds))
        if source or int(source_port):
            client.bind((source, int(source_port)))
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
        print(ask(protocol, address, int(port), *rest))
