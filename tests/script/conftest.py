"""A user's own Stable-Baselines3 script as a real process: followed line by line, killed, started again."""

from pathlib import Path

import pytest

from unbroken.inspection import compare
from unbroken.testing.child import TrainingProcess

EXAMPLE = Path(__file__).parents[2] / "examples" / "sb3_script.py"


class Scripts:
    """Runs scripts in folders below one root."""

    def __init__(self, root):
        self.root = root
        self.lines = []

    def start(self, script, where, **variables):
        folder = self.root / where
        folder.mkdir(exist_ok=True)
        return TrainingProcess(["-c", HERE, str(folder), str(script)], {k: str(v) for k, v in variables.items()})

    def run(self, script, where, **variables):
        """To its end; returns the exit code."""
        with self.start(script, where, **variables) as process:
            code = process.wait(120)
            self.lines = process.lines
            return code

    def kill(self, script, where, after, **variables):
        """Ends it with SIGKILL once a line contains `after`."""
        with self.start(script, where, **variables) as process:
            assert process.wait_for(after), process.last_lines()
            code = process.kill()
            self.lines = process.lines
            return code

    @property
    def out(self):
        return "\n".join(self.lines)

    def newest(self, where, prefix="model"):
        paths = (self.root / where / "checkpoints").glob(f"{prefix}_*_steps.zip")
        return max(paths, key=lambda path: int(path.name.split("_")[-2]))

    def assert_identical(self, first, second, prefix="model"):
        one, two = self.newest(first, prefix), self.newest(second, prefix)
        assert one.name == two.name
        compared = compare(self.root, str(one), str(two))
        assert compared.identical, compared.text()
        return compared


# a script runs in its own folder, as a user starts it
HERE = "import os, runpy, sys; os.chdir(sys.argv[1]); sys.argv = sys.argv[2:]; runpy.run_path(sys.argv[0], run_name='__main__')"


@pytest.fixture
def scripts(tmp_path):
    return Scripts(tmp_path)
