"""What a vector environment says of the last resets is the same after a resume, in this process and in workers (A6)."""

import gymnasium
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from unbroken.capture.codec import decode, encode
from unbroken.capture.environments import CaptureWrapper
from unbroken.capture.vector_environments import capture_vector_environment, restore_vector_environment


class Telling(gymnasium.Wrapper):
    """Says in the info of a reset how many there have been."""

    count = 0

    def reset(self, **words):
        seen, _ = self.env.reset(**words)
        self.count += 1
        return seen, {"count": self.count}


def telling():
    return CaptureWrapper(Telling(gymnasium.make("CartPole-v1")))


def wrapped_again():
    class Outer(gymnasium.Wrapper):
        """Of a class that no other process can import."""

    return Outer(telling())


@pytest.mark.parametrize("make", [telling, wrapped_again])
@pytest.mark.parametrize("kind", [DummyVecEnv, SubprocVecEnv])
def test_infos_of_resets_come_back(kind, make):
    venv, other = kind([make, make]), kind([make, make])
    try:
        venv.reset()
        while venv.reset_infos[0]["count"] < 3:
            venv.step([1, 0])
        encoded = encode(capture_vector_environment(venv)[0])
        assert restore_vector_environment(other, decode(encoded.document, b"".join(encoded.block()))) == []
        assert list(other.reset_infos) == list(venv.reset_infos)
        seen, expected = other.step([1, 0]), venv.step([1, 0])
        assert seen[0].tolist() == expected[0].tolist()
        if make is telling:
            assert list(other.reset_infos) == list(venv.reset_infos)
    finally:
        venv.close()
        other.close()
