"""A planted defect: nobody gave a seed, so that no two runs are alike."""

from stable_baselines3 import PPO

from unbroken.sb3 import RotatingCheckpointCallback, resume_or_create

checkpoints = RotatingCheckpointCallback(save_freq=64, save_path="checkpoints", name_prefix="model")
model = resume_or_create(
    PPO, "MlpPolicy", "CartPole-v1", checkpoints, n_steps=64, batch_size=64, n_epochs=1, device="cpu"
)
model.learn(192, callback=checkpoints)
