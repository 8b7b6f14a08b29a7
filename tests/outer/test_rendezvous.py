"""The meeting of the processes of a cluster, as threads of one."""

import socket
import threading
import time

import pytest
from processes import free_address

from jmeta.outer.rendezvous import Place, meet, names, split_address


def gather(*places, seconds=20.0, before=()):
    """Let all meet at once; for each the connections or the text of the error, and the lines it reported."""
    results = {}

    def one(number, place):
        lines = []
        try:
            results[number] = meet(place, seconds=seconds, report=lines.append), lines
        except ValueError as error:
            results[number] = str(error), lines

    threads = [threading.Thread(target=one, args=item) for item in enumerate(places)]
    for thread in threads:
        thread.start()
    for call in before:
        call()
    for thread in threads:
        thread.join(60)
    return [results[number] for number in range(len(places))]


def close(*results):
    for connections, _ in results:
        for connection in connections.values():
            connection.close()


def test_all_meet_at_process_0_and_the_port_is_free_again():
    address = free_address()
    results = gather(*(Place(address, 3, index) for index in (2, 0, 1)))
    assert [sorted(connections) for connections, _ in results] == [[0], [1, 2], [0]]
    zero = results[1]
    assert zero[1] == [f"waiting for processes 1, 2 of 3 at {address}, at most 20 s"]
    assert results[0][1][0] == f"waiting for process 0 of 3 at {address}, at most 20 s"
    results[0][0][0].sendall(b"2")
    assert zero[0][2].recv(1) == b"2"
    with socket.create_server(split_address(address)):
        pass
    close(*results)


def test_those_that_do_not_come_are_named_after_the_time_that_was_said():
    address, start = free_address(), time.monotonic()
    results = gather(Place(address, 3, 0), Place(address, 3, 1), seconds=0.6)
    text = f"process 2 of 3 did not come to {address} within 1 s; give the same command in every process"
    assert [result for result, _ in results] == [text, text]
    ((alone, lines),) = gather(Place(address, 3, 1), seconds=0.6)
    assert alone.startswith(f"process 0 of 3 did not come to {address} within 1 s (") and len(lines) == 1
    assert time.monotonic() - start < 15


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ([Place("", 3, 1)], "process 1 counts 3 processes and process 0 counts 2"),
        ([Place("", 2, 1, "other")], "process 1 runs another command than process 0; give the same flags"),
    ],
)
def test_processes_that_disagree_are_refused(others, message):
    address = free_address()
    results = gather(Place(address, 2, 0), *(place._replace(address=address) for place in others))
    assert all(result.startswith(message) for result, _ in results)


def test_two_processes_of_one_number_are_refused():
    address = free_address()
    results = gather(*(Place(address, 3, index) for index in (0, 1, 1)))
    assert all(result.startswith("two processes call themselves process 1 of 3;") for result, _ in results)


def test_strangers_are_passed_over_and_who_comes_again_is_welcome():
    address = free_address()

    def call(text):
        while True:
            try:
                connection = socket.create_connection(split_address(address), timeout=10)
            except OSError:
                time.sleep(0.02)
                continue
            with connection:
                connection.sendall(text)
                return

    late = []

    def come_again():
        late.extend(gather(Place(address, 2, 1)))

    strangers = [lambda: call(b"GET / HTTP/1.1\r\n\r\n"), lambda: call(b"")]
    (zero,) = gather(Place(address, 2, 0), before=[*strangers, come_again])
    assert sorted(zero[0]) == [1] and sorted(late[0][0]) == [0]
    close(zero, *late)
    with socket.create_server(split_address(address)) as server:

        def greet():
            with server.accept()[0] as connection:
                connection.sendall(b"220 mail\n")
                connection.recv(1)

        waiting = threading.Thread(target=greet)
        waiting.start()
        ((text, _),) = gather(Place(address, 2, 1))
        waiting.join(10)
    assert text == f"{address} answers, but is no process 0 that waits for a cluster"


def test_a_port_in_use_is_said():
    address = free_address()
    with socket.create_server(split_address(address)):
        ((text, _),) = gather(Place(address, 2, 0))
    assert text == f"process 0 cannot listen at {address}: Address already in use; give another port"


def test_names_and_addresses():
    assert names([1], 2) == "process 1 of 2" and names(range(1, 8), 8) == "processes 1 to 7 of 8"
    assert names([1, 3], 4) == "processes 1, 3 of 4"
    assert split_address("[::1]:80") == ("::1", 80) and split_address("host:1234") == ("host", 1234)
    for wrong in ("host", "host:", ":80", "host:0", "host:65536", "host:x", "host:²"):
        with pytest.raises(ValueError, match="expected HOST:PORT"):
            split_address(wrong)
