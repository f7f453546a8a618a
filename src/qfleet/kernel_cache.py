"""Where compiled kernels are kept on disk: one file for each kernel and types, found by a digest of both."""

import fcntl
import hashlib
import os
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, final
from uuid import uuid4

import numba
import numba.core.config
from numba.core import types
from numba.core.caching import FunctionCache
from numba.core.serialize import dumps

_PARTS = ("deep", "replay", "states", "tabular", "worlds")
_CONFIG: Any = numba.core.config
_PATIENCE_SECONDS, _LOOK_SECONDS = 60.0, 0.02
"""For another process that compiles the same kernel; whoever waits for longer compiles it too."""


@cache
def cache_folder() -> Path:
    """Where compiled kernels are kept: a folder named by the digest of all the source that kernels are made of.

    numba itself only looks at the file a kernel stands in, and would run a kernel with an old version of another
    file's kernels inlined.
    """
    package = Path(__file__).parent
    digest = hashlib.sha256()
    parts = (file for part in _PARTS for file in (package / part).rglob("*.py"))
    for path in sorted([Path(__file__), package / "kernels.py", *parts]):
        digest.update(str(path.relative_to(package)).encode())
        digest.update(path.read_bytes())
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(root) / "qfleet" / "kernels" / digest.hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="qfleet-kernels-"))
    return folder


def cached(compiled: Any, function: Callable[..., Any]) -> Any:
    """`compiled`, the dispatcher of `function`, keeping what it compiles in `cache_folder()`."""
    before = _CONFIG.CACHE_DIR
    _CONFIG.CACHE_DIR = str(cache_folder())
    try:
        cache = compiled._cache = _KernelCache(function)
        compiled.compile = cache.compiling(compiled.compile)
    finally:
        _CONFIG.CACHE_DIR = before
    return compiled


@final
class _KernelCache(FunctionCache):
    """numba's cache without its index.

    numba keeps the types of all of a kernel's versions in one pickled index, which cannot be read where a type's
    class cannot be imported: a user's world would spoil the cache for whoever does not have it. And two processes
    that add to the index at once lose one of the two. Of several processes that need the same kernel one compiles it,
    and the others wait for it: the workers of a run all need theirs at the same time.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        base: Any = self._impl
        self._cache_file = _Files(Path(self.cache_path), base.filename_base)
        self._claims: list[_Claim] = []
        """Of what is being compiled."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The kernel for these types, if it is there, or comes to be while it is waited for; else it is claimed."""
        found = super().load_overload(sig, target_context)
        if found is not None:
            return found
        claim = self._cache_file.claim(self._index_key(sig, target_context.codegen()))
        found = super().load_overload(sig, target_context)
        if found is None:
            self._claims.append(claim)
        else:
            claim.give_up()
        return found

    def compiling(self, compile_one: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """`compile_one`, which loads a kernel or compiles and saves it, with what it claims given up at its end."""

        def compile_claimed(sig: Any) -> Any:
            try:
                return compile_one(sig)
            finally:
                claims, self._claims = self._claims, []
                for claim in claims:
                    claim.give_up()

        return compile_claimed

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        _, machine, code = super()._index_key(sig, codegen)
        described = (numba.__version__, sig, sorted(_classes(sig)), machine, code)
        return hashlib.sha256(repr(described).encode()).hexdigest()[:32]


@final
class _Files:
    """A file for each key."""

    def __init__(self, folder: Path, base: str) -> None:
        self._folder, self._base = folder, base

    def save(self, key: str, data: Any) -> None:
        path = self._path(key)
        written = path.with_name(f"{path.name}.{uuid4().hex}")
        with suppress(OSError):  # a full disk costs the next run a compilation, not this one its life
            try:
                written.write_bytes(dumps(data))
                written.replace(path)
            finally:
                written.unlink(missing_ok=True)

    def load(self, key: str) -> Any:
        try:
            return pickle.loads(self._path(key).read_bytes())  # noqa: S301 - what this user compiled
        except (OSError, ImportError, AttributeError, EOFError, pickle.UnpicklingError):
            return None  # not there, or a class of its types has moved: compiled anew

    def claim(self, key: str) -> "_Claim":
        return _Claim(self._path(key).with_suffix(".claim"))

    def flush(self) -> None:
        for path in self._folder.glob(f"{self._base}.*.nbc"):
            path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._folder / f"{self._base}.{key}.nbc"


@final
class _Claim:
    """To compile a kernel for all: a lock on a file, which ends with its process, too."""

    def __init__(self, path: Path) -> None:
        """Waits for whoever has it, for a while; without a lock where there can be none."""
        self._path, self._file = path, -1
        with suppress(OSError):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self._file >= 0 and not self._is_locked() and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)

    def _is_locked(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            return True
        return True

    def give_up(self) -> None:
        if self._file >= 0:
            with suppress(OSError):
                self._path.unlink()  # those who wait have it open, and look for the kernel first
            # Closing alone would not do: a child that was forked meanwhile has the file, too.
            with suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_UN | fcntl.LOCK_NB)
            os.close(self._file)
            self._file = -1


def _classes(kinds: Any) -> Iterator[str]:
    """The classes of named tuples, whose type names do not say which module they are of."""
    for kind in kinds:
        if isinstance(kind, types.BaseNamedTuple):
            named: Any = kind
            yield f"{named.instance_class.__module__}.{named.instance_class.__qualname__}"
        if isinstance(kind, types.BaseTuple):
            yield from _classes(kind)
