"""The learner and the policy for networks that PyTorch runs: a user's own module, large images, a GPU.

The network's tensors are views into one flat vector and its gradients into another; everything but the network
is the code the compiled learner uses, on the host.
"""

import copy
import math
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qfleet.deep.dqn import DQNConfig
from qfleet.deep.learner import Gradient, Learner, Policy
from qfleet.deep.losses import td_loss
from qfleet.deep.networks import NetworkShape
from qfleet.deep.optimizer import adam, move_towards
from qfleet.deep.parameters import Parameters, check_same_network
from qfleet.deep.targets import bootstrapped_targets
from qfleet.errors import QfleetError
from qfleet.replay.replay import Batch, ReplayView, draw, update_priorities


class VectorModule:
    """A module whose trainable tensors are views into one vector, and their gradients into another."""

    def __init__(self, module: nn.Module, vector: Tensor, gradient: Tensor) -> None:
        """`gradient` may be empty where nothing is to be trained."""
        self.module, self.vector, self.gradient = module, vector, gradient

    def rebind(self, vector: Tensor) -> None:
        """Lets the tensors be views into another vector, with what is in it; QfleetError where they cannot."""
        raise QfleetError("a network that is split over workers cannot share its parameters in memory")

    def copy_from(self, other: "VectorModule") -> None:
        """Takes the parameters and buffers of a module of the same shape."""
        self.vector.copy_(other.vector)
        for mine, theirs in zip(self.module.buffers(), other.module.buffers(), strict=True):
            mine.copy_(theirs)

    def buffers(self) -> dict[str, NDArray]:
        """Copies of what the module keeps beside its parameters, in PyTorch's sense: its persistent buffers."""
        return {name: tensor.detach().cpu().numpy().copy() for name, tensor in self._kept_buffers()}

    def _kept_buffers(self) -> list[tuple[str, Tensor]]:
        kept = self.module.state_dict()
        return [(name, tensor) for name, tensor in self.module.named_buffers() if name in kept]

    def load(self, parameters: Parameters) -> None:
        """Takes published parameters."""
        self.vector.copy_(torch.from_numpy(parameters.vector))
        for name, tensor in self._kept_buffers():
            tensor.copy_(torch.from_numpy(np.asarray(parameters.buffers[name])))


