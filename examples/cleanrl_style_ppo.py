"""PPO in one file, in the manner of CleanRL; the eight lines marked `unbroken` make it resume exactly after `kill -9`.

python cleanrl_style_ppo.py [--total-timesteps 50000] [--run runs/cartpole]
"""

import argparse
import random

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

from unbroken import Checkpointer  # unbroken

parser = argparse.ArgumentParser()
parser.add_argument("--run", default="runs/cleanrl_style_ppo")
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--total-timesteps", type=int, default=50_000)
parser.add_argument("--save-every", type=int, default=5_000)
parser.add_argument("--learning-rate", type=float, default=2.5e-4)
parser.add_argument("--num-envs", type=int, default=4)
parser.add_argument("--num-steps", type=int, default=128)
args = parser.parse_args()
GAMMA, GAE_LAMBDA, EPOCHS, MINIBATCHES, CLIP, ENT_COEF, VF_COEF, MAX_GRAD_NORM = 0.99, 0.95, 4, 4, 0.2, 0.01, 0.5, 0.5
batch_size = args.num_envs * args.num_steps


def layer(inputs, outputs, std=2**0.5):
    linear = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(linear.weight, std)
    nn.init.zeros_(linear.bias)
    return linear


class Agent(nn.Module):
    def __init__(self, observations, actions):
        super().__init__()
        self.critic = nn.Sequential(layer(observations, 64), nn.Tanh(), layer(64, 64), nn.Tanh(), layer(64, 1, std=1.0))
        self.actor = nn.Sequential(
            layer(observations, 64), nn.Tanh(), layer(64, 64), nn.Tanh(), layer(64, actions, std=0.01)
        )

    def get_value(self, x):
        return self.critic(x).squeeze(-1)

    def get_action_and_value(self, x, action=None):
        probs = Categorical(logits=self.actor(x))
        action = probs.sample() if action is None else action
        return action, probs.log_prob(action), probs.entropy(), self.get_value(x)


random.seed(args.seed)
np.random.seed(args.seed)
torch.manual_seed(args.seed)
ckpt = Checkpointer(args.run, save_every=args.save_every)  # unbroken
envs = gym.vector.SyncVectorEnv(
    [lambda: gym.wrappers.RecordEpisodeStatistics(gym.make("CartPole-v1")) for _ in range(args.num_envs)]
)
agent = Agent(np.prod(envs.single_observation_space.shape), envs.single_action_space.n)
optimizer = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)
ckpt.track(envs=envs, agent=agent, optimizer=optimizer)  # unbroken

obs = torch.zeros((args.num_steps, args.num_envs, *envs.single_observation_space.shape))
actions, logprobs, rewards, dones, values = (torch.zeros((args.num_steps, args.num_envs)) for _ in range(5))
next_obs = torch.tensor(envs.reset(seed=args.seed)[0])
next_done = torch.zeros(args.num_envs)
own = ckpt.state(next_obs=next_obs, next_done=next_done)  # unbroken

for global_step in ckpt.steps(args.total_timesteps, by=batch_size):  # unbroken
    next_obs, next_done = own.next_obs, own.next_done  # unbroken
    optimizer.param_groups[0]["lr"] = (1.0 - global_step / args.total_timesteps) * args.learning_rate

    for t in range(args.num_steps):
        obs[t], dones[t] = next_obs, next_done
        with torch.no_grad():
            actions[t], logprobs[t], _, values[t] = agent.get_action_and_value(next_obs)
        next_obs, reward, terminated, truncated, infos = envs.step(actions[t].long().numpy())
        rewards[t] = torch.tensor(reward)
        next_obs, next_done = torch.tensor(next_obs), torch.tensor(terminated | truncated, dtype=torch.float32)
        for k in np.flatnonzero(infos.get("_episode", [])):
            print(
                f"global_step={global_step + (t + 1) * args.num_envs}, episodic_return={infos['episode']['r'][k]:.0f}"
            )

    with torch.no_grad():
        next_value = agent.get_value(next_obs)
        advantages = torch.zeros_like(rewards)
        last = torch.zeros(args.num_envs)
        for t in reversed(range(args.num_steps)):
            alive = 1.0 - (next_done if t == args.num_steps - 1 else dones[t + 1])
            following = next_value if t == args.num_steps - 1 else values[t + 1]
            delta = rewards[t] + GAMMA * following * alive - values[t]
            advantages[t] = last = delta + GAMMA * GAE_LAMBDA * alive * last
        returns = advantages + values

    b_obs, b_actions, b_logprobs = obs.flatten(0, 1), actions.flatten(), logprobs.flatten()
    b_advantages, b_returns = advantages.flatten(), returns.flatten()
    for _ in range(EPOCHS):
        for chosen in np.split(np.random.permutation(batch_size), MINIBATCHES):
            _, newlogprob, entropy, newvalue = agent.get_action_and_value(b_obs[chosen], b_actions[chosen])
            ratio = (newlogprob - b_logprobs[chosen]).exp()
            adv = b_advantages[chosen]
            adv = (adv - adv.mean()) / (adv.std() + 1e-8)
            pg_loss = torch.max(-adv * ratio, -adv * ratio.clamp(1 - CLIP, 1 + CLIP)).mean()
            v_loss = 0.5 * ((newvalue - b_returns[chosen]) ** 2).mean()
            loss = pg_loss - ENT_COEF * entropy.mean() + VF_COEF * v_loss
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), MAX_GRAD_NORM)
            optimizer.step()

    own.next_obs, own.next_done = next_obs, next_done  # unbroken
    ckpt.save_if_due()  # unbroken

torch.save(agent.state_dict(), f"{args.run}/agent.pt")
envs.close()
