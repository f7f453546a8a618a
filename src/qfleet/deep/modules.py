"""The networks as PyTorch modules. They take stacked observations as (batch, frame_stack * size), any dtype."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from qfleet.deep.networks import GRID_FILTERS, GRID_KERNEL, NetworkShape, grid_axes


class _GridConvolution(nn.Module):
    """The first layer of the grid network; its weight lies as the compiled kernel wants it."""

    def __init__(self, frames: int, height: int, width: int, channels: int) -> None:
        super().__init__()
        self._input_shape = (frames, height, width, channels)
        self.weight = nn.Parameter(torch.empty(GRID_FILTERS, frames, GRID_KERNEL, GRID_KERNEL, channels))
        self.bias = nn.Parameter(torch.empty(GRID_FILTERS))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws weight and bias as nn.Conv2d does."""
        bound = self.weight[0].numel() ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, observations: Tensor) -> Tensor:
        """(batch, inputs) to (batch, positions * filters), filters last."""
        frames, height, width, channels = self._input_shape
        images = observations.view(-1, frames, height, width, channels).permute(0, 1, 4, 2, 3)
        weight = self.weight.permute(0, 1, 4, 2, 3).reshape(
            GRID_FILTERS, frames * channels, GRID_KERNEL, GRID_KERNEL
        )
        filtered = functional.conv2d(images.reshape(-1, frames * channels, height, width), weight, self.bias)
        return filtered.permute(0, 2, 3, 1).flatten(1)


class _NatureConvolutions(nn.Module):
    """The three convolutions of Mnih et al. 2015 (Nature 518, Methods)."""

    def __init__(self, frames: int, height: int, width: int, channels: int) -> None:
        super().__init__()
        self._input_shape = (frames, height, width, channels)
        self.layers = nn.Sequential(
            nn.Conv2d(frames * channels, 32, 8, 4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, 2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, 1),
            nn.Flatten(),
        )
        side = [((((n - 8) // 4 + 1) - 4) // 2 + 1) - 2 for n in (height, width)]
        self.num_outputs = 64 * side[0] * side[1]

    def forward(self, observations: Tensor) -> Tensor:
        """(batch, inputs) to (batch, num_outputs)."""
        images = observations.view(-1, *self._input_shape).permute(0, 1, 4, 2, 3)
        return self.layers(images.flatten(1, 2))


class QNetwork(nn.Module):
    """Q of every action, for a decided shape."""

    shift: Tensor
    factor: Tensor

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()
        self._dueling = shape.dueling
        shift, factor = shape.input_transform()
        self.register_buffer("shift", torch.from_numpy(shift), persistent=False)
        self.register_buffer("factor", torch.from_numpy(factor), persistent=False)
        width, self.body = _body(shape)
        trunk = shape.hidden_sizes[:-1] if shape.dueling else shape.hidden_sizes
        self.hidden = nn.ModuleList()
        for size in trunk:
            self.hidden.append(nn.Linear(width, size))
            width = size
        if not shape.dueling:
            self.values = nn.Linear(width, shape.num_actions)
            return
        stream = shape.hidden_sizes[-1]
        self.state_hidden, self.advantage_hidden = nn.Linear(width, stream), nn.Linear(width, stream)
        self.state_value, self.advantages = nn.Linear(stream, 1), nn.Linear(stream, shape.num_actions)

    def forward(self, observations: Tensor) -> Tensor:
        """(batch, frame_stack * size) of any dtype to (batch, num_actions) float32."""
        features = (observations.to(torch.float32) - self.shift) * self.factor
        if self.body is not None:
            features = functional.relu(self.body(features))
        for layer in self.hidden:
            features = functional.relu(layer(features))
        if not self._dueling:
            return self.values(features)
        value = self.state_value(functional.relu(self.state_hidden(features)))
        advantages = self.advantages(functional.relu(self.advantage_hidden(features)))
        return value + advantages - advantages.mean(1, keepdim=True)


def _body(shape: NetworkShape) -> tuple[int, nn.Module | None]:
    """The convolutional part, if any, and how many features it gives."""
    if shape.kind == "mlp":
        return shape.num_inputs, None
    frames, height, width, channels = grid_axes(shape)
    if shape.kind == "nature":
        nature = _NatureConvolutions(frames, height, width, channels)
        return nature.num_outputs, nature
    grid = _GridConvolution(frames, height, width, channels)
    return (height - GRID_KERNEL + 1) * (width - GRID_KERNEL + 1) * GRID_FILTERS, grid
