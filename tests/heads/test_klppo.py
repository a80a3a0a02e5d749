"""KLPPO is PPO, bit for bit, plus a divergence from the teacher that holds the policy back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from torch.distributions import Categorical, kl_divergence

from tests.heads.small import LATENT, LatentEnv, small_heads, small_state
from vpt_gym.errors import OptionError, VPTGymError
from vpt_gym.heads import KLPPO, PretrainedHeadPolicy, VPTHeads

LATENTS = torch.randn(2000, LATENT, generator=torch.Generator().manual_seed(7))
CLOCK = {"time/fps", "time/time_elapsed"}


class Record(Logger):
    """Stable-Baselines3's logger, which besides keeps what each iteration logged."""

    def __init__(self) -> None:
        super().__init__(folder=None, output_formats=[])
        self.dumps: list[dict[str, Any]] = []

    def dump(self, step: int = 0) -> None:
        self.dumps.append(dict(self.name_to_value))
        super().dump(step)


def build(algorithm: type[PPO] = KLPPO, env: Any = None, **options: Any) -> Any:
    options = {"n_steps": 32, "batch_size": 16, "n_epochs": 3, "learning_rate": 1e-2, "seed": 0} | options
    options.setdefault("policy_kwargs", {"heads": small_heads()})
    model = algorithm(PretrainedHeadPolicy, LatentEnv() if env is None else env, device="cpu", **options)
    model.set_logger(Record())
    return model


def log_probabilities(policy: PretrainedHeadPolicy) -> list[torch.Tensor]:
    with torch.no_grad():
        return [part.logits for part in policy.get_distribution(LATENTS).distribution]


def log_probabilities_of(heads: VPTHeads, latents: torch.Tensor) -> list[torch.Tensor]:
    parts = []
    for part in ("buttons", "camera"):
        weight, bias = (heads.tensor(f"pi_head.{part}.linear_layer.{kind}") for kind in ("weight", "bias"))
        parts.append(((latents @ weight.T + bias) / heads.temperature).log_softmax(dim=1))
    return parts


def divergence(policy: PretrainedHeadPolicy, heads: VPTHeads) -> float:
    """KL(heads, policy), the mean over many latents, by torch's own formula."""
    pairs = zip(log_probabilities_of(heads, LATENTS), log_probabilities(policy), strict=True)
    return sum(float(kl_divergence(Categorical(logits=t), Categorical(logits=s)).mean()) for t, s in pairs)


@pytest.mark.parametrize("ent_coef", [0.0, 0.03])
@pytest.mark.parametrize("adapters", [None, 5])
@pytest.mark.parametrize("target_kl", [None, 0.01])
def test_with_coefficient_0_it_is_ppo_bit_for_bit(
    ent_coef: float, adapters: int | None, target_kl: float | None
) -> None:
    options = {
        "ent_coef": ent_coef,
        "target_kl": target_kl,
        "policy_kwargs": {"heads": small_heads(), "adapters": adapters},
    }
    models = []
    for algorithm, only_ours in ((PPO, {}), (KLPPO, {"kl_coef": 0})):
        models.append(build(algorithm, **options, **only_ours))  # seeds everything
        models[-1].learn(32 * 5)
    plain, ours = models
    theirs = plain.policy.state_dict()
    assert set(theirs) == set(ours.policy.state_dict())
    for name, tensor in ours.policy.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name
    assert len(plain.logger.dumps) == len(ours.logger.dumps) == 5
    for expected, logged in zip(plain.logger.dumps, ours.logger.dumps, strict=True):
        extra = {"train/kl_coef", "train/kl_to_teacher"} & set(logged)
        assert {k: v for k, v in logged.items() if k not in CLOCK | extra} == {
            k: v for k, v in expected.items() if k not in CLOCK
        }
    assert ours.logger.name_to_value["train/kl_coef"] == 0
    assert ours.logger.name_to_value["train/kl_to_teacher"] > 0