@final
class FlatModule(VectorModule):
    """A whole module in one vector."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        """Moves `module` to the device and rebinds its tensors; raises QfleetError if that cannot be done."""
        refuse_unflattenable(module)
        tensors = [parameter for parameter in module.to(device).parameters() if parameter.requires_grad]
        num = sum(tensor.numel() for tensor in tensors)
        super().__init__(module, torch.zeros(num, device=device), torch.zeros(num, device=device))
        self._tensors = tensors
        self.vector.copy_(torch.cat([tensor.detach().reshape(-1) for tensor in tensors]))
        self.rebind(self.vector)

    def rebind(self, vector: Tensor) -> None:
        """Lets the tensors be views into another vector, with what is in it."""
        self.vector, offset = vector, 0
        for tensor in self._tensors:
            end = offset + tensor.numel()
            tensor.data = vector[offset:end].view(tensor.shape)
            tensor.grad = self.gradient[offset:end].view(tensor.shape)
            offset = end


def refuse_unflattenable(module: nn.Module) -> None:
    """Raises QfleetError for parameters that cannot lie in one vector of float32."""
    for name, parameter in module.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise QfleetError(f"the network's {name} is lazy; run the network once on an observation first")
        if parameter.dtype != torch.float32:
            raise QfleetError(
                f"the network's {name} is {parameter.dtype}; only float32 parameters can be trained"
            )
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise QfleetError("the network has no parameter to train")


def module_input_shape(shape: NetworkShape) -> tuple[int, ...]:
    """What a module receives, after the batch axis.

    Channels-first images are stacked along the channels; other observations get a leading axis for the stack,
    if there is one.
    """
    layout = shape.layout
    if layout.is_image and not layout.channels_last:
        return (shape.frame_stack * layout.shape[0], *layout.shape[1:])
    return layout.shape if shape.frame_stack == 1 else (shape.frame_stack, *layout.shape)


class _Reshaped(nn.Module):
    """Gives a user's module its observations in their own shape."""

    def __init__(self, module: nn.Module, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.module, self._input_shape = module, input_shape

    def forward(self, observations: Tensor) -> Tensor:
        return self.module(observations.view(-1, *self._input_shape))


def users_module(module: nn.Module, shape: NetworkShape) -> nn.Module:
    """A copy of a user's module that takes flat observations; raises QfleetError if its output does not fit."""
    adapted = _Reshaped(copy.deepcopy(module), module_input_shape(shape))
    refuse_unflattenable(adapted)
    example = torch.from_numpy(np.zeros((2, shape.num_inputs), shape.layout.dtype))
    try:
        values = adapted.eval()(example)
    except Exception as error:
        raise QfleetError(
            f"the network cannot take observations of shape (batch, {', '.join(map(str, module_input_shape(shape)))}) "
            f"and dtype {shape.layout.dtype}: {' '.join(str(error).split())}"
        ) from error
    if tuple(values.shape) != (2, shape.num_actions):
        raise QfleetError(
            f"the network gives values of shape {tuple(values.shape)} for 2 observations; "
            f"they must be (2, {shape.num_actions}), one value an action"
        )
    return adapted


@final
class TorchPolicy(Policy):
    """A module that only acts."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self._flat = FlatModule(module, device)
        self.device = device
        module.eval()

    def load(self, parameters: Parameters) -> None:
        """Acts with these from now on."""
        self._flat.load(parameters)

    @torch.no_grad()
    def values(self, observations: NDArray) -> NDArray[np.float32]:
        """Q (num, num_actions)."""
        inputs = torch.from_numpy(observations).to(self.device)
        return self._flat.module(inputs).cpu().numpy()


class ModuleLearner(Learner):
    """What an update is, for networks that are modules, whole or split."""

    def __init__(
        self,
        config: DQNConfig,
        shape: NetworkShape,
        num_mask_actions: int,
        seed: int,
        *,
        online: VectorModule,
        target: VectorModule,
    ) -> None:
        super().__init__(config, shape, num_mask_actions, seed)
        self._online, self._target, self.device = online, target, online.vector.device
        self._online.module.train()
        self._target.module.eval()
        self._target.copy_from(self._online)
        self._moments = torch.zeros(2, len(self._online.vector), device=self.device)
        self._is_on_gpu = self.device.type == "cuda"

    @property
    def gpu(self) -> str:
        """What no other GPU is called, if the network is on one."""
        return str(torch.cuda.get_device_properties(self.device).uuid) if self._is_on_gpu else ""

    def _apart(self) -> AbstractContextManager[None]:
        """What is drawn inside is not missing outside."""
        return torch.random.fork_rng([self.device] if self._is_on_gpu else [])

    def _learn(self, view: ReplayView, num_updates: int, importance_exponent: float) -> int:
        with self._apart():
            return self._updates(view, num_updates, importance_exponent)

    def _updates(self, view: ReplayView, num_updates: int, importance_exponent: float) -> int:
        for i in range(num_updates):
            number = self.num_updates + i + 1
            draw(view, self.seed, number, importance_exponent, self._batch)
            loss, td_errors = self._backward(self._batch, number)
            if not np.isfinite(loss):
                return i
            norm = self._optimize(self._online.gradient, number)
            if not np.isfinite(norm):
                return i
            rule = self._rule
            update_priorities(view, self._batch.rows, td_errors, rule.priority_exponent, rule.priority_floor)
            self._sums += np.array([loss, np.mean(np.abs(td_errors), dtype=np.float64), norm])
        return num_updates

    def _gradient(self, batch: Batch) -> Gradient:
        with self._apart():
            loss, td_errors = self._backward(batch, self.num_updates + 1)
        return Gradient(self._online.gradient.cpu().numpy().copy(), loss, td_errors)

    def learn_with_others(self, batch: Batch, average: Callable[[Tensor], None]) -> NDArray[np.float32]:
        """Makes one update with the mean of several learners' gradients; the TD errors (batch,) of this minibatch.

        `average` puts that mean in the place of this one's gradient (num_parameters,), on its device. If one's loss or
        gradient is not finite, all raise NonFiniteError, with the values as they were.
        """
        with self._apart():
            loss, td_errors = self._backward(batch, self.num_updates + 1)
        if not np.isfinite(loss):
            # The others hear of it by the mean, and none waits for this one.
            self._online.gradient.fill_(math.nan)
        average(self._online.gradient)
        self._note_update(loss, td_errors, self._optimize(self._online.gradient, self.num_updates + 1))
        return td_errors

    def _apply(self, gradient: NDArray[np.float32], number: int) -> float:
        self._online.gradient.copy_(torch.from_numpy(gradient))
        return self._optimize(self._online.gradient, number)

    def _seed_noise(self, number: int) -> None:
        """What the module draws (dropout) in an update follows from its number, so that resuming repeats it."""
        noise_seed = (self.seed << 32) ^ number
        torch.default_generator.manual_seed(noise_seed)
        if self._is_on_gpu:
            with torch.cuda.device(self.device):
                torch.cuda.manual_seed(noise_seed)

    def _backward(self, batch: Batch, number: int) -> tuple[float, NDArray[np.float32]]:
        """Leaves the minibatch's gradient in the flat gradient; the loss, and TD errors (batch,)."""
        self._seed_noise(number)
        num = len(batch.actions)
        targets, td_errors = np.empty(num, np.float32), np.empty(num, np.float32)
        observations = torch.from_numpy(batch.observations).to(self.device)
        with torch.no_grad():
            next_values = self._target.module(observations[num:]).cpu().numpy()
            selecting = self._select(observations[num:]) if self._rule.double else next_values
        values = self._online.module(observations[:num])
        bootstrapped_targets(
            batch.rewards, batch.discounts, selecting, next_values, batch.next_action_masks, targets
        )
        found = values.detach().cpu().numpy()
        deltas, limit = np.empty_like(found), self._rule.huber_limit
        loss = td_loss(found, batch.actions, targets, batch.weights, limit, td_errors, deltas)
        self._online.gradient.zero_()
        values.backward(torch.from_numpy(deltas).to(self.device))
        return loss, td_errors

    def _select(self, observations: Tensor) -> NDArray[np.float32]:
        """The online network's values, without moving its running statistics."""
        self._online.module.eval()
        values = self._online.module(observations).cpu().numpy()
        self._online.module.train()
        return values

    def _optimize(self, gradient: Tensor, number: int) -> float:
        """Update `number`: Adam, and the target's move if one is due; the gradient's norm, if finite."""
        norm = self._adam(gradient, number)
        if np.isfinite(norm) and number % self._rule.target_update_every_updates == 0:
            self.move_target()
        return norm

    @abstractmethod
    def _adam(self, gradient: Tensor, number: int) -> float:
        """Clips the gradient and makes the optimizer's step, unless the norm, which is returned, is not finite."""

    def move_target(self) -> None:
        """Towards the online one."""
        rate = self._rule.target_update_rate
        if rate >= 1:
            self._target.copy_from(self._online)
        elif self.device.type == "cpu":
            move_towards(self._target.vector.numpy(), self._online.vector.numpy(), rate)
        else:
            self._target.vector.lerp_(self._online.vector, rate)

    def publish(self) -> Parameters:
        """A copy of the parameters."""
        vector = self._online.vector.detach().cpu().numpy().copy()
        return Parameters(self.num_updates, vector, self._online.buffers())

    def set_parameters(self, parameters: Parameters) -> None:
        """Goes on from these."""
        self._online.load(parameters)

    def share(self, vectors: NDArray[np.float32]) -> None:
        """From now on learns in memory that others learn in too."""
        if self.device.type != "cpu":
            raise QfleetError(
                f"a network on {self.device.type} cannot share its parameters in the host's memory; --device cpu can"
            )
        self._online.rebind(torch.from_numpy(vectors[0]))
        self._target.rebind(torch.from_numpy(vectors[1]))
        self._moments = torch.from_numpy(vectors[2:])

    def warm_start(self, parameters: Parameters) -> None:
        """Begins from another run's parameters."""
        check_same_network(len(self._online.vector), parameters)
        self._online.load(parameters)
        self._target.copy_from(self._online)

    def save_state(self) -> dict[str, Any]:
        """The vectors and both networks' buffers."""
        return {
            "parameters": self._online.vector.cpu().numpy().copy(),
            "target": self._target.vector.cpu().numpy().copy(),
            "moments": self._moments.cpu().numpy().copy(),
            "buffers": self._online.buffers(),
            "target_buffers": self._target.buffers(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Puts everything back."""
        self._online.load(Parameters(self.num_updates, state["parameters"], state["buffers"]))
        self._target.load(Parameters(self.num_updates, state["target"], state["target_buffers"]))
        self._moments.copy_(torch.from_numpy(state["moments"]))


@final
class TorchLearner(ModuleLearner):
    """A learner whose network is a PyTorch module."""

    def __init__(
        self,
        config: DQNConfig,
        shape: NetworkShape,
        num_mask_actions: int,
        seed: int,
        *,
        make_module: Callable[[], nn.Module],
        device: torch.device,
    ) -> None:
        self._make_module = make_module
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            online, target = FlatModule(make_module(), device), FlatModule(make_module(), device)
        super().__init__(config, shape, num_mask_actions, seed, online=online, target=target)

    def policy(self) -> TorchPolicy:
        """A module of the same shape to act with."""
        return TorchPolicy(self._make_module(), self.device)

    def _adam(self, gradient: Tensor, number: int) -> float:
        rule, flat = self._rule, self._online
        step = adam if self.device.type == "cpu" else adam_on_device
        convert = (lambda tensor: tensor.numpy()) if self.device.type == "cpu" else (lambda tensor: tensor)
        return step(
            convert(flat.vector),
            convert(gradient),
            convert(self._moments[0]),
            convert(self._moments[1]),
            number,
            rule.learning_rate,
            rule.adam_epsilon,
            rule.max_gradient_norm,
        )


def adam_on_device(
    parameters: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    num_updates: int,
    learning_rate: float,
    epsilon: float,
    max_norm: float,
) -> float:
    """`qfleet.deep.optimizer.adam` for tensors that live on a device; arguments and result are the same."""
    norm = float(torch.linalg.vector_norm(gradient))
    if not math.isfinite(norm):
        return norm
    if norm > max_norm:
        gradient = gradient * (max_norm / (norm + 1e-6))
    first.lerp_(gradient, 0.1)
    second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
    denominator = second.sqrt().div_((1 - 0.999**num_updates) ** 0.5).add_(epsilon)
    parameters.addcdiv_(first, denominator, value=-learning_rate / (1 - 0.9**num_updates))
    return norm
