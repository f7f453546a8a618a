"""Nothing waits without a deadline: of what might, every line is found, and said why it does not."""

from pathlib import Path

import pytest

from tests.blocking_calls import find_blocking, find_in_folder

SOURCE = Path(__file__).parents[1] / "src" / "qfleet"
_ITS_DRIVER_ENDS_IT = "it waits to be asked, for as long as its driver lives, and ends with it"
_MOMENTS = "nobody who holds this lock waits for anything"
_FRESH_LOCK = "its own lock, which nobody else can hold: a fence for the processor"
_HAS_TIMEOUT = "the connection was opened, or is made, with a timeout"
_LOOKS = "it looks again and again whether whoever it waits for lives, and raises if not; its caller has a deadline"
_IS_DONE = "the future is done: this gives what it came to"
_NON_BLOCKING = "these connections do not block"
_JOINS = "all ranks join within `_ending_the_job_after`, or the job ends"

ALLOWED = {
    "backends/control_block.py:ControlBlock.__init__": _FRESH_LOCK,
    "backends/control_block.py:ControlBlock.fence": _FRESH_LOCK,
    "backends/control_block.py:ControlBlock.sleep": "the descriptor was made with EFD_NONBLOCK",
    "backends/futures.py:wait_for": _LOOKS,
    "backends/kept_values.py:receive_all": _HAS_TIMEOUT,
    "backends/kept_values.py:send_all": _HAS_TIMEOUT,
    "backends/mpi.py:OwnHandle._watch": "it is itself the deadline, and ends the process",
    "backends/mpi_group.py:MpiGroup._is_broken": "the message has been probed: it is there",
    "backends/mpi_job.py:MpiJob.__init__": _JOINS,
    "backends/mpi_job.py:MpiJob._hosts": _JOINS,
    "backends/mpi_job.py:MpiJob.is_settled": "these are functions that take the seconds",
    "backends/mpi_job.py:MpiJob.finalize": "a timer ends the process if it takes longer",
    "backends/network_group.py:NetworkGroup.break_up": _NON_BLOCKING,
    "backends/network_mesh.py:Listener.connect": _HAS_TIMEOUT,
    "backends/network_message.py:Incoming.receive": _NON_BLOCKING,
    "backends/network_message.py:News.receive": _NON_BLOCKING,
    "backends/network_message.py:Outgoing.send": _NON_BLOCKING,
    "backends/process_board.py:_fence": _FRESH_LOCK,
    "backends/process_channel.py:Channel.__init__": _ITS_DRIVER_ENDS_IT,
    "backends/process_channel.py:Channel.send": _LOOKS,
    "backends/process_channel.py:Channel._taken": _LOOKS,
    "backends/process_child.py:_end_with_parent": _ITS_DRIVER_ENDS_IT,
    "backends/process_handle.py:ProcessHandle.ask_to_end": _MOMENTS,
    "backends/process_handle.py:ProcessHandle._put": _MOMENTS,
    "backends/process_handle.py:ProcessHandle._carry": "its fleet lets it begin, or asks it to end",
    "backends/process_handle.py:ProcessHandle._next": _ITS_DRIVER_ENDS_IT,
    "backends/ray_board.py:BoardKeeper.after": "a reader's question stays open until there is news; readers only look",
    "backends/ray_board.py:RayBoard.read": "what is waited for meanwhile has a deadline of seconds",
    "backends/ray_future.py:RayFuture.check": _IS_DONE,
    "backends/ray_future.py:RayFuture._forget_given": _IS_DONE,
    "backends/ray_keeper.py:Keeper._obey": _HAS_TIMEOUT,
    "backends/ray_losses.py:Losses.watch": _MOMENTS,
    "backends/ray_losses.py:Losses._look_often": "a daemon's, until it is closed; " + _MOMENTS,
    "backends/threads.py:ThreadHandle.ask_to_end": _MOMENTS,
    "backends/threads.py:ThreadHandle.call": _MOMENTS,
    "backends/threads.py:ThreadHandle._serve": _ITS_DRIVER_ENDS_IT,
    "deep/compiled/learner.py:CompiledLearner.use_threads": "its threads meet within so many turns, or give up",
    "deep/torch_group.py:TorchGroup.add_up": "the process group was made with a timeout for every message",
    "deep/torch_group.py:_address_towards": "nothing is sent, and looking a name up has the resolver's own deadline",
    "environments/processes.py:ProcessEnvironment._receive": "the socket gives up after _TRANSFER_SECONDS",
    "environments/processes.py:_Worker.send": "the socket gives up after _TRANSFER_SECONDS",
    "environments/worker.py:main": _ITS_DRIVER_ENDS_IT,
    "environments/worker.py:_serve": _ITS_DRIVER_ENDS_IT,
    "environments/worker.py:_end_with_parent": _ITS_DRIVER_ENDS_IT,
}
"""`path:function`, and why its waiting ends."""


def test_every_wait_has_a_deadline() -> None:
    found = find_in_folder(SOURCE)
    told = [
        f"{place} (line {finding.line}): {finding.what}"
        for place, findings in found.items()
        for finding in findings
        if place not in ALLOWED
    ]
    assert not told, "these may wait for ever:\n" + "\n".join(told)


