"""get.py PATH: status and body of the agent's HTTP server in this namespace, by the socket alone: it starts at once."""

import socket
import sys

if __name__ == "__main__":
    try:
        with socket.create_connection(("127.0.0.1", 9474), 5) as stream:
            stream.sendall(f"GET {sys.argv[1]} HTTP/1.0\r\nHost: agent\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: stream.recv(1 << 16), b""))
    except OSError:
        sys.exit(1)
    head, _, body = answer.partition(b"\r\n\r\n")
    print(head.split()[1].decode())
    print(body.decode(), end="")
