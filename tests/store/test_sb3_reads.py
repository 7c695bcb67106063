"""Plain Stable-Baselines3 reads every checkpoint (A13)."""

import io
import zipfile

import numpy
from stable_baselines3 import PPO

from unbroken.store.checkpoint_file import write_checkpoint


def test_ppo_loads_a_checkpoint_with_extra_members(backend):
    """A13: `PPO.load("….zip")`."""
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, device="cpu", seed=1)
    plain = io.BytesIO()
    model.save(plain)

    def fill(writer):
        with zipfile.ZipFile(plain) as archive:
            for name in archive.namelist():
                writer.write_member(name, archive.read(name))
        writer.write_member("exact/more", b"not for SB3")
        return {}

    write_checkpoint(backend, "a.zip", fill)
    loaded = PPO.load(backend.local_path("a.zip"), device="cpu")
    observation = numpy.zeros(4, dtype=numpy.float32)
    assert loaded.predict(observation, deterministic=True)[0] == model.predict(observation, deterministic=True)[0]
    for mine, theirs in zip(model.policy.parameters(), loaded.policy.parameters(), strict=True):
        assert (mine == theirs).all()
