"""A GiB each way past readers that pause: the gateway's memory stays where it was."""

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

GIB = 1024**3
PIECE = bytes(1024 * 1024)
MAX_GROWTH_KIB = 32 * 1024


def send_gib(connection: socket.socket) -> None:
    for _ in range(GIB // len(PIECE)):
        connection.sendall(PIECE)


def receive(connection: socket.socket, size: int) -> None:
    """Receive so many bytes with a pause now and then, during which the sender runs into full buffers."""
    buffer = bytearray(len(PIECE))
    received, next_pause = 0, 0
    while received < size:
        count = connection.recv_into(buffer)
        assert count, f"the transfer broke off after {received} bytes"
        received += count
        if received >= next_pause:
            next_pause += GIB // 8
            time.sleep(0.15)


def read_head(connection: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        assert byte, "the connection was closed"
        head += byte
    return head


@contextmanager
def upstream(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """An upstream that serves each of its connections in turn, in a thread; its URL."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                serve(connection)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@contextmanager
def gateway_process(url: str) -> Iterator[tuple[int, int]]:
    """A gateway in its own process; its port and process id."""
    command = [sys.executable, "-m", "tests.gateway.gateway_process", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline()), process.pid
        finally:
            process.kill()


def peak_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1])


def serve_transfers(connection: socket.socket) -> None:
    """Answer one request: a small one, a GiB of download, or a GiB of upload."""
    head = read_head(connection)
    if head.startswith(b"POST /gib "):
        receive(connection, GIB)
    if head.startswith(b"GET /gib "):
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % GIB)
        send_gib(connection)
    else:
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")


def small_request(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: g\r\n\r\n")
        assert read_head(client).startswith(b"HTTP/1.1 200 ")


def test_a_gib_each_way_needs_no_memory() -> None:
    with upstream(serve_transfers) as url, gateway_process(url) as (port, pid):
        small_request(port)
        before = peak_kib(pid)

        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /gib HTTP/1.1\r\nHost: g\r\n\r\n")
            assert b"\r\nContent-Length: %d\r\n" % GIB in read_head(client)
            receive(client, GIB)
        after_download = peak_kib(pid)

        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"POST /gib HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\n\r\n" % GIB)
            send_gib(client)
            assert read_head(client).startswith(b"HTTP/1.1 200 ")
        after_upload = peak_kib(pid)

        print(f"peak: {before} KiB, download +{after_download - before}, upload +{after_upload - before}")
        assert after_download - before < MAX_GROWTH_KIB
        assert after_upload - before < MAX_GROWTH_KIB
