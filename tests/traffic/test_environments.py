"""C2: environments as Gymnasium and Stable-Baselines3 want them, exact in mid-episode, the same alone and in a batch."""

import dataclasses
import json

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

import unbroken.envs
from unbroken.errors import ConfigurationError
from unbroken.traffic.environments import AdaptiveSpeedControlEnv, RampMeteringEnv, TrafficLightControlEnv
from unbroken.traffic.registration import ENVIRONMENTS, full_id
from unbroken.traffic.scenario import load_scenario


def with_greens(shortest, longest):
    """The signal scenario with other greens at its first node."""
    scenario = load_scenario("traffic_light_control")
    node = scenario.network.nodes["a"]
    signal = dataclasses.replace(node.signal, min_green=shortest, max_green=longest)
    nodes = {**scenario.network.nodes, "a": dataclasses.replace(node, signal=signal)}
    return dataclasses.replace(scenario, network=dataclasses.replace(scenario.network, nodes=nodes))


CLASSES = (TrafficLightControlEnv, RampMeteringEnv, AdaptiveSpeedControlEnv)


def drawn(rng, space, *shape):
    """Actions of a space, any number of them."""
    size = (*shape, *space.shape)
    if isinstance(space, spaces.Box):
        return rng.uniform(space.low, space.high, size).astype(space.dtype)
    return rng.integers(space.nvec, size=size)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_gymnasium_and_sb3_find_nothing_to_say(name):
    from stable_baselines3.common.env_checker import check_env as check_for_sb3

    assert unbroken.envs
    env = gymnasium.make(full_id(name), render_mode="rgb_array")
    check_env(env.unwrapped)
    check_for_sb3(env.unwrapped)


def vehicle_seconds_on_empty_roads(env):
    """What the arrivals of an episode would spend between 900 and 4,500 s, from each minute's arrivals by themselves.

    Vehicles that come evenly from t to t + 60 and stay for T: a second's worth of them is there from its arrival until T later.
    """
    layout, flows = env.task.simulation.layout, env.task.simulation.state.demand[0]
    total, offsets = 0.0, np.arange(0.5, 60.0)
    for origin, link in enumerate(layout.network.origins):
        for k, stay in enumerate(layout.free_travel_time[:, layout.links.index(link)]):
            for minute, flow in enumerate(flows[k, origin]):
                came = 60.0 * minute + offsets
                there = np.clip(np.minimum(came + stay, 4500.0) - np.maximum(came, 900.0), 0.0, None)
                total += float(flow * there.sum())
    return total


@pytest.mark.parametrize("env_class", CLASSES)
def test_an_episode_is_240_decisions_and_its_rewards_are_the_time_spent(env_class):
    env = env_class()
    _, before = env.reset(seed=4)
    free = vehicle_seconds_on_empty_roads(env)
    rewards, steps, truncated = 0.0, 0, False
    rng = np.random.default_rng(0)
    while not truncated:
        action = drawn(rng, env.action_space)
        observation, reward, terminated, truncated, info = env.step(action)
        assert not terminated
        assert env.observation_space.contains(observation)
        rewards += reward
        steps += 1
    assert steps == 240
    assert info["time"] == pytest.approx(4500.0)
    spent = info["time_spent"] - before["time_spent"]
    bound = -(spent - free) / (env.task.reference_vehicles * 15.0)
    extra = {TrafficLightControlEnv: 0.0, RampMeteringEnv: np.inf, AdaptiveSpeedControlEnv: 240 * 4 * 0.001}[env_class]
    assert bound - extra - 0.01 <= rewards <= bound + 0.01  # both count seconds in their own steps
    assert env.task.simulation.imbalance() < 1e-9


