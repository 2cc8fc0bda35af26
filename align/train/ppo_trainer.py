"""PPO's trainer, on TRL 1.16's GRPO trainer: answers, scores and the reference are TRL's; the critic and the loss,
ours.

One batch of answers is scored, valued and turned into advantages once, and learned from in several passes. The critic's
weights are parameters of the one optimiser, so that its state is saved and restored with the policy's. Imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import gather
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from align.config.training import Ppo
from align.errors import ConfigError
from align.ids import seed_for
from align.store import read_json, write_json
from align.train import advantages as adv
from align.train.critic import SharedHead
from align.train.lanes import deal, lanes_for, learn
from align.train.online_trainer import OnlineMixin
from align.train.padding_free import CHUNK_TOKENS, by_chunks
from align.train.trl_online import GRPOTrainer

CRITIC_FILE, CONTROL_FILE = "critic.safetensors", "kl_control.json"
PIECES = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "old_per_token_logps", "advantages", "returns", "values", "mask")  # fmt: skip
SEEN = ("loss/policy", "loss/value", "clip_share", "approx_kl", "entropy")
"""What is logged of a pass, each a mean over its tokens."""
GROUP_METRICS = ("frac_reward_zero_std",)
"""What TRL logs about groups of answers to one prompt, which a critic does not need."""


class PpoTrainer(OnlineMixin, GRPOTrainer):  # type: ignore[misc]
    """`ppo` are the options; `critic` is a module from `align.train.critic`."""

    beta: float
    _buffered_inputs: dict[str, Any] | None

    def __init__(self, *, ppo: Ppo, critic: nn.Module, **given: Any) -> None:
        super().__init__(**given)
        self.ppo = ppo
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ConfigError(
                "PPO's policy cannot be sharded over processes", where="ppo", hint="leave `accelerate` out"
            )
        if isinstance(critic, SharedHead):
            critic.watch(self.accelerator.unwrap_model(self.model))
        self.critic = self.accelerator.prepare_model(critic)
        if not isinstance(critic, SharedHead):  # which looks at the policy's newest pass, whosever it is
            both = nn.ModuleList([self.accelerator.unwrap_model(self.model), critic])
            self.lanes = lanes_for(
                both, self.model.config, self.args.device, checkpointing=self.args.gradient_checkpointing
            )

    # The critic trains with the policy

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """One more group of parameters: schedule, saving and resuming cover it."""
        made = self.optimizer is not None
        optimizer = super().create_optimizer(*args, **kwargs)
        if not made:
            rate = self.ppo.value_learning_rate or self.args.learning_rate
            weights = [weight for weight in self.critic.parameters() if weight.requires_grad]
            optimizer.add_param_group({"params": weights, "lr": rate, "weight_decay": 0.0})

            def clip(*_: Any) -> None:
                """The trainer clips and zeroes the policy's gradients alone."""
                if self.args.max_grad_norm:
                    nn.utils.clip_grad_norm_(weights, self.args.max_grad_norm)

            optimizer.register_step_pre_hook(clip)
            optimizer.register_step_post_hook(lambda *_: self.critic.zero_grad())
        return optimizer

    # A batch of answers

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """Every pass over a batch of answers has an order of its own."""
        in_a_pass = self.args.steps_per_generation
        done = self._step % (in_a_pass * self.num_iterations)
        if done == 0 or self._buffered_inputs is None:
            self._buffered_inputs = self._generate_and_score_completions(generation_batch)
            self._answered_at = self.state.global_step
        number, piece = divmod(done, in_a_pass)
        batch = self._buffered_inputs
        order = torch.Generator().manual_seed(seed_for("pass", self.args.seed, self._answered_at, number) % 2**32)
        rows = torch.randperm(len(batch["mask"]), generator=order).chunk(in_a_pass)[piece].to(batch["mask"].device)
        return {**{name: batch[name][rows] for name in PIECES}, "tokens": batch["tokens"]}

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        self._scores = cast(Tensor, super()._calculate_rewards(*args, **kwargs))  # of all processes
        return self._scores

    @torch.no_grad()
    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's batch with what PPO needs: old log-probabilities, values, advantages, returns, and `mask`.

        The mask is 0 throughout an answer without a score.
        """
        out = super()._generate_and_score_completions(inputs)
        for name in GROUP_METRICS:
            self._metrics["train"].pop(name, None)
        ids_BT = torch.cat([out["prompt_ids"], out["completion_ids"]], 1)
        seen_BT = torch.cat([out["prompt_mask"], out["completion_mask"]], 1)
        answer = out["completion_ids"].size(1)
        if "old_per_token_logps" not in out:
            found = self._get_per_token_logps_and_entropies(self.model, ids_BT, seen_BT, answer, len(ids_BT))
            out["old_per_token_logps"] = found[0]
        mine = slice(self.accelerator.process_index * len(ids_BT), (self.accelerator.process_index + 1) * len(ids_BT))
        score_B = self._scores[mine, 0]
        out["mask"] = out["completion_mask"].float() * ~score_B.isnan()[:, None]
        score_B = score_B.nan_to_num() - self._penalty(out)
        out["values"] = self._values(ids_BT, seen_BT, answer) * out["mask"]
        self._learnable(out, score_B)
        out["tokens"] = self._per_piece(out["mask"])
        return out

    def _penalty(self, out: dict[str, Any]) -> Tensor:
        """What is taken off the scores of answers that have no stop token."""
        stops = torch.tensor(self.eos_token_ids, device=out["completion_ids"].device)
        ended_BT = torch.isin(out["completion_ids"], stops) & out["completion_mask"].bool()
        return (self.ppo.missing_eos_penalty or 0.0) * (~ended_BT.any(1)).float()

    def _learnable(self, out: dict[str, Any], score_B: Tensor) -> None:
        """Put advantages and returns into the batch, and change `beta` where it follows the divergence."""
        mask_BT, values_BT = out["mask"], out["values"]
        reference_BT = out.pop("ref_per_token_logps", None)
        log_ratio_BT = torch.zeros_like(mask_BT)
        if reference_BT is not None:
            log_ratio_BT = (out["old_per_token_logps"] - reference_BT) * mask_BT
        rewards_BT = adv.token_rewards(score_B, log_ratio_BT, mask_BT, beta=self.beta)
        if self.ppo.whiten_rewards:
            rewards_BT = adv.whiten(rewards_BT, mask_BT, keep_mean=True)
        advantages_BT, out["returns"] = adv.gae(rewards_BT, values_BT, mask_BT, gamma=self.ppo.gamma, lam=self.ppo.lam)
        out["advantages"] = adv.whiten(advantages_BT, mask_BT) if self.ppo.whiten_advantages else advantages_BT
        seen = self._metrics["train"]
        seen["explained_variance"].append(adv.explained_variance(values_BT, out["returns"], mask_BT))
        if reference_BT is None:
            return
        answers, tokens, nats = gather(
            torch.stack([mask_BT.any(1).sum().float(), mask_BT.sum(), log_ratio_BT.sum()])[None]
        ).sum(0).tolist()  # fmt: skip
        seen["kl"].append(nats / max(tokens, 1))
        seen["kl_per_answer"].append(nats / max(answers, 1))
        seen["beta"].append(self.beta)
        if self.ppo.target_kl is not None:
            found = nats / max(answers, 1)
            self.beta = adv.adapted_beta(self.beta, found, target=self.ppo.target_kl, gain=self.ppo.kl_gain)

    def _per_piece(self, mask_BT: Tensor) -> float:
        """Tokens in a forward pass on average, by which its loss is divided: so every token of a batch weighs the
        same."""
        tokens = gather(mask_BT.sum()[None]).sum().item()
        return max(tokens / self.accelerator.num_processes / self.args.steps_per_generation, 1.0)

    def _values(self, ids_BT: Tensor, seen_BT: Tensor, answer: int) -> Tensor:
        """The critic's value before each token of the answers; shape [answers, answer]."""

        def of_chunk(ids: Tensor, seen: Tensor, width: int) -> list[Tensor]:
            with self.accelerator.autocast():
                return [self.critic(ids, seen)[:, -width - 1 : -1].float()]

        return cast(Tensor, by_chunks(of_chunk, ids_BT, seen_BT, answer, lanes=self.lanes)[0])

    # The loss

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """With several lanes, each learns from its share of the answers (`align.train.lanes.learn`)."""
        if self.lanes == 1:
            return cast(Tensor, super().training_step(model, inputs, num_items_in_batch))
        model.train()
        batch = self._prepare_inputs(inputs)
        trained = [w for part in (model, self.critic) for w in part.parameters() if w.requires_grad]

        def passes(mine: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
            rows = torch.tensor(sorted(mine))
            with self.compute_loss_context_manager():
                found = self._loss_and_sums(model, {n: v[rows] if n in PIECES else v for n, v in batch.items()})
            yield found

        sizes = (batch["prompt_mask"].sum(1) + batch["completion_mask"].sum(1)).tolist()
        loss, sums = learn(trained, deal(sizes, self.lanes), passes)
        self._note(sums)
        self._step += 1
        return loss

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        loss, sums = self._loss_and_sums(model, inputs)
        self._note(sums)
        return loss

    def _loss_and_sums(self, model: Any, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """The loss, and sums over tokens of what `SEEN` names; the last is how many tokens there are."""
        ids_BT = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
        seen_BT = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
        mask_BT, size = inputs["mask"], inputs["tokens"]

        def of_chunk(ids: Tensor, seen: Tensor, width: int) -> list[Any]:
            logps, entropy, _ = GRPOTrainer._get_per_token_logps_and_entropies(
                self, model, ids, seen, width, compute_entropy=True
            )
            with self.accelerator.autocast():
                return [logps, entropy, self.critic(ids, seen)[:, -width - 1 : -1].float()]

        mine = CHUNK_TOKENS[ids_BT.device.type] // self.lanes  # this is one of the lanes
        parts = by_chunks(of_chunk, ids_BT, seen_BT, mask_BT.size(1), tokens=mine)
        logps_BT, entropy_BT, values_BT = cast(list[Tensor], parts)
        policy, held = adv.policy_loss(
            logps_BT, inputs["old_per_token_logps"], inputs["advantages"], mask_BT, clip=self.ppo.clip
        )
        value = adv.value_loss(values_BT, inputs["values"], inputs["returns"], mask_BT, clip=self.ppo.value_clip)
        tokens = mask_BT.sum()
        moved = ((logps_BT - inputs["old_per_token_logps"]).detach() ** 2 * mask_BT).sum() / 2
        entropy = (entropy_BT.detach() * mask_BT).sum()
        weight = self.ppo.value_weight if self.ppo.critic == "shared" else 1.0
        loss = (policy + weight * value) / size / self.current_gradient_accumulation_steps
        return loss, torch.stack([policy.detach(), value.detach(), held * tokens, moved, entropy, tokens])

    def _note(self, sums_S: Tensor) -> None:
        *sums, tokens = sums_S
        for name, number in zip(SEEN, sums, strict=True):
            self._metrics["train"][name].append(gather((number / tokens.clamp(min=1))[None]).mean().item())

    # Checkpoints

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            save_file({name: weight.detach().contiguous() for name, weight in self._trained()}, folder / CRITIC_FILE)
            write_json(folder / CONTROL_FILE, {"beta": self.beta})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        saved = load_file(Path(resume_from_checkpoint) / CRITIC_FILE)
        with torch.no_grad():
            for name, weight in self._trained():
                weight.copy_(saved[name])
        self.beta = read_json(Path(resume_from_checkpoint) / CONTROL_FILE)["beta"]

    def _trained(self) -> list[tuple[str, Tensor]]:
        """The critic's weights that training changes."""
        critic = self.accelerator.unwrap_model(self.critic)
        return [(name, weight) for name, weight in critic.named_parameters() if weight.requires_grad]