@pytest.mark.parametrize("ent_coef", [0.0, 0.05])
@pytest.mark.parametrize("adapters", [None, 5])
def test_one_step_follows_the_loss_of_the_paper(ent_coef: float, adapters: int | None) -> None:
    """One step of plain descent on one minibatch: its gradient is that of PPO's loss plus kl_coef * KL(teacher, policy)."""
    torch.manual_seed(3)
    options = {"n_epochs": 1, "batch_size": 32, "max_grad_norm": 1e9, "learning_rate": 1.0, "ent_coef": ent_coef}
    sgd = {"optimizer_class": torch.optim.SGD, "adapters": adapters, "heads": small_heads()}
    after = {}
    for kl_coef in (0.0, 0.7):
        model = build(kl_coef=kl_coef, policy_kwargs=dict(sgd), **options)
        with torch.no_grad():  # away from the teacher, where the divergence has a slope
            noise = torch.Generator().manual_seed(9)
            for parameter in model.policy.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=noise))
        before = {name: parameter.detach().clone() for name, parameter in model.policy.named_parameters()}
        model.learn(32)
        after[kl_coef] = {name: parameter.detach().clone() for name, parameter in model.policy.named_parameters()}
    # The last model's rollout was made before its one update, by the same policy as the first's.
    latents = torch.as_tensor(model.rollout_buffer.observations.reshape(32, LATENT))
    policy = model.policy
    policy.load_state_dict(before, strict=False)
    teacher = log_probabilities_of(small_heads(), latents)
    student = [part.logits for part in policy.get_distribution(latents).distribution]
    kl = sum((t.exp() * (t - s)).sum(dim=1).mean() for t, s in zip(teacher, student, strict=True))
    measured = float(kl.detach())
    assert measured > 0.01
    assert model.logger.name_to_value["train/kl_to_teacher"] == pytest.approx(measured, rel=1e-4)
    policy.zero_grad()
    (0.7 * kl).backward()
    for name, parameter in policy.named_parameters():
        slope = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(after[0.0][name] - after[0.7][name], slope, atol=2e-5, rtol=1e-3)
    moved = [name for name, parameter in policy.named_parameters() if parameter.grad is not None]
    assert "action_net.weight" in moved
    assert not any(name.startswith("value_net") for name in moved)


def test_entropy_is_logged_as_it_is_and_the_coefficient_restored() -> None:
    model = build(ent_coef=0.05, n_epochs=1, batch_size=32)
    model.learn(32)
    logged = model.logger.name_to_value
    # The one minibatch is seen before anything is learnt, by the untrained policy.
    latents = torch.as_tensor(model.rollout_buffer.observations.reshape(32, LATENT))
    entropy = sum(
        float(-(part.exp() * part).sum(dim=1).mean()) for part in log_probabilities_of(small_heads(), latents)
    )
    assert logged["train/entropy_loss"] == pytest.approx(-entropy, rel=1e-5)
    assert logged["train/kl_to_teacher"] == pytest.approx(0, abs=1e-6)
    assert logged["train/kl_coef"] == 0.2
    assert model.ent_coef == 0.05


def test_the_coefficient_decays_with_each_iteration() -> None:
    model = build(kl_coef=0.5, kl_decay=0.9)
    model.learn(32 * 4)
    assert model.kl_coef == pytest.approx(0.5 * 0.9**4)
    logged = [dump["train/kl_coef"] for dump in model.logger.dumps[1:]] + [model.logger.name_to_value["train/kl_coef"]]
    assert logged == pytest.approx([0.5, 0.45, 0.405, 0.3645])


def test_the_papers_coefficients_are_the_defaults() -> None:
    assert (build().kl_coef, build().kl_decay) == (0.2, 0.9995)


