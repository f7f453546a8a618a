"""Forward and backward through a plan, on raw arrays.

All activations of a pass lie in one scratch vector, layer l's output at `places[l]`: (outputs, batch) for a dense
layer, because BLAS multiplies a large weight matrix by a narrow batch faster than the other way round; (batch,
outputs) for a convolution. The output layers are linear, all others rectified. Matrix products go to BLAS.
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
    frames, height, width, channels, size, _ = plan.convolution
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
def _block(vector, start, rows, columns):
    return vector[start : start + rows * columns].reshape((rows, columns))


@kernel
def _num_output_layers(plan):
    return 2 if plan.dueling else 1


@kernel
def _take_observations(plan, observations, scratch):
    batch, size = observations.shape
    for i in range(batch):
        for j in range(size):
            scratch.observations[i, j] = (np.float32(observations[i, j]) - plan.shift[j]) * plan.factor[j]


@kernel
def _is_dense(plan, layer):
    """Whether a layer's output lies as (outputs, batch); an observation or a convolution's lies as (batch, outputs)."""
    return layer >= 0 and plan.layers[layer, LAYER_KIND] != CONVOLUTION


@kernel
def _rows_into(plan, scratch, layer, batch):
    """The input (batch, inputs) of a dense layer that reads the observation or the convolution."""
    row = plan.layers[layer]
    if row[LAYER_SOURCE] < 0:
        return scratch.observations[:batch]
    return _block(scratch.activations, scratch.places[row[LAYER_SOURCE]], batch, row[LAYER_INPUTS])


@kernel
def _columns_into(plan, scratch, layer, batch):
    """The input (inputs, batch) of a dense layer that reads a dense layer."""
    row = plan.layers[layer]
    return _block(scratch.activations, scratch.places[row[LAYER_SOURCE]], row[LAYER_INPUTS], batch)


@kernel
def _dense_forward(plan, parameters, scratch, layer, batch):
    row = plan.layers[layer]
    weight = _block(parameters, row[LAYER_WEIGHT], row[LAYER_OUTPUTS], row[LAYER_INPUTS])
    output = _block(scratch.activations, scratch.places[layer], row[LAYER_OUTPUTS], batch)
    if _is_dense(plan, row[LAYER_SOURCE]):
        np.dot(weight, _columns_into(plan, scratch, layer, batch), output)
    else:
        np.dot(weight, _rows_into(plan, scratch, layer, batch).T, output)
    rectify = layer < len(plan.layers) - _num_output_layers(plan)
    for i in range(output.shape[0]):
        bias = parameters[row[LAYER_BIAS] + i]
        for j in range(batch):
            value = output[i, j] + bias
            output[i, j] = max(value, np.float32(0)) if rectify else value


@kernel
def _convolution_forward(plan, parameters, scratch, batch):
    row, filters = plan.layers[0], plan.convolution[5]
    num_patches = batch * (row[LAYER_OUTPUTS] // filters)
    patches = _block(scratch.patches, 0, num_patches, row[LAYER_INPUTS])
    _unfold(plan, scratch.observations[:batch], patches)
    weight = _block(parameters, row[LAYER_WEIGHT], filters, row[LAYER_INPUTS])
    bias = parameters[row[LAYER_BIAS] : row[LAYER_BIAS] + filters]
    output = _block(scratch.activations, scratch.places[0], num_patches, filters)
    np.dot(patches, weight.T, output)
    for i in range(num_patches):
        for j in range(filters):
            output[i, j] = max(output[i, j] + bias[j], np.float32(0))


@kernel
def _combine(plan, scratch, batch):
    """Q from the output layers: Q, or V + A - mean A (Wang et al. 2016, arXiv 1511.06581, eq. 9)."""
    num, last = plan.num_actions, len(plan.layers) - 1
    advantages = _block(scratch.activations, scratch.places[last], num, batch)
    for i in range(batch):
        shift = np.float32(0)
        if plan.dueling:
            for a in range(num):
                shift -= advantages[a, i]
            shift = shift / np.float32(num) + scratch.activations[scratch.places[last - 1] + i]
        for a in range(num):
            scratch.values[i, a] = advantages[a, i] + shift


@kernel
def forward(plan, parameters, observations, scratch):
    """Q of `observations` (batch, inputs, any dtype): (batch, num_actions) float32, a view of the scratch."""
    batch = len(observations)
    _take_observations(plan, observations, scratch)
    for layer in range(len(plan.layers)):
        if plan.layers[layer, LAYER_KIND] == CONVOLUTION:
            _convolution_forward(plan, parameters, scratch, batch)
        else:
            _dense_forward(plan, parameters, scratch, layer, batch)
    _combine(plan, scratch, batch)
    return scratch.values[:batch]


@kernel
def _spread(plan, scratch, value_deltas):
    """The transpose of `_combine`: gradients at the output layers from those at Q."""
    batch, num = value_deltas.shape
    last = len(plan.layers) - 1
    advantages = _block(scratch.deltas, scratch.places[last], num, batch)
    for i in range(batch):
        total = np.float32(0)
        if plan.dueling:
            for a in range(num):
                total += value_deltas[i, a]
            scratch.deltas[scratch.places[last - 1] + i] = total
        for a in range(num):
            advantages[a, i] = value_deltas[i, a] - total / np.float32(num)


@kernel
def _rectified_backward(scratch, start, num):
    deltas, activations = scratch.deltas[start : start + num], scratch.activations[start : start + num]
    for i in range(num):
        deltas[i] = deltas[i] if activations[i] > 0 else np.float32(0)


@kernel
def _product_into(left, right, target, accumulate):
    """left @ right, written or, where two branches of the network meet, added."""
    if accumulate:
        target += np.dot(left, right)
    else:
        np.dot(left, right, target)


@kernel
def _dense_backward(plan, parameters, scratch, layer, batch, gradient, accumulate):
    """The layer's own gradients, and the gradient at its input, from `scratch.deltas` at its output."""
    row = plan.layers[layer]
    outputs, inputs, source = row[LAYER_OUTPUTS], row[LAYER_INPUTS], row[LAYER_SOURCE]
    deltas = _block(scratch.deltas, scratch.places[layer], outputs, batch)
    for i in range(outputs):
        gradient[row[LAYER_BIAS] + i] = np.sum(deltas[i])
    weight_gradient = _block(gradient, row[LAYER_WEIGHT], outputs, inputs)
    weight = _block(parameters, row[LAYER_WEIGHT], outputs, inputs)
    if _is_dense(plan, source):
        np.dot(deltas, _columns_into(plan, scratch, layer, batch).T, weight_gradient)
        target = _block(scratch.deltas, scratch.places[source], inputs, batch)
        _product_into(weight.T, deltas, target, accumulate)
        return
    np.dot(deltas, _rows_into(plan, scratch, layer, batch), weight_gradient)
    if source >= 0:
        target = _block(scratch.deltas, scratch.places[source], batch, inputs)
        _product_into(deltas.T, weight, target, accumulate)


