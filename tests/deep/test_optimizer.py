"""Adam, clipping and the target's moves against PyTorch's own."""

import numpy as np
import pytest
import torch

from qfleet.deep.optimizer import adam, global_norm, move_towards
from qfleet.deep.torch_learner import adam_on_device

NUM, RATE, EPSILON = 300, 3e-3, 1e-6


def gradients(num_updates: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [
        (generator.normal(size=NUM) * scale).astype(np.float32)
        for scale in 10.0 ** generator.uniform(-3, 2, num_updates)
    ]


def start() -> np.ndarray:
    return np.random.default_rng(1).normal(size=NUM).astype(np.float32)


def torchs(max_norm: float) -> tuple[np.ndarray, list[float]]:
    """PyTorch's Adam over 20 gradients; (parameters, norms before clipping)."""
    parameter = torch.nn.Parameter(torch.from_numpy(start()))
    optimizer = torch.optim.Adam([parameter], lr=RATE, eps=EPSILON)
    norms = []
    for gradient in gradients(20):
        parameter.grad = torch.from_numpy(gradient.copy())
        norms.append(float(torch.nn.utils.clip_grad_norm_([parameter], max_norm)))
        optimizer.step()
    return parameter.detach().numpy(), norms


@pytest.mark.parametrize("max_norm", [np.inf, 10.0, 0.1])
def test_adam_and_clipping_equal_pytorchs(max_norm: float) -> None:
    expected, expected_norms = torchs(max_norm)
    vectors = start(), np.zeros(NUM, np.float32), np.zeros(NUM, np.float32)
    tensors = [torch.from_numpy(vector.copy()) for vector in vectors]
    for number, gradient in enumerate(gradients(20), 1):
        norm = adam(vectors[0], gradient, vectors[1], vectors[2], number, RATE, EPSILON, max_norm)
        on_device = adam_on_device(
            tensors[0],
            torch.from_numpy(gradient.copy()),
            tensors[1],
            tensors[2],
            number,
            RATE,
            EPSILON,
            max_norm,
        )
        assert norm == pytest.approx(expected_norms[number - 1], rel=1e-5)
        assert on_device == pytest.approx(norm, rel=1e-5)
    np.testing.assert_allclose(vectors[0], expected, rtol=1e-5, atol=1e-6)
    for vector, tensor in zip(vectors, tensors, strict=True):
        np.testing.assert_allclose(tensor.numpy(), vector, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_moves_nothing(wrong: float) -> None:
    vectors = start(), np.zeros(NUM, np.float32), np.zeros(NUM, np.float32)
    tensors = [torch.from_numpy(vector.copy()) for vector in vectors]
    gradient = np.append(gradients(1)[0][1:], np.float32(wrong))
    assert not np.isfinite(adam(vectors[0], gradient, vectors[1], vectors[2], 1, RATE, EPSILON, 10.0))
    norm = adam_on_device(
        tensors[0], torch.from_numpy(gradient), tensors[1], tensors[2], 1, RATE, EPSILON, 10.0
    )
    assert not np.isfinite(norm)
    for found in (vectors, [tensor.numpy() for tensor in tensors]):
        np.testing.assert_array_equal(found[0], start())
        assert not found[1].any() and not found[2].any()


def test_the_norm_does_not_overflow() -> None:
    assert global_norm(np.full(4, 1e30, np.float32)) == pytest.approx(2e30)


def test_the_targets_moves() -> None:
    target, parameters = np.array([0.0, 2.0, -1.0], np.float32), np.array([1.0, 0.1, -1.0], np.float32)
    soft = target.copy()
    move_towards(soft, parameters, 0.25)
    np.testing.assert_allclose(soft, 0.25 * parameters + 0.75 * target, rtol=1e-6)
    move_towards(target, parameters, 1.0)
    assert target.tobytes() == parameters.tobytes()