@pytest.mark.parametrize("env_class", CLASSES)
def test_saved_in_mid_episode_and_restored_in_another_environment_it_goes_on_exactly(env_class):
    first, second = env_class(), env_class()
    first.reset(seed=1)
    rng = np.random.default_rng(2)
    actions = drawn(rng, first.action_space, 40)
    for action in actions[:20]:
        first.step(action)
    state = first.get_state()
    kept = {key: value.copy() for key, value in state["task"]["simulation"].items()}
    expected = [first.step(action)[:2] for action in actions[20:]]
    for key, value in kept.items():
        assert np.array_equal(value, state["task"]["simulation"][key]), f"{key} of a state changed after it was taken"
    second.set_state(state)
    for action, (observation, reward) in zip(actions[20:], expected, strict=True):
        again = second.step(action)
        assert np.array_equal(again[0], observation)
        assert again[1] == reward
    assert np.array_equal(first.reset()[0], second.reset()[0])


@pytest.mark.parametrize("env_class", CLASSES)
def test_a_batch_is_its_environments_alone_bit_for_bit(env_class):
    from unbroken.traffic.vector import BatchedVecEnv

    n = 3
    batch = BatchedVecEnv(env_class, n, measured=180.0)
    batch.seed(7)
    alone = [env_class(measured=180.0) for _ in range(n)]
    observations = batch.reset()
    for b, env in enumerate(alone):
        assert np.array_equal(env.reset(seed=7 + b)[0], observations[b])
    rng = np.random.default_rng(1)
    for step in range(15):
        actions = drawn(rng, alone[0].action_space, n)
        assert np.array_equal(batch.action_masks(), [env.action_masks() for env in alone])
        observations, rewards, dones, infos = batch.step(actions)
        for b, env in enumerate(alone):
            observation, reward, _, truncated, _ = env.step(actions[b])
            assert np.float32(reward) == rewards[b]
            assert truncated == dones[b] == (step == 11)
            if truncated:
                assert np.array_equal(infos[b]["terminal_observation"], observation)
                observation, _ = env.reset()
            assert np.array_equal(observation, observations[b])


def test_sb3_trains_in_a_batch():
    from stable_baselines3 import PPO

    from unbroken.traffic.vector import BatchedVecEnv

    model = PPO("MlpPolicy", BatchedVecEnv(RampMeteringEnv, 4, measured=180.0), n_steps=16, batch_size=64, device="cpu")
    model.learn(128)
    assert model.num_timesteps == 128


def test_illegal_phases_are_masked_and_do_nothing():
    env = TrafficLightControlEnv(measured=600.0)
    env.reset(seed=0)
    simulation = env.task.simulation
    for _ in range(40):
        mask = env.action_masks().reshape(-1, 2)
        phases, may = simulation.phases()[0], simulation.may_switch()[0]
        for node in range(4):
            assert mask[node].any()
            assert mask[node, 1 - phases[node]] == may[node]
        env.step(1 - phases)
        changed = simulation.phases()[0] != phases
        assert np.array_equal(changed, may)


def test_a_phase_ends_at_its_maximal_green_whatever_the_agent_does():
    env = TrafficLightControlEnv(measured=600.0)
    env.reset(seed=0)
    longest = 0.0
    for _ in range(40):
        env.step(env.task.simulation.phases()[0])
        longest = max(longest, float(env.task.simulation.green_times().max()))
    assert longest <= 75.0


def limits_shown(env):
    """km/h at the ends of the zones."""
    simulation = env.task.simulation
    ends = [simulation.layout.slots(links[-1]).stop - 1 for links in env.scenario.zones.values()]
    return 3.6 * np.array([simulation.state.limit[0, end] for end in ends])


def test_limits_change_by_ten_kilometres_an_hour_at_most():
    env = AdaptiveSpeedControlEnv()
    env.reset(seed=0)
    rng = np.random.default_rng(1)
    shown = [np.full(4, 60.0)]
    for asked in (np.ones(4), -np.ones(4), *rng.uniform(-1, 1, (60, 4))):
        env.step(asked.astype(np.float32))
        shown.append(limits_shown(env))
    assert np.abs(np.diff(shown, axis=0)).max() == pytest.approx(10.0)
    assert np.min(shown) == pytest.approx(30.0)
    assert np.max(shown) == pytest.approx(60.0)
    assert env.action_masks().shape == (0,)


