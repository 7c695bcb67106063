"""An ordinary Stable-Baselines3 script that survives its machine: kill it anywhere and run it again."""

from stable_baselines3 import PPO

from unbroken.sb3 import RotatingCheckpointCallback, resume_or_create

checkpoints = RotatingCheckpointCallback(save_freq=1_000, save_path="checkpoints", name_prefix="cartpole", max_keep=2)
model = resume_or_create(PPO, "MlpPolicy", "CartPole-v1", checkpoints, seed=0, n_steps=256)
model.learn(total_timesteps=20_000, callback=checkpoints)
model.save("cartpole_final")
