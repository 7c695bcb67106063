"""Which code is in a key: every file that really runs, whatever its line ends, and none that does not (D1, D5).

Files are changed in copies of the package, and each copy is asked by a process of its own.
"""

import ast
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import unbroken
from unbroken.cache import sources
from unbroken.cache.sources import module_sources
from unbroken.validation.traffic_inputs import PLAYING

PACKAGE = Path(unbroken.__file__).parent
SCENARIO = "ramp_metering"
ASK = f"""
import sys
from pathlib import Path
import unbroken
from unbroken.cache import ResultCache
from unbroken.traffic.controllers.choosing import controller_names
from unbroken.validation.traffic_inputs import Described, baseline_control, episode_inputs
described = Described.read("{SCENARIO}")
cache = ResultCache(Path(sys.argv[1]))

class Called(Exception):
    pass

def compute():
    raise Called

for name in controller_names(described.scenario):
    try:
        cache.get_or_compute(episode_inputs(described, baseline_control(described.scenario, name), 3), compute, steps=4)
        print(name, "hit")
    except Called:
        print(name, "miss")
print(Path(unbroken.__file__).parent)
"""
COMPUTE = ASK.replace("raise Called", "import numpy; return unbroken.cache.Result({'x': numpy.zeros(4)}, 4)")


def process(script, *words, package=PACKAGE, **variables):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("UNBROKEN_")}
    environment |= {"PYTHONPATH": str(package.parent), **variables}
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, words)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def answers(folder, package=PACKAGE, script=ASK):
    """How each baseline's episode came from the cache in `folder`, for a process that runs `package`."""
    *lines, used = process(script, folder, package=package)
    assert Path(used) == package
    return {line.split()[1] for line in lines}


def is_code(path):
    return path.is_file() and path.suffix != ".pyc" and "__pycache__" not in path.parts


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A cache that a process with this package has filled."""
    folder = tmp_path_factory.mktemp("filled")
    answers(folder, script=COMPUTE)
    return folder


@pytest.fixture
def clone(tmp_path):
    """Makes a copy of the package, every file's bytes passed through `change`."""

    def make(name, change=lambda path, content: content):
        target = tmp_path / name / "unbroken"
        for path in filter(is_code, PACKAGE.rglob("*")):
            new = target / path.relative_to(PACKAGE)
            new.parent.mkdir(parents=True, exist_ok=True)
            new.write_bytes(change(path, path.read_bytes()))
        return target

    return make


def test_a_clone_with_windows_line_ends_is_a_hit(filled, clone):
    """D5: as git's autocrlf checks it out, data files included; a copy as it is, too."""
    assert answers(filled) == {"hit"}
    assert answers(filled, clone("as it is")) == {"hit"}
    dos = clone("dos é", lambda path, content: content.replace(b"\n", b"\r\n"))
    assert b"\r\n" in (dos / "traffic" / "scenarios" / f"{SCENARIO}.yaml").read_bytes()
    assert answers(filled, dos) == {"hit"}


def contributing():
    return [*module_sources(PLAYING), f"unbroken/traffic/scenarios/{SCENARIO}.yaml"]


def test_one_line_of_any_contributing_file_is_a_miss(filled, clone):
    """D1: each file in turn, in one of two copies; then the copies as they were are a hit again."""
    names = contributing()
    assert len(names) > 25

    def changed(package, own):
        found = {}
        for place in [package.parent / name for name in own]:
            content = place.read_bytes()
            place.write_bytes(content + b"# a line\n")
            found[str(place)] = answers(filled, package)
            place.write_bytes(content)
        assert answers(filled, package) == {"hit"}
        return found

    with ThreadPoolExecutor(2) as pool:
        halves = pool.map(changed, [clone("one"), clone("two")], [names[::2], names[1::2]])
        answered = {place: found for half in halves for place, found in half.items()}
    assert len(answered) == len(names)
    assert {place for place, found in answered.items() if found != {"miss"}} == set()