@kernel
def _convolution_backward(plan, scratch, batch, gradient):
    """The convolution's own gradients; nothing lies below it."""
    row, filters = plan.layers[0], plan.convolution[5]
    num_patches = batch * (row[LAYER_OUTPUTS] // filters)
    patches = _block(scratch.patches, 0, num_patches, row[LAYER_INPUTS])
    deltas = _block(scratch.deltas, scratch.places[0], num_patches, filters)
    np.dot(deltas.T, patches, _block(gradient, row[LAYER_WEIGHT], filters, row[LAYER_INPUTS]))
    bias_gradient = gradient[row[LAYER_BIAS] : row[LAYER_BIAS] + filters]
    bias_gradient[:] = 0
    for i in range(num_patches):
        for j in range(filters):
            bias_gradient[j] += deltas[i, j]


@kernel
def backward(plan, parameters, value_deltas, scratch, gradient):
    """Fills `gradient` (num_parameters,) from the loss's gradient at Q, (batch, num_actions).

    The scratch must hold the forward pass of the same observations.
    """
    batch, layers = len(value_deltas), plan.layers
    _spread(plan, scratch, value_deltas)
    num_output_layers = _num_output_layers(plan)
    reached = np.zeros(len(layers), np.bool_)
    for layer in range(len(layers) - 1, -1, -1):
        row = layers[layer]
        if layer < len(layers) - num_output_layers:
            _rectified_backward(scratch, scratch.places[layer], batch * row[LAYER_OUTPUTS])
        if row[LAYER_KIND] == CONVOLUTION:
            _convolution_backward(plan, scratch, batch, gradient)
            continue
        source = row[LAYER_SOURCE]
        _dense_backward(plan, parameters, scratch, layer, batch, gradient, source >= 0 and reached[source])
        if source >= 0:
            reached[source] = True
