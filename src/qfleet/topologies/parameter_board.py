"""Parameters that are published once a version, and read by whoever acts with them."""

from typing import final

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.parameters import Parameters
from qfleet.fleet import Board, Fleet


def num_bytes(parameters: Parameters) -> int:
    """Of the vector and all buffers."""
    return parameters.vector.nbytes + sum(buffer.nbytes for buffer in parameters.buffers.values())


@final
class ParameterBoard:
    """The newest parameters; services that hold it see one and the same."""

    def __init__(self, fleet: Fleet, like: Parameters) -> None:
        """Made before the services that hold it; `like` has the shapes of all that is published."""
        self._board: Board = fleet.board(num_bytes(like))
        self._like = Parameters(-1, like.vector[:0], {k: v[...] for k, v in like.buffers.items()})
        self._length = len(like.vector)

    def publish(self, parameters: Parameters) -> None:
        """Puts them in the place of those before; one service does so."""
        parts = [parameters.vector, *parameters.buffers.values()]
        self._board.write(parameters.version, np.concatenate([_bytes_of(part) for part in parts]))

    def newest(self, newer_than: int) -> Parameters | None:
        """Those published last; None if their version is not newer."""
        found = self._board.read(newer_than)
        if found is None:
            return None
        version, data = found
        end = 4 * self._length
        # Copies: kernels would be compiled once more for what is read-only.
        vector, buffers = data[:end].copy().view(np.float32), {}
        for name, like in self._like.buffers.items():
            part = data[end : end + like.nbytes]
            buffers[name] = part.copy().view(like.dtype).reshape(like.shape)
            end += like.nbytes
        return Parameters(version, vector, buffers)


def _bytes_of(array: NDArray) -> NDArray[np.uint8]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