def test_files_that_do_not_contribute_leave_it_a_hit(filled, clone):
    """D1: the learner, the commands, other scenarios and environments shape no baseline's result."""
    package = clone("elsewhere")
    for name in ("learners/ppo.py", "cli/train.py", "traffic/environments.py", "traffic/tasks/ramp.py", "config.py"):
        (package / name).write_bytes((package / name).read_bytes() + b"# a line\n")
    other = package / "traffic" / "scenarios" / "traffic_light_control.yaml"
    other.write_bytes(other.read_bytes() + b"# a line\n")
    assert answers(filled, package) == {"hit"}


PLAY_ALL = """
import sys
import unbroken.traffic.playing
from unbroken.traffic.controllers.choosing import controller_names, make_controller
from unbroken.traffic.playing import Episode
from unbroken.traffic.scenario import load_scenario, scenario_names
for name in scenario_names():
    scenario = load_scenario(name)
    for controller in controller_names(scenario):
        episode = Episode(scenario, make_controller(controller, scenario), 3)
        episode.begin()
        episode.advance(2)
        state = episode.get_state()
        episode.end_demand()
        episode.advance(1)
print(*(module for module in sys.modules if module.partition(".")[0] == "unbroken"))
"""


def test_the_files_are_those_that_really_run():
    """D1: what a process has imported once it has played every controller of every scenario, and nothing beside."""
    (loaded,) = process(PLAY_ALL)
    run = {module.replace(".", "/") for module in loaded.split()} - {"unbroken", "unbroken/errors"}
    listed = {name.removesuffix("/__init__.py").removesuffix(".py") for name in module_sources(PLAYING)}
    assert run == listed


def test_nothing_that_runs_reads_the_environment_or_imports_by_a_made_name():
    """D1: what the files alone do not show: variables, files, modules by name. Scenario files are keys of their own."""
    hidden = re.compile(
        r"os\.environ|getenv|import_module|__import__|entry_points|\bexec\(|\beval\(|\bopen\(|read_text|read_bytes"
    )
    found = {
        (name, line.strip())
        for name in module_sources(PLAYING)
        for line in (PACKAGE.parent / name).read_text(encoding="utf-8").splitlines()
        if hidden.search(line) and name != "unbroken/traffic/scenario.py"
    }
    # the names that a package hands out are found through its TYPE_CHECKING block
    assert found == {
        ("unbroken/traffic/__init__.py", 'return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)')
    }


def test_the_front_of_the_package_computes_nothing():
    """Its file is in no key, so that a new version number alone is no miss: nothing may depend on it."""
    (loaded,) = process("import sys, unbroken; print(*(m for m in sys.modules if m.startswith('unbroken')))")
    assert loaded == "unbroken"
    assert not any(name == "unbroken/__init__.py" for name in module_sources(PLAYING, "unbroken.traffic"))


