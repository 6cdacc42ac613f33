"""Train a head: the target gives hidden states and laws as its texts stream by, the head is unrolled over them.

A run ends by the clock, and one that was cut off goes on from its last checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reader_theory.errors import require
from runtime.drafters.head.checkpoint import save_head
from runtime.drafters.head.network import HeadNetwork, rotations
from runtime.drafters.head.unrolled import unrolled
from runtime.training.heads.losses import summed
from runtime.training.heads.objectives import OBJECTIVES, PPOW
from runtime.training.heads.ppow import (
    GROUP,
    REWARDS,
    choose_windows,
    expected_reward,
    named,
    priorities,
    rollouts,
    surrogate,
    window_laws,
)
from runtime.training.heads.texts import PADDING, Texts
from runtime.training.heads.watching import Watched, cast_as, embedding_of, laws_of, watch
from runtime.training.house.optimisation import Optimisers

__all__ = ["HeadRegime", "train_head"]

ROLE_WEIGHTS = (0.0, 0.1, 0.3, 1.0)
"""What a position counts by who wrote the token that is drafted there: nobody, the prompt, the user, the target."""
SAVED_EVERY_S = 60.0
WINDOWS, ANCHOR = 16, 3.0
"""Windows of a row in an update of ppow, and the weight of KL to the target beside the reward."""
LAWS = 1 << 26
"""Chances in the laws along all rollouts of an update, above which it takes fewer windows: each law is held whole."""

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.monotonic, "process": time.process_time}

Tell = Callable[[float, str], None]


@dataclass(frozen=True)
class HeadRegime:
    """How a head is trained.

    Attributes
    ----------
    minutes : float
        By `clock`, earlier parts of a resumed run counted in.
    clock : str
        One of `CLOCKS`: the wall's, or the process's own time, which others on the machine do not use up.
    steps : int
        Draft steps that it is unrolled over.
    objective : str
        One of `OBJECTIVES`, or ``ppow``: "kl" for a share `warm` of the run, then the reward of windows, with that for
        an anchor.
    windows, reward : str
        Of ppow: "uniform" or "adaptive"; one of `REWARDS`.
    warm : float
        Share of a ppow run that is its first stage.
    decay : float
        Weight of each step beside the one before.
    batch_tokens : int
    rate : float
        Scale of the optimisers' rates.
    most_updates : int or None
        Ends a run as well.
    """

    minutes: float
    steps: int = 3
    objective: str = "kl"
    windows: str = "adaptive"
    reward: str = "accepted"
    warm: float = 0.5
    decay: float = 1.0
    batch_tokens: int = 8192
    rate: float = 1.0
    seed: int = 0
    most_updates: int | None = None
    clock: str = "wall"

    def __post_init__(self) -> None:
        require(
            self.objective in (*OBJECTIVES, PPOW),
            f"`objective` must be one of {', '.join((*OBJECTIVES, PPOW))}",
            got=repr(self.objective),
            fix='"kl" is the usual one.',
        )
        require(
            self.windows in ("uniform", "adaptive") and self.reward in REWARDS and 0 <= self.warm <= 1,
            f"`windows` must be uniform or adaptive, `reward` one of {', '.join(REWARDS)}, `warm` in [0, 1]",
            got=f"{self.windows!r}, {self.reward!r}, {self.warm}",
            fix="Leave them out for adaptive windows, the published reward, and half a run of KL before.",
        )
        require(
            self.clock in CLOCKS and (self.most_updates is None or self.most_updates >= 1),
            f"`clock` must be one of {', '.join(CLOCKS)}, and `most_updates` at least 1",
            got=f"{self.clock!r}, {self.most_updates}",
            fix="Leave them out for minutes of the wall's clock.",
        )
        require(
            self.minutes > 0 and self.steps >= 1 and self.batch_tokens >= 16 and 0 < self.rate <= 10,
            "`minutes` must be positive, `steps` at least 1, `batch_tokens` at least 16, `rate` above 0 and at most 10",
            got=f"{self.minutes}, {self.steps}, {self.batch_tokens}, {self.rate}",
            fix="Give the run some time; a rate of 1 is that of a head which begins, .1 that of one which is trained.",
        )


def train_head(
    target: Any,
    network: HeadNetwork,
    texts: Texts,
    regime: HeadRegime,
    folder: Path,
    *,
    name: str,
    tokenizer: str = "",
    tell: Tell = lambda _done, _text: None,
) -> Watched:
    """Train `network` in place and write it to `folder`; its acceptance on held-out documents in the end.

    Parameters
    ----------
    target : transformers causal model, on the device that the run is to take
    name : str
        Of the target, as the checkpoint tells it.
    tokenizer : str
        Its tokenizer's fingerprint: the head is refused beside any other.
    tell : callable, optional
        Told the share done and a line about it.
    """
    run = _Run(target, network, texts, regime, folder, (name, tokenizer))
    return run.train(tell)


class _Run:
    def __init__(
        self, target: Any, network: HeadNetwork, texts: Texts, regime: HeadRegime, folder: Path, names: tuple[str, str]
    ) -> None:
        self.target, self.regime, self.folder = target.eval(), regime, folder
        self.name, self.tokenizer = names
        self.device = torch.device(target.device)
        self.network = network.to(self.device).float().train().requires_grad_(True)
        self.train_on, self.held = texts.split(regime.seed)
        self.turns = rotations(network.shape, texts.tokens.shape[1], self.device)
        self.optimisers = Optimisers(self.network, scale=regime.rate)
        self.updates, self.seen, self.spent_s, self.reward = 0, 0, 0.0, 0.0
        self.curve: list[dict[str, Any]] = []
        self._resume()

    @property
    def state_file(self) -> Path:
        """Where a run that was cut off goes on from."""
        return self.folder / "resume.pt"

    def _resume(self) -> None:
        if not self.state_file.is_file():
            return
        held = torch.load(self.state_file, map_location=self.device, weights_only=True)
        told = asdict(self.regime) | {"shape": self.network.shape.told()}
        longer = {"minutes", "most_updates"}
        same = {key: value for key, value in told.items() if key not in longer}
        before = {key: value for key, value in held["told"].items() if key not in longer}
        require(
            same == before,
            "a run must be resumed as it was begun",
            got=", ".join(
                f"{key}: {before.get(key)} before, {same[key]} now" for key in same if same[key] != before.get(key)
            ),
            fix=f"Ask for the same, or remove `{self.folder}`.",
        )
        self.network.load_state_dict(held["network"])
        self.optimisers.restore(held["optimisers"])
        self.updates, self.seen, self.spent_s, self.curve = (held[k] for k in ("updates", "seen", "spent_s", "curve"))

    def train(self, tell: Tell) -> Watched:
        """Until the clock, or the updates, are used up."""
        regime, clock = self.regime, CLOCKS[self.regime.clock]
        began, saved = clock() - self.spent_s, clock()
        batches = self.train_on.batches(np.random.default_rng([regime.seed, self.updates]), regime.batch_tokens)
        loss_sum = torch.zeros((), device=self.device)
        since = 0
        while True:
            self.spent_s = clock() - began
            share = self.spent_s / (60.0 * regime.minutes)
            if regime.most_updates is not None:
                share = max(share, self.updates / regime.most_updates)
            if share >= 1.0:
                break
            loss = self._loss(next(batches), share)
            self.optimisers.step(loss, share)
            self.updates += 1
            since += 1
            loss_sum += loss.detach()
            if self.updates % 20 == 0:
                tell(
                    share, f"{self.updates} updates, {self.seen / 1e6:.2f}M tokens, loss {loss_sum.item() / since:.3f}"
                )
                loss_sum.zero_()
                since = 0
            if clock() - saved > SAVED_EVERY_S:
                self._watch(tell, share)
                self.save()
                saved = clock()
        watched = self._watch(tell, 1.0)
        self.save()
        return watched

    def _watch(self, tell: Tell, share: float) -> Watched:
        found = watch(self.target, self.network, self.held, self.turns, steps=max(self.regime.steps, 4))
        self.curve.append(
            {"updates": self.updates, "tokens": self.seen, "seconds": round(self.spent_s, 1), **found.told()}
        )
        tell(share, f"{self.updates} updates: {found}")
        return found

    def _loss(self, rows: Any, share: float) -> torch.Tensor:
        texts, regime = self.train_on.at(rows), self.regime
        length = max(int((texts.roles != PADDING).sum(1).max()), 3)
        tokens = torch.from_numpy(texts.tokens[:, :length].astype(np.int64)).to(self.device)
        weights = _weights(texts.roles[:, :length], self.device)
        self.seen += int((texts.roles != PADDING).sum())
        hidden, law = laws_of(self.target, tokens, self.network)
        rewarded = regime.objective == PPOW and share >= regime.warm
        objective = "kl" if regime.objective == PPOW else regime.objective
        total, priority = torch.zeros((), device=self.device), None
        with cast_as(self.target):
            steps = unrolled(
                self.network, embedding_of(self.target, self.network), tokens, hidden, regime.steps, self.turns
            )
            for step, (out, _) in enumerate(steps):
                weight = weights[:, step:]
                if rewarded and step == 0:
                    with torch.no_grad():
                        priority = priorities(law, self.network.lm_head(out), regime.steps)
                weight = weight / weight.sum().clamp_min(1.0)
                lost = summed(self.network.lm_head, out[:, step:], law[:, step:], weight, objective)
                total = total + regime.decay**step * lost
            if priority is None:
                return total / regime.steps
            return ANCHOR * total / regime.steps - self._rewarded(tokens, hidden, weights >= 1.0, priority)

    def _rewarded(
        self, tokens: torch.Tensor, hidden: torch.Tensor, drafted: torch.Tensor, priority: torch.Tensor
    ) -> torch.Tensor:
        """What windows of the rows where the target wrote a whole one earn, as a surrogate; 0 where none did."""
        regime, depth = self.regime, self.regime.steps
        whole = torch.nn.functional.pad(drafted, (0, depth)).unfold(-1, depth, 1)[:, : drafted.shape[1]].all(-1)
        kept = whole.any(1)
        if not bool(kept.any()):
            return torch.zeros((), device=self.device)
        tokens, hidden, whole, priority = (each[kept] for each in (tokens, hidden, whole, priority))
        of_window = len(tokens) * GROUP * depth * self.network.shape.vocabulary
        starts = choose_windows(priority, whole, max(1, min(WINDOWS, LAWS // of_window)), regime.windows)
        embedding = embedding_of(self.target, self.network)
        log_q, drawn = rollouts(self.network, embedding, tokens, hidden, starts, depth, self.turns)
        law, likeliest = window_laws(self.target, tokens, starts, named(self.network, drawn), self.network.ids)
        told = (law, drawn, likeliest, regime.reward)
        self.reward = float(expected_reward(log_q.detach(), *told).mean())
        return surrogate(log_q, *told).mean()

    def save(self) -> None:
        """The head's folder, and what a resumed run needs."""
        config = self.target.config
        told = asdict(self.regime) | {"shape": self.network.shape.told()}
        facts = {"regime": asdict(self.regime), "updates": self.updates, "tokens_seen": self.seen,
                 "seconds": self.spent_s, "device": _device_name(self.device), "train_rows": len(self.train_on),
                 "train_tokens": int((self.train_on.roles != PADDING).sum()), "held_out_rows": len(self.held),
                 "tokenizer": self.tokenizer, "curve": self.curve}  # fmt: skip
        save_head(
            self.network, self.folder, target=self.name, architectures=list(config.architectures or []),
            steps=self.regime.steps, facts=facts,
        )  # fmt: skip
        part = self.state_file.with_suffix(".part")
        torch.save(
            {"told": told, "network": self.network.state_dict(), "optimisers": self.optimisers.state(),
             "updates": self.updates, "seen": self.seen, "spent_s": self.spent_s, "curve": self.curve},
            part,
        )  # fmt: skip
        part.replace(self.state_file)


def _weights(roles: Any, device: torch.device) -> torch.Tensor:
    """(B, T - 1) weight of the token drafted after each entry; the last drafts beyond the text and counts nothing."""
    table = torch.tensor(ROLE_WEIGHTS, device=device)
    drafted = torch.from_numpy(roles[:, 2:].astype(np.int64)).to(device)
    return torch.nn.functional.pad(table[drafted], (0, 1))


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