def test_each_zone_goes_to_the_limit_that_lets_out_what_is_asked_of_it():
    """From what stands in the zone's last 150 m, counted from the cells; other zones are asked for other flows each time."""
    env = AdaptiveSpeedControlEnv()
    env.reset(seed=3)
    simulation, rng = env.task.simulation, np.random.default_rng(0)
    ends = [links[-1] for links in env.scenario.zones.values()]
    units = np.array([c.length for c in simulation.network.classes]) / simulation.network.classes[1].length
    for _ in range(60):
        density = np.array([units @ simulation.density(link)[:, -6:].mean(axis=1) for link in ends])
        asked = rng.uniform(-1, 1, 4)
        wanted = np.clip((1500 + 1100 * (asked + 1) / 2) / (2000 * density), 30, 60)
        before = np.minimum(limits_shown(env), 60)  # none before the first decision
        env.step(asked.astype(np.float32))
        assert limits_shown(env) == pytest.approx(before + np.clip(wanted - before, -10, 10), abs=1e-3)


@pytest.mark.parametrize("asked", [1700.0, 1775.0, 1850.0])
def test_zones_let_out_about_the_flow_that_is_asked_for(asked):
    """While more arrives and limits fall, above 30 km/h; PCU counted as what passes the ends of the zones."""
    env = AdaptiveSpeedControlEnv()
    env.reset(seed=3)
    simulation = env.task.simulation
    ends = [simulation.layout.slots(links[-1]).stop for links in env.scenario.zones.values()]
    units = np.array([c.length for c in simulation.network.classes]) / simulation.network.classes[1].length
    seen = [[], [], [], []]
    for _ in range(80):
        before, limits = simulation.state.passed[0][:, ends].copy(), limits_shown(env)
        env.step(np.full(4, 2 * (asked - 1500) / 1100 - 1, dtype=np.float32))
        passed = 2 * units @ (simulation.state.passed[0][:, ends] - before) / 15.0 * 3600.0
        for zone in np.flatnonzero((limits_shown(env) < limits) & (limits > 31.0)):
            seen[zone].append(passed[zone])
    assert min(len(flows) for flows in seen) > 10
    assert [np.mean(flows) for flows in seen] == pytest.approx([asked] * 4, rel=0.05)


def test_asked_for_the_highest_flow_a_free_road_keeps_the_highest_limit_and_for_the_lowest_a_full_one_does_not():
    env = AdaptiveSpeedControlEnv(measured=900.0)
    env.reset(seed=0)
    for _ in range(6):
        observation = env.step(np.ones(4, dtype=np.float32))[0]
    assert (observation[-5:-1] == 1.0).all()
    for _ in range(50):
        observation = env.step(-np.ones(4, dtype=np.float32))[0]
    assert (observation[-5:-1] < 0.2).all()


def test_blocking_the_entry_does_not_pay():
    """A reward that forgets origin queues would be best where nobody gets in."""
    returns = {}
    for choice in (0, 8):
        env = RampMeteringEnv()
        env.reset(seed=3)
        returns[choice] = sum(env.step(np.array([choice]))[1] for _ in range(240))
    assert returns[0] < 1.2 * returns[8]


def test_saving_switches_does_not_pay():
    """Nothing of the reward counts switches: phases held as long as the simulator lets them cost the queues that wait."""
    held, plan = TrafficLightControlEnv(), TrafficLightControlEnv()
    held.reset(seed=3)
    plan.reset(seed=3)
    hold = sum(held.step(held.task.simulation.phases()[0])[1] for _ in range(240))
    change = sum(plan.step(np.full(4, int(k % 5 >= 3)))[1] for k in range(240))
    assert hold < 1.1 * change