def test_the_exceptions_compute_nothing():
    """Their file is in no key either, so that a new kind of error is no miss: it holds classes without methods."""
    tree = ast.parse((PACKAGE / "errors.py").read_text(encoding="utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.Import | ast.ImportFrom)]


def test_hash_seed_and_threads_change_no_bit():
    """D1: what a process draws or is given at its start is no input: sets in another order, BLAS with more threads."""
    script = """
from unbroken.capture.codec import digest
from unbroken.traffic.controllers.choosing import make_controller
from unbroken.traffic.playing import Episode, play_rows
from unbroken.traffic.scenario import load_scenario
scenario = load_scenario("cotonou_vedoko")
print(digest(play_rows(Episode(scenario, make_controller("webster", scenario), 3), 120.0)))
"""
    first, second = (
        process(script, PYTHONHASHSEED=seed, OPENBLAS_NUM_THREADS=threads)[-1]
        for seed, threads in (("1", "1"), ("2", "2"))
    )
    assert first == second


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes modules of a user's into a folder that is found; each test has names of its own."""
    monkeypatch.syspath_prepend(str(tmp_path))
    sources._module_sources.cache_clear()

    def write(name, text):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    yield write
    sources._module_sources.cache_clear()


def test_what_users_modules_import_counts(module):
    """D1: modules beside one's own, relative and inside functions, packages above with all they import; no installed ones."""
    module("own_world", "import numpy\nfrom own_helpers import a\ndef f():\n    import own_late\n")
    module("own_helpers", "from own_package.deep import inner, missing\na = 1\n")
    module("own_late", "import own_package.plain\n")
    module("own_package/__init__", "from . import top\ndef f():\n    from . import never\n")
    module("own_package/top", "")
    module("own_package/never", "")
    module("own_package/plain", "try:\n    from .one import x\nexcept ImportError:\n    from .two import x\n")
    module("own_package/one", "")
    module("own_package/two", "")
    module("own_package/deep/__init__", "")
    module(
        "own_package/deep/inner",
        "from ..below import y\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import own_types\n",
    )
    module("own_package/below", "")
    module("own_types", "")
    assert [*module_sources("own_world")] == sorted(
        [
            *("own_world.py", "own_helpers.py", "own_late.py", "own_package/__init__.py", "own_package/top.py"),
            "own_package/never.py",
            *("own_package/plain.py", "own_package/one.py", "own_package/two.py", "own_package/below.py"),
            *("own_package/deep/__init__.py", "own_package/deep/inner.py"),
        ]
    )


# by the module that is asked for: files, and what must be found beside it
WAYS = {
    "of_a_package": {
        "of_a_package": "import p1.sub\ndef run():\n    return p1.late()\n",
        "p1/__init__": "def late():\n    from p1 import helper\n",
        "p1/sub": "",
        "p1/helper": "",
    },
    "of_a_base": {
        "of_a_base": "from p2.sub import S\ndef run():\n    return S().run()\n",
        "p2/__init__": "class Base:\n    def run(self):\n        from p2 import helper\n",
        "p2/sub": "import p2.other\nclass S(p2.Base):\n    pass\n",
        "p2/other": "",
        "p2/helper": "",
    },
    "of_a_set_up": {
        "of_a_set_up": "from p3.sub import x\ndef run():\n    pass\n",
        "p3/__init__": "def _set_up():\n    from p3 import helper\n_set_up()\n",
        "p3/sub": "x = 1\n",
        "p3/helper": "",
    },
    "by_star": {
        "by_star": "from p4 import *\ndef run():\n    helper\n",
        "p4/__init__": "__all__ = ['helper']\n",
        "p4/helper": "",
    },
    "by_lazy_star": {
        "by_lazy_star": "from p5 import *\ndef run():\n    K\n",
        "p5/__init__": "import importlib\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p5.helper import K\n"
        "__all__ = ['K']\ndef __getattr__(name):\n    if name != 'K':\n        raise AttributeError(name)\n"
        "    return importlib.import_module('p5.helper').K\n",
        "p5/helper": "K = 1\n",
    },
    "by_name": {
        "by_name": "import importlib\nfrom p6 import inner\ndef run():\n    importlib.import_module('named_one')\n"
        "    __import__('named_two')\n    inner.run()\n",
        "p6/__init__": "",
        "p6/inner": "import importlib\ndef run():\n    importlib.import_module('..helper', __name__)\n",
        "p6/helper": "",
        "named_one": "",
        "named_two": "",
    },
    "in_vain": {
        "in_vain": "try:\n    import broken\nexcept SyntaxError:\n    pass\ndef run():\n    pass\n",
        "broken": "def (:\n",
    },
    "in_two_folders": {
        "in_two_folders": "from ns.one import run\n",
        "ns/one": "def run():\n    from ns import two\n",
        "elsewhere/ns/two": "",
    },
}
RUN = """
import importlib, sys
from pathlib import Path
folder = Path(sys.argv[1])
sys.path[:0] = [str(folder), str(folder / "elsewhere")]
from unbroken.cache.sources import module_sources
listed = module_sources(sys.argv[2])
importlib.import_module(sys.argv[2]).run()
ran = [Path(m.__file__) for m in list(sys.modules.values()) if getattr(m, "__file__", None)]
own = [path.relative_to(folder).as_posix().removeprefix("elsewhere/") for path in ran if folder in path.parents]
print(*sorted(set(own) - set(listed)), "|", len(own))
"""


@pytest.mark.parametrize("root", WAYS)
def test_what_really_runs_of_users_modules_is_listed(tmp_path, root):
    """D1: against `sys.modules` after the code has run, in ways of importing that are plain Python and easily overlooked."""
    for name, text in WAYS[root].items():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    missed, n_ran = process(RUN, tmp_path, root)[-1].split("|")
    assert missed.strip() == ""
    assert int(n_ran) >= 1 if root == "in_vain" else int(n_ran) >= 2


def test_users_modules_depend_on_this_package_too(module):
    """D1: an environment of one's own over our simulator, whose names a package hands out lazily."""
    module("my_traffic", "from unbroken.traffic import Simulation\n")
    module("my_other", "import unbroken.traffic as t\n")
    module("my_third", "from unbroken.traffic import Link\nfrom unbroken.errors import NotFound\n")
    assert "unbroken/traffic/scheme/node.py" in module_sources("my_traffic")
    assert "unbroken/traffic/single_link.py" not in module_sources("my_traffic")
    assert "unbroken/traffic/single_link.py" in module_sources("my_other")
    assert {"my_third.py", "unbroken/traffic/road_network.py"} <= {*module_sources("my_third")}
    assert "unbroken/errors.py" not in module_sources("my_third")
    assert "unbroken/traffic/simulation.py" not in module_sources("my_third")


def test_nothing_is_imported_to_find_out(module):
    module("my_loud", "import my_louder\n")
    module("my_louder", "raise SystemExit('imported')\n")
    assert [*module_sources("my_loud")] == ["my_loud.py", "my_louder.py"]
    assert "my_loud" not in sys.modules


def test_a_missing_root_is_an_error(module):
    for name in ("no_such_module_of_mine", "unbroken.nothing", "sys", "numpy.nothing"):
        with pytest.raises(ModuleNotFoundError, match="no module"):
            module_sources(name)


def test_a_module_that_comes_into_being_is_found(module):
    """In a notebook a cell writes the file, after another has asked for it in vain."""
    with pytest.raises(ModuleNotFoundError):
        module_sources("my_coming")
    module("my_coming", "import my_next\n")
    assert [*module_sources("my_coming")] == ["my_coming.py"]
    module("my_next", "")
    assert [*module_sources("my_coming", "my_next")] == ["my_coming.py", "my_next.py"]


LIVE = """
import os, shutil, sys, time
from unbroken.cache import sources
sys.path.insert(0, sys.argv[1])
path = os.path.join(sys.argv[1], "my_live.py")
import my_live

def digest():
    sources._module_sources.cache_clear()
    return sources.module_sources("my_live")["my_live.py"]

print(*(digest() for _ in range(2)))
time.sleep(0.05)
os.chmod(path, 0o600)
if hasattr(os, "link"):
    os.link(path, path + ".backup")
print(digest())
time.sleep(0.05)
shutil.copy2(sys.argv[2], path) if sys.argv[2] else open(path, "a").write("y = 2")
print(*(digest() for _ in range(2)))
os.utime(path, (time.time() + 3600,) * 2)
print(digest())
"""


@pytest.mark.parametrize("way", ["edited", "copied with its old time"])
def test_a_file_that_changed_while_the_process_runs_is_never_a_hit(tmp_path, way):
    """D1: the code in memory is another one than that on the disk, and nobody can say which; a notebook must start again."""
    live, other = tmp_path / "my_live.py", tmp_path / "elsewhere" / "my_live.py"
    other.parent.mkdir()
    for path, text in ((live, "x = 1\n"), (other, "x = 2\n")):
        path.write_text(text, encoding="utf-8")
        os.utime(path, (1, 1))
    time.sleep(0.05)
    before, touched, changed, of_another_clock = process(
        LIVE, tmp_path, other if way.startswith("copied") else "", PYTHONDONTWRITEBYTECODE=""
    )[-4:]
    first, second = before.split()
    assert first == second == sources.text_digest(b"x = 1\n")
    assert touched == first, "other rights and another name are no other content"
    assert changed.startswith("changed ")
    assert len({*changed.split()}) == 3, "never the same twice"
    assert not of_another_clock.startswith("changed"), "the file system's clock is another"


def test_the_beginning_of_a_process_is_known():
    """What the test above rests on: not before the process, not after its first line."""
    lines = process(
        "import time; before = time.time(); import unbroken.traffic.playing; from unbroken.cache import sources\n"
        "print(time.time() - sources._begun(), time.time() - before)"
    )
    since, running = map(float, lines[0].split())
    assert 0 < since < running + 5
