"""Plain Stable-Baselines3."""

from stable_baselines3 import PPO

model = PPO("MlpPolicy", "CartPole-v1", n_steps=64)
model.learn(10_000_000)
