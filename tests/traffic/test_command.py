"""C1, C3: `unbroken traffic simulate`."""

import json
import subprocess
import sys

import pytest


def run(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "unbroken", "traffic", "simulate", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )


def test_it_prints_a_table_and_draws_a_picture(tmp_path):
    done = run("ramp_metering", "--controller", "alinea", "--duration", "600", "--plot", "out.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "delay per vehicle, s" in done.stdout
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_json_is_json_and_the_same_seed_is_the_same_result(tmp_path):
    results = [
        json.loads(run("adaptive_speed_control", "--seed", "3", "--duration", "600", "--json", cwd=tmp_path).stdout)
        for _ in range(2)
    ]
    for result in results:
        result.pop("seconds")
    assert results[0] == results[1]
    assert results[0]["controller"] == "none"
    assert results[0]["imbalance"] < 1e-9


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere",), "no scenario nowhere"),
        (("ramp_metering", "--controller", "webster"), "has no controller 'webster'"),
        (("ramp_metering", "--duration", "601"), "multiple of 60 s"),
        (("ramp_metering", "--duration", "600", "--plot", "out.doc"), "--plot out.doc"),
        (("ramp_metering", "--duration", "600", "--plot", "nowhere/out.png"), "there is no folder nowhere"),
        (("ramp_metering", "--duration", "600", "--plot", "."), "name a file that ends in"),
    ],
)
def test_mistakes_are_one_line(arguments, words, tmp_path):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2 or "no scenario" in done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
