"""Finds, in source text, calls that may wait for ever: for threads, processes, messages, sockets, locks and ranks."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_METHODS = {"join": 0, "poll": 0, "wait": 0, "result": 0, "exception": 0, "select": 0, "get": 1, "acquire": 1}
"""How many arguments stand before the timeout."""
_FUNCTIONS = {
    "wait": 1,
    "connection.wait": 1,
    "futures.wait": 1,
    "ray.get": 1,
    "ray.wait": 2,
    "select.select": 3,
    "socket.create_connection": 1,
    "subprocess.run": 99,
    "subprocess.call": 99,
    "subprocess.check_call": 99,
    "subprocess.check_output": 99,
    "urlopen": 2,
    "TCPStore": 99,
    "distributed.init_process_group": 99,
}
"""The same, of functions; 99 where it is always named."""
_ALWAYS = {"input", "os.wait", "os.system", "os.eventfd_read", "signal.pause", "signal.sigwait"}
_WITHOUT_FLAG = {"os.waitpid": "WNOHANG", "fcntl.flock": "LOCK_NB", "fcntl.lockf": "LOCK_NB"}
_SOCKETS = {
    "accept",
    "recv",
    "recv_into",
    "recvmsg",
    "recvmsg_into",
    "recv_bytes",
    "send",
    "sendall",
    "sendmsg",
}
_SOCKETS |= {"send_bytes", "connect"}
_NAMED_SOCKETS = ("connection", "socket", "pipe", "requests", "probe", "arrays", "news")
"""`send` and `connect` are methods of other things too."""
_COLLECTIVES = {
    "Dup",
    "Split",
    "Split_type",
    "Send",
    "Ssend",
    "Recv",
    "Sendrecv",
    "Wait",
    "Waitall",
    "Waitany",
}
_COLLECTIVES |= {
    "Waitsome",
    "Probe",
    "Mprobe",
    "Barrier",
    "Bcast",
    "Gather",
    "Allgather",
    "Scatter",
    "Alltoall",
}
_COLLECTIVES |= {"Reduce", "Allreduce", "Init", "Init_thread", "Finalize", "all_reduce", "all_gather"}
_POOLS = {"ThreadPoolExecutor", "ProcessPoolExecutor", "Pool"}
_SLEEPS = {"sleep", "sched_yield", "wait", "select", "poll"}


@dataclass(frozen=True)
class Finding:
    """A wait without a deadline, as far as its own line and its class tell."""

    function: str
    """With its class; empty at the top of a module."""
    line: int
    what: str


def find_blocking(source: str) -> list[Finding]:
    """All of one module."""
    return list(_found(ast.parse(source), "", frozenset()))


def find_in_folder(folder: Path) -> dict[str, list[Finding]]:
    """Of all modules below a folder, by `path:function`."""
    found: dict[str, list[Finding]] = {}
    for path in sorted(folder.rglob("*.py")):
        for finding in find_blocking(path.read_text()):
            found.setdefault(f"{path.relative_to(folder)}:{finding.function}", []).append(finding)
    return found


def _found(node: ast.AST, function: str, patient: frozenset[str]) -> Iterator[Finding]:
    """Below a node; `patient` are the names of sockets that were given a timeout."""
    for child in ast.iter_child_nodes(node):
        inner, known = function, patient
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            inner = f"{function}.{child.name}".lstrip(".")
            known = patient | _with_timeout(child)
        if what := _what(child, known):
            yield Finding(inner, getattr(child, "lineno", 0), what)
        yield from _found(child, inner, known)


def _with_timeout(scope: ast.AST) -> frozenset[str]:
    """Sockets that are given a timeout somewhere in a class or function: of a class only its own attributes."""
    names = {name for node in ast.walk(scope) for name in _given_timeout(node)}
    is_class = isinstance(scope, ast.ClassDef)
    return frozenset(name for name in names if not is_class or name.startswith("self."))


def _given_timeout(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
        given = ast.unparse(node.args[0])
        if (node.func.attr, given != "None") == ("settimeout", True) or (
            node.func.attr == "setblocking" and given == "False"
        ):
            return [ast.unparse(node.func.value)]
    if isinstance(node, ast.Assign) and _opens(node.value):
        return [ast.unparse(target) for target in node.targets]
    if isinstance(node, ast.withitem) and node.optional_vars is not None and _opens(node.context_expr):
        return [ast.unparse(node.optional_vars)]
    return []


def _opens(node: ast.AST) -> bool:
    """Whether it opens a connection with a timeout."""
    return (
        isinstance(node, ast.Call) and _dotted(node) == "socket.create_connection" and _has_timeout(node, 1)
    )


def _what(node: ast.AST, patient: frozenset[str]) -> str | None:
    """What a node waits for without a deadline, in its own words; None if it does not."""
    if isinstance(node, ast.Call) and _blocks(node, patient):
        return ast.unparse(node)
    if isinstance(node, ast.With | ast.AsyncWith):
        locks = [ast.unparse(item.context_expr) for item in node.items]
        return next((f"with {lock}" for lock in locks if lock.endswith("lock")), None)
    if isinstance(node, ast.While) and _sleeps_for_ever(node):
        return f"while {ast.unparse(node.test)}"
    return None


def _blocks(call: ast.Call, patient: frozenset[str]) -> bool:
    name, text = _dotted(call), ast.unparse(call)
    if name in _FUNCTIONS:
        return not _has_timeout(call, _FUNCTIONS[name])
    if name in _WITHOUT_FLAG:
        return _WITHOUT_FLAG[name] not in text
    if name.split(".")[-1] in _POOLS or name in _ALWAYS:
        return True
    if name.split(".")[-1] == "Thread":
        return "daemon=True" not in text
    return isinstance(call.func, ast.Attribute) and _method_blocks(call, call.func, patient)


def _method_blocks(call: ast.Call, method: ast.Attribute, patient: frozenset[str]) -> bool:
    name, receiver = method.attr, ast.unparse(method.value)
    if name in _SOCKETS:
        is_other = name in ("send", "connect") and not receiver.lower().endswith(_NAMED_SOCKETS)
        return not is_other and receiver not in patient
    if name == "communicate":
        return not _has_timeout(call, 1)
    if name in ("settimeout", "setblocking"):
        return "None" in ast.unparse(call) or "True" in ast.unparse(call)
    if name in _COLLECTIVES or name == "serve_forever":
        return name not in ("all_reduce", "all_gather") or receiver == "distributed"
    return name in _METHODS and _waits_untimed(call, name, receiver)


def _waits_untimed(call: ast.Call, name: str, receiver: str) -> bool:
    first = ast.unparse(call.args[0]) if call.args else ""
    if name == "poll" and (receiver.endswith("process") or receiver == "select"):
        return False  # of `subprocess` it only looks, and `select` makes an object
    if "block=False" in ast.unparse(call) or "blocking=False" in ast.unparse(call):
        return False
    waits = ("", "True") if name in ("get", "acquire") else ("", "None")
    if first not in waits:  # it is a mapping's or a text's, does not wait, or has a timeout
        return False
    return not _has_timeout(call, _METHODS[name])


def _has_timeout(call: ast.Call, position: int) -> bool:
    named = {word.arg: ast.unparse(word.value) for word in call.keywords if word.arg}
    given = named.get("timeout") or named.get("timeout_seconds")
    if given is None and len(call.args) > position:
        given = ast.unparse(call.args[position])
    return given not in (None, "None")


def _sleeps_for_ever(loop: ast.While) -> bool:
    """Whether it looks again and again, and nothing in it tells of a clock."""
    text = ast.unparse(loop)
    if "deadline" in text or "monotonic()" in text:
        return False
    return any(
        isinstance(node, ast.Call)
        and (_dotted(node).split(".")[-1] in _SLEEPS or (_is_queue(node) and _has_timeout(node, 1)))
        and not (node.args and ast.unparse(node.args[-1]) == "0")  # it only looks
        for node in ast.walk(loop)
    )


def _is_queue(call: ast.Call) -> bool:
    return (
        isinstance(call.func, ast.Attribute)
        and call.func.attr in ("get", "acquire", "join")
        and not call.args
    )


def _dotted(call: ast.Call) -> str:
    """What is called, as `module.name`; `self._ray` is Ray."""
    return ast.unparse(call.func).replace("self._ray.", "ray.").replace("self.ray.", "ray.")
