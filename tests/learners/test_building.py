"""What a configuration builds is the same in every process of a seed (A6)."""

from unbroken.capture.codec import digest
from unbroken.config import build_config
from unbroken.learners.building import build_environment


def worker_generators(seed):
    """Digests of the global generators of each worker, right after the first reset."""
    section = {"n_envs": 2, "vec_env": "subproc"}
    venv = build_environment(build_config({"target": "CartPole-v1", "seed": seed, "environment": section}))
    try:
        venv.reset()
        return [digest(state["process"]) for state in venv.env_method("capture_state")]
    finally:
        venv.close()


def test_workers_begin_with_generators_of_the_seed():
    """An environment that draws from `random` or `numpy.random` in a worker trains the same way in every run of one seed."""
    first, again, other = worker_generators(3), worker_generators(3), worker_generators(30)
    assert first == again
    assert len({*first, *other}) == 4
