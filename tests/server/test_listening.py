"""How a listening socket stops listening."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from zenzefi.server import listening
from zenzefi.server.listening import OwnListener, listen


def _listen() -> OwnListener:
    listener = listen("127.0.0.1", 0, variables=("HOST", "PORT"))
    listener.listen(16)
    listener.settimeout(30)
    return listener


def _until_waiting(listener: OwnListener, connections: int) -> None:
    """A connection is made for its client a moment before it waits here."""
    deadline = time.monotonic() + 30
    while listener._queue_length() < connections and time.monotonic() < deadline:
        time.sleep(0.001)
    assert listener._queue_length() == connections


def test_connections_that_wait_are_taken_before_new_ones_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_QUEUE_TIMEOUT_S", 30.0)  # for whatever holds this thread up
    with _listen() as listener:
        address = listener.getsockname()
        clients = [socket.create_connection(address, timeout=30) for _ in range(5)]
        _until_waiting(listener, len(clients))
        with ThreadPoolExecutor(1) as pool:
            refusing = pool.submit(listener.refuse)
            time.sleep(0.05)  # whether it waits cannot be awaited
            assert not refusing.done()
            accepted = [listener.accept()[0] for _ in clients]
            refusing.result(timeout=30)
        for client, connection in zip(clients, accepted, strict=True):
            client.sendall(b"?")
            assert connection.recv(1) == b"?"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=30)
        for open_socket in (*clients, *accepted):
            open_socket.close()


def test_connections_that_nobody_takes_do_not_hold_up_the_end() -> None:
    with _listen() as listener, socket.create_connection(listener.getsockname(), timeout=30) as client:
        _until_waiting(listener, 1)
        started = time.monotonic()
        listener.refuse()
        assert 0.4 < time.monotonic() - started < 5
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_socket_that_nobody_listened_on_yet_ends_at_once() -> None:
    with listen("127.0.0.1", 0, variables=("HOST", "PORT")) as listener:
        listener.refuse()
