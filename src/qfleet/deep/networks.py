"""Which network fits which observation, and its layers as a compiled plan or as a PyTorch module.

Both forms have the same tensors in the same order, so the same flat vector of parameters serves either.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.compiled.plan import Plan, PlanBuilder
from qfleet.deep.parameters import Slot
from qfleet.environments.vector import ObservationLayout
from qfleet.errors import QfleetError

NetworkKind = Literal["auto", "mlp", "grid", "nature"]

GRID_FILTERS, GRID_KERNEL = 16, 3
_LARGEST_PLAIN_HALF_RANGE = 100.0
NATURE_MIN_SIDE = 36
"""Below this the Nature network's three convolutions leave nothing."""


@dataclass(frozen=True)
class NetworkConfig:
    """The Q-network."""

    network: NetworkKind = "auto"
    """mlp, grid (a 3x3 convolution, for about 10x10), nature (Mnih 2015, for images); auto: by the observation."""
    hidden_sizes: tuple[int, ...] = ()
    """Units of each hidden dense layer; empty: 256 256 for mlp, 128 for grid, 512 for nature."""
    rescale_observations: bool = True
    """Maps features bounded within less than +-1, or beyond +-100, to -1 to 1 before the network."""
    dueling: bool = False
    """Separate streams for the state's value and the actions' advantages (Wang 2016)."""

    def __post_init__(self) -> None:
        if self.network not in get_args(NetworkKind):
            raise QfleetError(
                f"network is {self.network!r}; it must be one of {', '.join(get_args(NetworkKind))}"
            )
        if any(size < 1 for size in self.hidden_sizes):
            raise QfleetError(f"hidden_sizes is {self.hidden_sizes}; every layer needs at least 1 unit")


@dataclass(frozen=True)
class NetworkShape:
    """A network fully decided: what `NetworkConfig` says, for one environment."""

    kind: Literal["mlp", "grid", "nature"]
    hidden_sizes: tuple[int, ...]
    dueling: bool
    rescale: bool
    layout: ObservationLayout
    frame_stack: int
    num_actions: int

    @property
    def num_inputs(self) -> int:
        """Numbers in one stacked observation."""
        return self.frame_stack * self.layout.size

    def input_transform(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Shift and factor, (num_inputs,) each: the network computes on (observation - shift) * factor."""
        shift = np.zeros(self.layout.size, np.float32)
        factor = np.full(self.layout.size, self.layout.scale, np.float32)
        if self.rescale and self.layout.bounds:
            low, high = np.array(self.layout.bounds).T
            half_range = (high - low) / 2
            odd = np.isfinite(half_range) & ((half_range < 1) | (half_range > _LARGEST_PLAIN_HALF_RANGE))
            shift[odd] = (low[odd] + high[odd]) / 2
            factor[odd] = 1 / half_range[odd]
        return np.tile(shift, self.frame_stack), np.tile(factor, self.frame_stack)

    @property
    def compilable(self) -> bool:
        """Whether the compiled kernels can run it; else PyTorch does."""
        return self.kind != "nature"


_DEFAULT_HIDDEN = {"mlp": (256, 256), "grid": (128,), "nature": (512,)}


def decide(
    config: NetworkConfig, layout: ObservationLayout, frame_stack: int, num_actions: int
) -> NetworkShape:
    """Fills in what the config leaves open; raises QfleetError if the network cannot take the observation."""
    kind = _automatic(layout) if config.network == "auto" else config.network
    if kind != "mlp" and not layout.is_image:
        raise QfleetError(
            f"--network {kind} needs images, the observation has shape {layout.shape}; mlp fits it"
        )
    side = min(_image_axes(layout)[:2]) if layout.is_image else 0
    least = {"mlp": 0, "grid": GRID_KERNEL, "nature": NATURE_MIN_SIDE}[kind]
    if side < least:
        raise QfleetError(
            f"--network {kind} needs images of at least {least}x{least}, these are {layout.shape}"
        )
    sizes = config.hidden_sizes or _DEFAULT_HIDDEN[kind]
    return NetworkShape(
        kind, sizes, config.dueling, config.rescale_observations, layout, frame_stack, num_actions
    )


def _automatic(layout: ObservationLayout) -> Literal["mlp", "grid", "nature"]:
    if not layout.is_image:
        return "mlp"
    side = min(_image_axes(layout)[:2])
    if side >= NATURE_MIN_SIDE:
        return "nature"
    return "grid" if side >= GRID_KERNEL else "mlp"


def _image_axes(layout: ObservationLayout) -> tuple[int, int, int]:
    """Height, width, channels."""
    if layout.channels_last:
        height, width, channels = layout.shape
    else:
        channels, height, width = layout.shape
    return height, width, channels


def grid_axes(shape: NetworkShape) -> tuple[int, int, int, int]:
    """Frames, height, width, channels of a stacked observation; channels that come first count as frames."""
    height, width, channels = _image_axes(shape.layout)
    if shape.layout.channels_last:
        return shape.frame_stack, height, width, channels
    return shape.frame_stack * channels, height, width, 1


def compiled_plan(shape: NetworkShape) -> tuple[Plan, list[Slot]]:
    """The layers for the compiled kernels, and where each tensor lies in the parameter vector."""
    builder = PlanBuilder(*shape.input_transform())
    source, width = -1, shape.num_inputs
    if shape.kind == "grid":
        axes = grid_axes(shape)
        source = builder.convolve("convolution", *axes, GRID_KERNEL, GRID_FILTERS)
        width = (axes[1] - GRID_KERNEL + 1) * (axes[2] - GRID_KERNEL + 1) * GRID_FILTERS
    trunk = shape.hidden_sizes[:-1] if shape.dueling else shape.hidden_sizes
    for i, size in enumerate(trunk):
        source, width = builder.dense(f"hidden_{i}", source, width, size), size
    if not shape.dueling:
        builder.dense("values", source, width, shape.num_actions)
        return builder.build(dueling=False, num_actions=shape.num_actions), builder.slots
    stream = shape.hidden_sizes[-1]
    state = builder.dense("state_hidden", source, width, stream)
    advantage = builder.dense("advantage_hidden", source, width, stream)
    builder.dense("state_value", state, stream, 1)
    builder.dense("advantages", advantage, stream, shape.num_actions)
    return builder.build(dueling=True, num_actions=shape.num_actions), builder.slots
