"""Container events on real nodes: whole over a kill -9 of containerd during which a container dies."""

import json
import threading
from collections.abc import Iterator
from queue import Empty, Queue

import grpc
import pytest

from cri_shim import schema
from cri_shim.schema import RuntimeMessage
from tests.lab.cri import OPTIONS
from tests.lab.node import Node
from tests.lab.waiting import wait_until

EVENTS = "/runtime.v1.RuntimeService/GetContainerEvents"
SLEEP = "exec sleep 3600"
CREATED, STARTED, STOPPED, DELETED = range(4)


class Listener:
    """A subscription through the shim, read by a thread."""

    def __init__(self, node: Node) -> None:
        self._channel = grpc.insecure_channel(f"unix:{node.cri_socket}", options=OPTIONS)
        subscribe: grpc.UnaryStreamMultiCallable[bytes, bytes] = self._channel.unary_stream(EVENTS)
        self._stream = subscribe(b"")
        self._events: Queue[RuntimeMessage] = Queue()
        self.ended: grpc.StatusCode | None = None
        self.text = ""
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        try:
            for frame in self._stream:
                self._events.put(schema.message("ContainerEventResponse").FromString(frame))
        except grpc.RpcError as error:
            self.ended, self.text = error.code(), error.details() or ""

    def next(self, name: str, kind: int) -> RuntimeMessage:
        """The next event of a container, which has to be of this kind."""
        while True:
            try:
                event = self._events.get(timeout=20)
            except Empty:
                raise AssertionError(f"no event {kind} of {name}; the stream: {self.ended} {self.text}") from None
            if event.container_id == name:
                assert event.container_event_type == kind
                return event

    def close(self) -> None:
        self._stream.cancel()
        self._thread.join()
        self._channel.close()


@pytest.fixture
def listener(node: Node) -> Iterator[Listener]:
    made = Listener(node)
    yield made
    made.close()


def test_a_death_while_containerd_is_away_is_told_on_the_same_stream(node: Node, listener: Listener) -> None:
    pod = node.run_pod("pod")
    if node.containerd.binary.version < (1, 7):
        wait_until(lambda: listener.ended, 10, "the runtime's answer")
        assert listener.ended is grpc.StatusCode.UNIMPLEMENTED
        assert "GetContainerEvents" in listener.text
        return
    first, second = (node.run_tools(pod, name, SLEEP) for name in ("first", "second"))
    for container in (first, second):
        listener.next(container, CREATED)
        listener.next(container, STARTED)
    pid = json.loads(node.cri.call("ContainerStatus", container_id=first, verbose=True).info["info"])["pid"]
    node.containerd.kill()
    node.namespace.run(["kill", "-9", str(pid)])
    node.containerd.start()
    died = listener.next(first, STOPPED)
    assert died.pod_sandbox_status.metadata.name == "pod"
    states = {one.id: one.state for one in died.containers_statuses}
    assert states[first] == schema.enum("ContainerState")["CONTAINER_EXITED"]
    wait_until(lambda: node.cri.call("Status", wait_for_ready=True), 10, "the runtime to serve")
    # What follows is the runtime's own word again, on the stream of before.
    node.cri.call("StopContainer", container_id=second, timeout=0)
    listener.next(second, STOPPED)
    node.cri.call("RemoveContainer", container_id=first)
    listener.next(first, DELETED)
    assert listener.ended is None
