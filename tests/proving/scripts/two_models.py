"""A sound script that trains one model after the other, each with checkpoints of its own and steps from 0."""

from stable_baselines3 import PPO

from unbroken.sb3 import RotatingCheckpointCallback, resume_or_create

for seed in (1, 2):
    checkpoints = RotatingCheckpointCallback(save_freq=64, save_path="checkpoints", name_prefix=f"seed{seed}")
    model = resume_or_create(
        PPO, "MlpPolicy", "CartPole-v1", checkpoints, seed=seed, n_steps=64, batch_size=64, n_epochs=1, device="cpu"
    )
    model.learn(320, callback=checkpoints)
