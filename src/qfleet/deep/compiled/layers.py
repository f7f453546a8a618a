"""Forward and backward through a plan, on raw arrays.

All activations of a pass lie in one scratch vector: layer l's output is (batch, outputs) at `places[l]`.
The output layers are linear, all others rectified. Matrix products go to BLAS.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qfleet.deep.compiled.plan import (
    CONVOLUTION,
    LAYER_BIAS,
    LAYER_INPUTS,
    LAYER_KIND,
    LAYER_OUTPUTS,
    LAYER_SOURCE,
    LAYER_WEIGHT,
)
from qfleet.kernels import kernel


class Scratch(NamedTuple):
    """Room for one pass over at most `batch` samples."""

    activations: NDArray
    """float32: every layer's output."""
    deltas: NDArray
    """float32: the loss's gradient at every layer's output."""
    places: NDArray
    """(num_layers,) int64: where each layer's output begins."""
    patches: NDArray
    """float32: the convolution's unfolded input, (batch * positions, inputs)."""
    observations: NDArray
    """(batch, inputs) float32: the scaled observations."""
    values: NDArray
    """(batch, num_actions) float32: Q."""


@kernel
def make_scratch(plan, batch, num_inputs):
    """Allocates for `batch` samples of `num_inputs` numbers each."""
    layers = plan.layers
    places = np.empty(len(layers), np.int64)
    total = 0
    for layer in range(len(layers)):
        places[layer] = total
        total += batch * layers[layer, LAYER_OUTPUTS]
    patch_size = 0
    if layers[0, LAYER_KIND] == CONVOLUTION:
        filters = plan.convolution[5]
        patch_size = batch * (layers[0, LAYER_OUTPUTS] // filters) * layers[0, LAYER_INPUTS]
    return Scratch(
        np.empty(total, np.float32),
        np.empty(total, np.float32),
        places,
        np.empty(patch_size, np.float32),
        np.empty((batch, num_inputs), np.float32),
        np.empty((batch, plan.num_actions), np.float32),
    )


@kernel
def _unfold(plan, observations, patches):
    """Lays the patch under each output position out as a row: patches (batch * positions, inputs)."""
    frames, height, width, channels, size, _, _ = plan.convolution
    run = size * channels
    rows, columns = height - size + 1, width - size + 1
    for sample in range(len(observations)):
        for y in range(rows):
            first = (sample * rows + y) * columns
            for f in range(frames):
                for ky in range(size):
                    source = observations[sample, (f * height + y + ky) * width * channels :]
                    column = (f * size + ky) * run
                    _unfold_row(source, patches, first, columns, channels, column, run)


@kernel
def _unfold_row(source, patches, first, columns, channels, column, run):
    """Copies one line of every patch of a row of positions."""
    for x in range(columns):
        target = patches[first + x, column : column + run]
        pixels = source[x * channels : x * channels + run]
        for i in range(run):
            target[i] = pixels[i]


@kernel
def _add_bias(output, bias, rectify):
    for i in range(output.shape[0]):
        for j in range(output.shape[1]):
            value = output[i, j] + bias[j]
            output[i, j] = max(value, np.float32(0)) if rectify else value


@kernel
def _num_output_layers(plan):
    return 2 if plan.dueling else 1


@kernel
def _block(vector, start, rows, columns):
    return vector[start : start + rows * columns].reshape((rows, columns))


@kernel
def _layer_input(plan, scratch, layer, batch):
    """The layer's input as a matrix: patches for a convolution, else (batch, inputs)."""
    row = plan.layers[layer]
    if row[LAYER_KIND] == CONVOLUTION:
        positions = row[LAYER_OUTPUTS] // plan.convolution[5]
        return _block(scratch.patches, 0, batch * positions, row[LAYER_INPUTS])
    if row[LAYER_SOURCE] < 0:
        return scratch.observations[:batch]
    return _block(scratch.activations, scratch.places[row[LAYER_SOURCE]], batch, row[LAYER_INPUTS])


@kernel
def _units(plan, layer):
    """Columns of the layer's weight matrix product: filters of a convolution, else outputs."""
    row = plan.layers[layer]
    return plan.convolution[5] if row[LAYER_KIND] == CONVOLUTION else row[LAYER_OUTPUTS]


@kernel
def _take_observations(plan, observations, scratch):
    batch, size = observations.shape
    for i in range(batch):
        for j in range(size):
            scratch.observations[i, j] = (np.float32(observations[i, j]) - plan.shift[j]) * plan.factor[j]


@kernel
def _combine(plan, scratch, batch):
    """Q from the output layers: Q, or V + A - mean A (Wang et al. 2016, arXiv 1511.06581, eq. 9)."""
    num = plan.num_actions
    last = len(plan.layers) - 1
    advantages = _block(scratch.activations, scratch.places[last], batch, num)
    for i in range(batch):
        shift = np.float32(0)
        if plan.dueling:
            for a in range(num):
                shift -= advantages[i, a]
            shift = shift / np.float32(num) + scratch.activations[scratch.places[last - 1] + i]
        for a in range(num):
            scratch.values[i, a] = advantages[i, a] + shift


@kernel
def forward(plan, parameters, observations, scratch):
    """Q of `observations` (batch, inputs, any dtype): (batch, num_actions) float32, a view of the scratch."""
    batch = len(observations)
    _take_observations(plan, observations, scratch)
    layers = plan.layers
    if layers[0, LAYER_KIND] == CONVOLUTION:
        patches = _layer_input(plan, scratch, 0, batch)
        _unfold(plan, scratch.observations[:batch], patches)
    for layer in range(len(layers)):
        inputs = _layer_input(plan, scratch, layer, batch)
        units = _units(plan, layer)
        weight = _block(parameters, layers[layer, LAYER_WEIGHT], units, inputs.shape[1])
        bias = parameters[layers[layer, LAYER_BIAS] : layers[layer, LAYER_BIAS] + units]
        output = _block(scratch.activations, scratch.places[layer], inputs.shape[0], units)
        np.dot(inputs, weight.T, output)
        _add_bias(output, bias, layer < len(layers) - _num_output_layers(plan))
    _combine(plan, scratch, batch)
    return scratch.values[:batch]


@kernel
def _spread(plan, scratch, value_deltas):
    """The transpose of `_combine`: gradients at the output layers from those at Q."""
    batch, num = value_deltas.shape
    last = len(plan.layers) - 1
    advantages = _block(scratch.deltas, scratch.places[last], batch, num)
    for i in range(batch):
        total = np.float32(0)
        if plan.dueling:
            for a in range(num):
                total += value_deltas[i, a]
            scratch.deltas[scratch.places[last - 1] + i] = total
        for a in range(num):
            advantages[i, a] = value_deltas[i, a] - total / np.float32(num)


@kernel
def _rectified_backward(scratch, start, num):
    deltas, activations = scratch.deltas[start : start + num], scratch.activations[start : start + num]
    for i in range(num):
        deltas[i] = deltas[i] if activations[i] > 0 else np.float32(0)


@kernel
def _sum_rows(deltas, gradient):
    gradient[:] = 0
    for i in range(deltas.shape[0]):
        for j in range(deltas.shape[1]):
            gradient[j] += deltas[i, j]


@kernel
def _send_back(deltas, weight, target, accumulate):
    """Gradient at the layer's input: deltas @ weight, written or, where two branches meet, added."""
    if accumulate:
        target += np.dot(deltas, weight)
    else:
        np.dot(deltas, weight, target)


@kernel
def backward(plan, parameters, value_deltas, scratch, gradient):
    """Fills `gradient` (num_parameters,) from the loss's gradient at Q, (batch, num_actions).

    The scratch must hold the forward pass of the same observations in its first `batch` samples.
    """
    batch, layers = len(value_deltas), plan.layers
    _spread(plan, scratch, value_deltas)
    num_output_layers = _num_output_layers(plan)
    reached = np.zeros(len(layers), np.bool_)
    for layer in range(len(layers) - 1, -1, -1):
        row = layers[layer]
        inputs, units = _layer_input(plan, scratch, layer, batch), _units(plan, layer)
        if layer < len(layers) - num_output_layers:
            _rectified_backward(scratch, scratch.places[layer], inputs.shape[0] * units)
        deltas = _block(scratch.deltas, scratch.places[layer], inputs.shape[0], units)
        np.dot(deltas.T, inputs, _block(gradient, row[LAYER_WEIGHT], units, inputs.shape[1]))
        _sum_rows(deltas, gradient[row[LAYER_BIAS] : row[LAYER_BIAS] + units])
        source = row[LAYER_SOURCE]
        if source >= 0:
            weight = _block(parameters, row[LAYER_WEIGHT], units, inputs.shape[1])
            target = _block(scratch.deltas, scratch.places[source], batch, inputs.shape[1])
            _send_back(deltas, weight, target, reached[source])
            reached[source] = True