def test_every_exception_is_still_one() -> None:
    assert not ALLOWED.keys() - find_in_folder(SOURCE).keys()
    assert all(reason and "\n" not in reason for reason in ALLOWED.values())


BLOCKING = [
    "thread.join()",
    "thread.join(None)",
    "thread.join(timeout=None)",
    "calls.get()",
    "calls.get(True)",
    "calls.get(block=True)",
    "calls.get(timeout=None)",
    "event.wait()",
    "process.wait(timeout=None)",
    "future.result()",
    "future.result(None)",
    "future.exception()",
    "lock.acquire()",
    "lock.acquire(True)",
    "waiting.poll()",
    "connection.poll(None)",
    "selector.select()",
    "wait([future])",
    "connection.wait(pipes)",
    "futures.wait(all_of_them, return_when=FIRST_COMPLETED)",
    "ray.get(reference)",
    "self._ray.get(reference)",
    "self._ray.wait([reference], num_returns=1)",
    "select.select([connection], [], [])",
    "select.select([connection], [], [], None)",
    "socket.create_connection(address)",
    "subprocess.run(command)",
    "subprocess.check_output(command, text=True)",
    "process.communicate()",
    "os.waitpid(number, 0)",
    "fcntl.flock(file, fcntl.LOCK_EX)",
    "input()",
    "listening.accept()",
    "connection.recv(4096)",
    "self._connection.send(data)",
    "connection.sendall(data)",
    "pipe.recv_bytes()",
    "connection.settimeout(None)",
    "connection.setblocking(True)",
    "server.serve_forever()",
    "threading.Thread(target=run)",
    "ThreadPoolExecutor(2)",
    "TCPStore(host, port)",
    "distributed.all_reduce(tensor)",
    "distributed.init_process_group('gloo', rank=0)",
    "communicator.Recv(array, 0, 1)",
    "communicator.Barrier()",
    "MPI.Request.Waitall(requests)",
    "MPI.Init_thread(level)",
    "while not is_there():\n    time.sleep(0.1)",
    "while True:\n    try:\n        calls.get(timeout=1.0)\n    except Empty:\n        pass",
    "while not event.wait(1.0):\n    look()",
    "with self._lock:\n    pass",
    "def run():\n    def inner():\n        return future.result()",
    "class Some:\n    async def run(self):\n        await self.event.wait()",
    "def opens():\n    c = socket.create_connection(place)\n    c.recv(1)",
]


@pytest.mark.parametrize("source", BLOCKING)
def test_a_wait_for_ever_is_found(source: str) -> None:
    assert find_blocking(source)


HARMLESS = [
    "thread.join(2.0)",
    "', '.join(names)",
    "settings.get('name')",
    "calls.get(timeout=left)",
    "calls.get(True, 2.0)",
    "calls.get(False)",
    "event.wait(0.1)",
    "process.poll()",
    "self._process.poll()",
    "future.result(timeout_seconds)",
    "lock.acquire(blocking=False)",
    "lock.acquire(timeout=1.0)",
    "wait([future], 0.25)",
    "connection.wait(pipes, timeout=1.0)",
    "ray.get(reference, timeout=10)",
    "ray.wait([reference], timeout=0)",
    "select.select([connection], [], [], 0)",
    "select.poll()",
    "socket.create_connection(address, 3.0)",
    "subprocess.run(command, timeout=10)",
    "process.communicate(timeout=20)",
    "os.waitpid(number, os.WNOHANG)",
    "fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)",
    "connection.settimeout(2.0)",
    "connection.setblocking(False)",
    "threading.Thread(target=run, daemon=True)",
    "TCPStore(host, port, timeout=timeout)",
    "group.all_reduce(array, 'sum')",
    "communicator.Irecv(array, 0, 1)",
    "MPI.Request.Testall(requests)",
    "mail.send(messages)",
    "while not is_there() and time.monotonic() < deadline:\n    time.sleep(0.1)",
    "while first < last:\n    first += 1",
    "with open(path) as file:\n    pass",
    "def fetch():\n    with socket.create_connection(place, 2.0) as c:\n        c.sendall(b'')",
    "class Node:\n    def open(self):\n        self.c.settimeout(1)\n    def hear(self):\n        self.c.recv(1)",
]


@pytest.mark.parametrize("source", HARMLESS)
def test_a_wait_with_a_deadline_is_not(source: str) -> None:
    assert not find_blocking(source)


def test_a_finding_says_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    text = "class Some:\n    def run(self):\n        def inner():\n            queue.get()\n        queue.get()\n"
    (tmp_path / "part" / "one.py").write_text(text)
    (tmp_path / "two.py").write_text("thread.join()\n")
    found = find_in_folder(tmp_path)
    places = {place: [(each.line, each.what) for each in findings] for place, findings in found.items()}
    assert places == {
        "part/one.py:Some.run.inner": [(4, "queue.get()")],
        "part/one.py:Some.run": [(5, "queue.get()")],
        "two.py:": [(1, "thread.join()")],
    }
