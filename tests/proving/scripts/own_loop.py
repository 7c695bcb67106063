"""A hand-written loop with a Checkpointer; an argument plants a defect: `optimizer`, `network` or `generator` is not tracked."""

import random
import sys
import time

import gymnasium
import numpy as np
import torch

from unbroken import Checkpointer

forgotten = sys.argv[1:]
for seed in (random.seed, np.random.seed, torch.manual_seed):
    seed(0)
checkpoints = Checkpointer("run", save_every=20, save_seconds=None)
env = checkpoints.track(env=gymnasium.make("CartPole-v1"))
model, critic = torch.nn.Linear(4, 2), torch.nn.Linear(4, 1)
optimizer = torch.optim.Adam([*model.parameters(), *critic.parameters()], lr=1e-2)
numbers = np.random.default_rng(5)
parts = {"model": model, "network": critic, "optimizer": optimizer, "generator": numbers}
checkpoints.track(**{name: part for name, part in parts.items() if name not in forgotten})
own = checkpoints.state(observation=env.reset(seed=0)[0])
for _ in checkpoints.steps(300):
    seen = torch.as_tensor(own.observation)
    scores = model(seen) + torch.as_tensor(numbers.normal(size=2) * 0.1)
    optimizer.zero_grad()
    (scores.square().mean() + (critic(seen) - 1).square().mean()).backward()
    optimizer.step()
    own.observation, reward, terminated, truncated, _ = env.step(int(scores.argmax()))
    if terminated or truncated:
        own.observation = env.reset()[0]
    checkpoints.log(reward=reward, charts__SPS=time.perf_counter())
    checkpoints.save_if_due()
    time.sleep(0.01)
