"""`unbroken train`: starts and continues a run."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

Option = typer.Option


def integer(text: str | int) -> int:
    """A whole number as people write steps: `100000`, `100_000`, `1e5`."""
    try:
        number = float(str(text))
    except ValueError:
        number = float("nan")
    if not number.is_integer():
        raise typer.BadParameter(f"{text!r} is not a whole number; write 100000, 100_000 or 1e5")
    return int(str(text)) if str(text).lstrip("+-").replace("_", "").isdigit() else int(number)


def train(
    target: Annotated[
        str | None, typer.Argument(help="Gymnasium id, module:EnvId, package.module:EnvClass, or a YAML file.")
    ] = None,
    config: Annotated[str | None, Option(help="YAML file in the same schema as the target file.")] = None,
    algo: Annotated[
        str | None,
        Option(help="ppo, a2c, dqn, sac, td3, ddpg, recurrent_ppo, maskable_ppo, tqc, qrdqn, crossq, trpo, ppo-torch."),
    ] = None,
    steps: Annotated[
        int | None,
        Option(
            parser=integer,
            help="Target in total environment steps, never 'more' (default 100,000; our traffic scenarios: their own).",
        ),
    ] = None,
    more: Annotated[int | None, Option(parser=integer, help="Add this many steps to what the run has now.")] = None,
    quick: Annotated[
        bool, Option("--quick", help="A small target (5,000 steps); a later full run continues it.")
    ] = False,
    fresh: Annotated[
        bool,
        Option(
            "--fresh",
            help="Start again; everything of the run so far moves to its archive/. Repeated before its target is reached, "
            "the same command continues the fresh start.",
        ),
    ] = False,
    checkpoint: Annotated[str | None, Option(help="Fork a new run from a checkpoint: PATH, RUN or RUN@STEP.")] = None,
    allow_partial: Annotated[
        bool,
        Option(
            "--allow-partial",
            help="Fork even where the replay segments of the checkpoint are missing: goes on with the rows that are there.",
        ),
    ] = False,
    run: Annotated[str | None, Option(help="Name of the run (default {scenario}-{algo}-seed{n}).")] = None,
    runs_dir: Annotated[str | None, Option(help="Folder of the runs (default: $UNBROKEN_RUNS_DIR or ./runs).")] = None,
    seed: Annotated[int | None, Option(help="Seed of everything (default 0).")] = None,
    device: Annotated[str | None, Option(help="cpu, cuda or auto.")] = None,
    n_envs: Annotated[int | None, Option(help="Copies of the environment (default 1).")] = None,
    save_every: Annotated[
        int | None, Option(parser=integer, help="Environment steps between checkpoints (default 10,000).")
    ] = None,
    save_seconds: Annotated[
        float | None, Option(help="Seconds that a kill may cost, also within a long rollout (default 300).")
    ] = None,
    keep_last: Annotated[int | None, Option(help="Rolling checkpoints that stay (default 2).")] = None,
    eval_every: Annotated[
        int | None, Option(parser=integer, help="Environment steps between evaluations, 0 = off (default 10,000).")
    ] = None,
    eval_episodes: Annotated[int | None, Option(help="Episodes of one evaluation (default 5).")] = None,
    deadline: Annotated[str | None, Option(help="Stop in time for the last save, such as 11h.")] = None,
    grace: Annotated[str | None, Option(help="How long a signal waits for the end of a rollout (default 30s).")] = None,
    settings: Annotated[
        list[str] | None, Option("--set", help="Any other key, such as hyperparameters.learning_rate=3e-4.")
    ] = None,
    debug: Annotated[bool, Option("--debug", hidden=True)] = False,
) -> None:
    """Train TARGET; run the same command again to continue after whatever ended it.

    Exit codes: 0 target reached, 75 stopped early with a valid checkpoint (run it again), 4 a callback stopped the training
    before its target, 1 stopped before the first checkpoint, 2 usage, 65 the stored run does not fit or is damaged, 66 no
    such run or checkpoint, 69 another process carries the run, 74 storage fails, 78 a package is missing.
    """
    words: dict[str, Any] = dict(locals())
    del words["target"], words["debug"], debug
    from unbroken.request import make_request
    from unbroken.run import carry

    outcome = carry(make_request(target, words), hard_exit=True)  # type: ignore[arg-type]
    sys.exit(outcome.exit_code)