def test_pictures_have_the_same_size_at_all_times():
    env = RampMeteringEnv(render_mode="rgb_array", measured=180.0)
    env.reset(seed=0)
    picture = env.render()
    assert picture.shape == (480, 800, 3)
    assert picture.dtype == np.uint8
    assert picture.std() > 10


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RampMeteringEnv(render_mode="human"), "render_mode must be"),
        (lambda: RampMeteringEnv(measured=7200.0), "3600 s of demand cannot be measured for 7200 s"),
        (lambda: RampMeteringEnv(measured=0.0), "above 0"),
        (lambda: RampMeteringEnv(drain=-15.0), "drain must be"),
        (lambda: TrafficLightControlEnv(scenario=with_greens(12.0, 20.0)), "max_green must be 15 s more"),
        (lambda: RampMeteringEnv(measured=100.0), "measured must be a multiple of 60 s"),
        (
            lambda: RampMeteringEnv(scenario="traffic_light_control"),
            "is for control of signals, this environment is for ramp",
        ),
        (lambda: AdaptiveSpeedControlEnv(scenario="ramp_metering"), "is for control of ramp"),
        (
            lambda: AdaptiveSpeedControlEnv(
                scenario=dataclasses.replace(load_scenario("adaptive_speed_control"), zone_flow=None)
            ),
            "needs zone_flow_pcu_per_h",
        ),
    ],
)
def test_mistakes_are_named(make, words):
    with pytest.raises(ConfigurationError, match=words):
        make()


def test_an_action_that_is_none_is_refused():
    env = RampMeteringEnv(measured=180.0)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.array([0]))
    env.reset(seed=0)
    with pytest.raises(ConfigurationError, match="must be in"):
        env.step(np.array([14]))
    limits = AdaptiveSpeedControlEnv(measured=180.0)
    limits.reset(seed=0)
    for wrong in (np.full(4, 1.01), np.full(4, np.nan), np.zeros(3), np.array(["a"] * 4)):
        with pytest.raises(ConfigurationError, match="must be in"):
            limits.step(wrong)


def test_no_step_follows_the_end_of_an_episode():
    env = RampMeteringEnv(measured=60.0)
    env.reset(seed=0)
    steps = 0
    while not env.step(np.array([13]))[3]:
        steps += 1
    assert steps == 3
    with pytest.raises(gymnasium.error.ResetNeeded, match="is over"):
        env.step(np.array([13]))
    env.reset()
    assert not env.step(np.array([13]))[3]


def test_demand_changed_in_mid_episode_is_restored_with_what_it_is_judged_by():
    first, second = RampMeteringEnv(measured=120.0), RampMeteringEnv(measured=120.0)
    first.reset(seed=0)
    first.step(np.array([5]))
    first.task.simulation.set_demand(0, first.task.simulation.state.demand[0] * 1.5)
    second.set_state(first.get_state())
    assert first.step(np.array([5]))[1] == second.step(np.array([5]))[1]


def test_a_state_is_plain_and_some_kilobytes():
    env = TrafficLightControlEnv(measured=180.0)
    env.reset(seed=0)
    state = env.get_state()
    arrays = state["task"]["simulation"].values()
    assert sum(array.nbytes for array in arrays) < 100_000
    json.dumps(state["generator"])


def test_a_batch_refuses_what_an_environment_refuses():
    from unbroken.traffic.vector import BatchedVecEnv

    batch = BatchedVecEnv(RampMeteringEnv, 2, measured=180.0)
    with pytest.raises(gymnasium.error.ResetNeeded):
        batch.step(np.zeros((2, 1), dtype=np.int64))
    batch.reset()
    for wrong in (np.array([[-5], [0]]), np.array([[14], [0]]), np.array([[0.5], [0.0]]), np.zeros(2, dtype=np.int64)):
        with pytest.raises(ConfigurationError, match="must be in"):
            batch.step(wrong)
    with pytest.raises(AttributeError, match="no task of their own"):
        batch.get_attr("task")
    assert [mask().shape for mask in batch.get_attr("action_masks")] == [(14,), (14,)]


def test_a_batch_restored_before_its_seeds_were_used_begins_as_it_would_have():
    from unbroken.traffic.vector import BatchedVecEnv

    first, second = (BatchedVecEnv(RampMeteringEnv, 2, measured=180.0) for _ in range(2))
    first.seed(5)
    second.set_state(first.get_state())
    assert np.array_equal(first.reset(), second.reset())
