"""Where compiled kernels are kept on disk: one file for each kernel and types, found by a digest of both."""

import hashlib
import os
import pickle
import tempfile
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
        compiled._cache = _KernelCache(function)
    finally:
        _CONFIG.CACHE_DIR = before
    return compiled


@final
class _KernelCache(FunctionCache):
    """numba's cache without its index.

    numba keeps the types of all of a kernel's versions in one pickled index, which cannot be read where a type's
    class cannot be imported: a user's world would spoil the cache for whoever does not have it. And two processes
    that add to the index at once lose one of the two.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        base: Any = self._impl
        self._cache_file = _Files(Path(self.cache_path), base.filename_base)

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

    def flush(self) -> None:
        for path in self._folder.glob(f"{self._base}.*.nbc"):
            path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._folder / f"{self._base}.{key}.nbc"


def _classes(kinds: Any) -> Iterator[str]:
    """The classes of named tuples, whose type names do not say which module they are of."""
    for kind in kinds:
        if isinstance(kind, types.BaseNamedTuple):
            named: Any = kind
            yield f"{named.instance_class.__module__}.{named.instance_class.__qualname__}"
        if isinstance(kind, types.BaseTuple):
            yield from _classes(kind)
