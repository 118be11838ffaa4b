"""The two ends of a measured TCP connection, to be run inside namespaces by bench.throughput.

stream.py serve ADDRESS PORT                    say "ready", then serve connections one after the other for ever
stream.py stream ADDRESS PORT SECONDS           how many bytes a second arrive
stream.py round-trips ADDRESS PORT SECONDS      how many one-byte questions a second are answered

The asking end prints that number, and the CPU seconds that both ends took for each byte or question.

Bytes are neither made nor looked at: the sender gives the kernel the same pages again and again (sendfile), the
receiver lets it throw them away (MSG_TRUNC). What is left is the way between them.
"""

import os
import socket
import sys
import time

_BLOCK = 4 << 20
_STREAM, _QUESTION = b"s", b"q"


def serve(address: str, port: int) -> None:
    """Take a stream or answer questions, as the first byte says; in the end tell bytes taken and CPU seconds."""
    server = socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    print("ready", flush=True)
    block = bytearray(_BLOCK)
    while True:
        connection, _ = server.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            began, total = time.process_time(), 0
            if connection.recv(1) == _STREAM:
                while taken := connection.recv_into(block, _BLOCK, socket.MSG_TRUNC):
                    total += taken
            else:
                while question := connection.recv(1):
                    connection.sendall(question)
            connection.sendall(f"{total} {time.process_time() - began}".encode())


def stream(connection: socket.socket, seconds: float) -> None:
    """Send for so long."""
    pages = os.memfd_create("pages")
    os.pwrite(pages, os.urandom(_BLOCK), 0)
    connection.sendall(_STREAM)
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        os.sendfile(connection.fileno(), pages, 0, _BLOCK)


def round_trips(connection: socket.socket, seconds: float) -> int:
    """Ask and wait for so long; gives the number of answers."""
    connection.sendall(_QUESTION)
    ends = time.perf_counter() + seconds
    count = 0
    while time.perf_counter() < ends:
        for _ in range(100):
            connection.sendall(b"?")
            connection.recv(1)
        count += 100
    return count


def main(verb: str, address: str, port: int, seconds: float) -> None:
    """Be one end; as the asking one, print units a second and CPU seconds of both ends for a unit."""
    if verb == "serve":
        serve(address, port)
    with socket.create_connection((address, port), timeout=10) as connection:
        # A socket with a timeout of Python's is a non-blocking one, which sendfile would refuse.
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began, cpu = time.perf_counter(), time.process_time()
        count = {"stream": stream, "round-trips": round_trips}[verb](connection, seconds)
        connection.shutdown(socket.SHUT_WR)
        told = connection.recv(100).split()
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu + float(told[1])
        units = count or int(told[0])
        print(units / wall, cpu / units)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]) if sys.argv[4:] else 0)