@pytest.mark.parametrize("adapters", [None, 5])
def test_a_saved_model_goes_on_where_it_stopped(adapters: int | None, tmp_path: Path) -> None:
    """With the decayed coefficient and the teacher as it was, and without the weights that it came from."""
    model = build(kl_coef=0.5, kl_decay=0.9, policy_kwargs={"heads": small_heads(), "adapters": adapters})
    model.learn(64)
    model.save(tmp_path / "model.zip")
    loaded = KLPPO.load(tmp_path / "model.zip", device="cpu")
    assert loaded.policy_kwargs["heads"].is_empty
    assert (loaded.kl_coef, loaded.kl_decay) == (pytest.approx(0.405), 0.9)
    assert loaded.teacher.temperature == 2.0
    assert not any(parameter.requires_grad for parameter in loaded.teacher.parameters())
    for each in (model, loaded):
        each.set_env(make_vec_env(LatentEnv, n_envs=1, seed=5))
        each.set_logger(Record())
        each.set_random_seed(6)
        each.learn(64)
    assert loaded.kl_coef == pytest.approx(0.5 * 0.9**4)
    for name, tensor in loaded.policy.state_dict().items():
        assert torch.equal(tensor, model.policy.state_dict()[name])
    assert loaded.logger.name_to_value["train/kl_to_teacher"] == model.logger.name_to_value["train/kl_to_teacher"]


def test_the_teacher_does_not_learn() -> None:
    model = build()
    model.learn(64)
    fresh = build().teacher
    assert torch.equal(model.teacher.weight, fresh.weight)
    assert torch.equal(model.teacher.bias, fresh.bias)
    assert not torch.equal(model.policy.action_net.weight, fresh.weight)


@pytest.mark.parametrize("kl_coef", [0.0, 0.2])
def test_the_teacher_costs_one_matrix_product(kl_coef: float) -> None:
    """It runs once for each minibatch, and so does the student's head: the divergence is of what PPO has computed anyway."""
    model = build(kl_coef=kl_coef, n_epochs=3, batch_size=8)
    model.learn(32)
    calls = {"teacher": 0, "student": 0}
    for name, head in (("teacher", model.teacher), ("student", model.policy.action_net)):

        def count(*_: Any, name: str = name) -> None:
            calls[name] += 1

        head.register_forward_hook(count)
    model.train()  # once more on the same rollout
    assert calls == {"teacher": 12, "student": 12}


def test_parameters_taken_and_put_hold_the_teacher() -> None:
    model, other = build(), build(policy_kwargs={"heads": small_heads(seed=1)})
    model.learn(32)
    other.set_parameters(model.get_parameters())
    assert torch.equal(other.teacher.weight, model.teacher.weight)
    assert torch.equal(other.policy.action_net.weight, model.policy.action_net.weight)
    untouched = build(policy_kwargs={"heads": small_heads(seed=1)})
    assert not torch.equal(untouched.teacher.weight, other.teacher.weight), "the heads themselves were overwritten"


def test_coefficients_may_be_numpys_and_are_checked_again_before_training() -> None:
    model = build(kl_coef=np.float32(0.5))
    model.learn(32)
    model.kl_coef = float("nan")
    with pytest.raises(VPTGymError, match="kl_coef must be a number from 0 on, not nan"):
        model.learn(32)


def test_a_failure_in_training_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(ent_coef=0.05)

    def fail(self: PPO) -> None:
        assert self.ent_coef == 1.0
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PPO, "train", fail)
        with pytest.raises(KeyboardInterrupt):
            model.learn(32)
    assert model.ent_coef == 0.05
    assert model.kl_coef == 0.2
    latents, actions = LATENTS[:4], torch.zeros(4, 2)
    entropies = [
        model.policy.evaluate_actions(latents, actions)[2],
        build(PPO).policy.evaluate_actions(latents, actions)[2],
    ]
    assert torch.equal(*entropies)


def test_probabilities_too_small_for_a_float_have_a_finite_divergence() -> None:
    state = small_state()
    state["pi_head.buttons.linear_layer.bias"] = torch.tensor([0.0, -300.0, 0, 0, 0, 0])
    heads = VPTHeads.from_state_dict(state)
    model = build(policy_kwargs={"heads": heads})
    with torch.no_grad():
        model.policy.action_net.bias[0] -= 200
    before = model.policy.action_net.bias[0].item()
    model.learn(32)
    assert np.isfinite(model.logger.name_to_value["train/kl_to_teacher"])
    assert all(bool(parameter.isfinite().all()) for parameter in model.policy.parameters())
    assert model.policy.action_net.bias[0].item() > before, "the divergence pulls the lost action back"


