"""A digest of jitted functions by which kernels are cached on disk: equal for equal code of equal modules."""

import hashlib
from collections.abc import Callable
from types import CodeType, ModuleType
from typing import Any

import numpy as np
from numba.core.dispatcher import Dispatcher

_FOREIGN = ("numpy", "math", "cmath", "numba", "scipy", "builtins")
"""Packages whose functions do not change while the user edits."""


def fingerprint(*functions: Callable[..., Any] | None) -> str:
    """A digest of the functions' code, of what they call and of the constants they refer to.

    Kernels are cached on disk by it: an edited world is compiled anew, an unchanged one is not. The name of the module
    is part of it, since a cached kernel imports the module of its functions when it is loaded.
    """
    digest = hashlib.sha256()
    for function in functions:
        _add(digest, function, set())
    return digest.hexdigest()[:20]


def _add(digest: "hashlib._Hash", value: Any, seen: set[int]) -> None:
    if isinstance(value, Dispatcher):
        value = value.py_func
    if id(value) in seen:
        return
    if isinstance(value, CodeType):
        digest.update(value.co_code + repr(value.co_names).encode())
        for constant in value.co_consts:
            _add(digest, constant, seen)
    elif isinstance(value, np.ndarray):
        digest.update(str((value.dtype, value.shape)).encode() + value.tobytes())
    elif isinstance(value, tuple):
        digest.update(f"{type(value).__name__} of {len(value)}".encode())
        for item in value:
            _add(digest, item, seen)
    elif isinstance(value, ModuleType):
        digest.update(value.__name__.encode())
    elif callable(value) and hasattr(value, "__code__") and not _is_foreign(value.__module__):
        _add_function(digest, value, seen)
    elif callable(value):
        name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None) or repr(value)
        digest.update(f"{getattr(value, '__module__', '')}.{name}".encode())
    else:
        digest.update(f"{type(value).__name__}:{value!r}".encode())


def _add_function(digest: "hashlib._Hash", function: Any, seen: set[int]) -> None:
    seen.add(id(function))
    module = function.__module__ or ""
    # A child that was spawned calls its parent's script __mp_main__.
    digest.update(("__main__" if module == "__mp_main__" else module).encode())
    _add(digest, function.__code__, seen)
    _add(digest, function.__defaults__, seen)
    names = _names(function.__code__)
    for name in sorted(names):
        digest.update(name.encode())
        value = function.__globals__.get(name)
        _add(digest, value, seen)
        if isinstance(value, ModuleType) and not _is_foreign(value.__name__):
            # Any of the names may be an attribute of the user's other module: helpers.reward, helpers.SIZE.
            for attribute in sorted(names & set(vars(value))):
                _add(digest, getattr(value, attribute), seen)
    for cell in function.__closure__ or ():
        _add(digest, cell.cell_contents, seen)


def _is_foreign(module: str | None) -> bool:
    return module is not None and module.partition(".")[0] in _FOREIGN


def _names(code: CodeType) -> set[str]:
    """The names that code may look up in its module, those of functions inside it included."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*(_names(constant) for constant in inner))