LEARNING = {"n_steps": 256, "batch_size": 64, "n_epochs": 4, "learning_rate": 1e-2, "gamma": 0.0}


def test_a_reward_is_learnt_while_the_divergence_is_held() -> None:
    """One button is rewarded, which the heads press in every fifth step. PPO forgets the others; KLPPO presses it more."""
    heads = small_heads(1.0)
    reached = {}
    for name, algorithm, options in (("ppo", PPO, {}), ("klppo", KLPPO, {"kl_coef": 1.0, "kl_decay": 1.0})):
        model = build(algorithm, policy_kwargs={"heads": heads}, **LEARNING, **options)
        start = float(log_probabilities(model.policy)[0][:, 0].exp().mean())
        model.learn(256 * 20)
        reward = float(log_probabilities(model.policy)[0][:, 0].exp().mean())
        reached[name] = reward, divergence(model.policy, heads)
        print(f"{name}: reward a step {start:.3f} -> {reward:.3f}, divergence {reached[name][1]:.3f}")
        assert start < 0.25
    assert reached["klppo"][0] > 0.45
    assert reached["klppo"][1] < 0.8
    assert reached["ppo"][1] > 1.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kl_coef": -0.1}, "kl_coef must be a number from 0 on, not -0.1; VPT began with 0.2"),
        ({"kl_coef": float("inf")}, "kl_coef must be a number from 0 on"),
        ({"kl_coef": float("nan")}, "kl_coef must be a number from 0 on"),
        ({"kl_coef": 10**400}, "kl_coef must be a number from 0 on"),
        ({"kl_coef": "0.2"}, "kl_coef must be a number from 0 on"),
        ({"kl_decay": 0}, "kl_decay must be above 0 and at most 1, not 0; VPT took 0.9995"),
        ({"kl_decay": 1.01}, "kl_decay must be above 0 and at most 1"),
        ({"kl_decay": None}, "kl_decay must be above 0 and at most 1"),
    ],
)
def test_coefficients_that_are_none(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=message):
        build(**options)
    build().save(tmp_path / "model.zip")
    with pytest.raises(OptionError, match=message):
        KLPPO.load(tmp_path / "model.zip", device="cpu", **options)


def test_another_policy_has_no_teacher() -> None:
    with pytest.raises(VPTGymError, match="KLPPO trains a PretrainedHeadPolicy, not ActorCriticPolicy") as caught:
        KLPPO("MlpPolicy", LatentEnv(), device="cpu")  # type: ignore[arg-type]
    assert '"heads": encoder.heads' in str(caught.value)


def test_a_file_of_ppo_is_refused_and_the_remedy_works(tmp_path: Path) -> None:
    """The policy goes on from PPO's, and stays near VPT's heads."""
    trained = build(PPO)
    trained.learn(32)
    trained.save(tmp_path / "model.zip")
    with pytest.raises(
        VPTGymError, match="hold no teacher, so PPO or another algorithm saved them, not KLPPO"
    ) as caught:
        KLPPO.load(tmp_path / "model.zip", device="cpu")
    assert "model.policy.load_state_dict(PPO.load(path).policy.state_dict())" in str(caught.value)
    model = build()
    model.policy.load_state_dict(PPO.load(tmp_path / "model.zip", device="cpu").policy.state_dict())
    assert torch.equal(model.policy.action_net.weight, trained.policy.action_net.weight)
    assert torch.equal(model.teacher.weight, build().teacher.weight)
    model.learn(32)
    assert model.logger.name_to_value["train/kl_to_teacher"] > 0
    # Some of the parameters may be put, as with every algorithm.
    model.set_parameters({"policy": trained.policy.state_dict()}, exact_match=False)
    assert torch.equal(model.policy.action_net.weight, trained.policy.action_net.weight)
