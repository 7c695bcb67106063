"""Describing object graphs and filling like-built ones: values, identity, and what has no plain form (A6)."""

import collections
import enum
import functools
import itertools
import math
import random
import threading
import zlib
from typing import NamedTuple

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unbroken.capture.codec import decode, encode
from unbroken.capture.filling import Filler
from unbroken.capture.objects import Describer


def stored(description):
    """Through bytes, as a checkpoint does it."""
    encoded = encode(description)
    return decode(encoded.document, b"".join(bytes(piece) for piece in encoded.block()))


def carried(value, live=None, *, path="x"):
    """What `live` becomes when the description of `value` is filled into it; nothing may be lost."""
    describer, filler = Describer(), Filler()
    description = stored(describer.describe(value, path))
    result = filler.build(description, *(() if live is None else (live,)), path=path)
    assert (describer.opaque, filler.problems) == ([], [])
    return result


class Point(NamedTuple):
    x: float
    y: float


class Colour(enum.Enum):
    RED = 1
    GREEN = "g"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Outer:
    class Kind(enum.Enum):
        ONE = 1


class Slotted:
    __slots__ = ("__hidden", "a")

    def __init__(self, a, hidden):
        self.a = a
        self.__hidden = hidden

    def hidden(self):
        return self.__hidden


class Thing:
    def __init__(self, **fields):
        vars(self).update(fields)

    def method(self):
        return vars(self)


atoms = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.text(max_size=5),
    st.floats(),
    st.complex_numbers(),
    st.binary(max_size=5),
    st.sampled_from([*Colour, Rights.READ, Rights.READ | Rights.WRITE, Rights(0), range(3), slice(1, None, 2)]),
)
keys = st.one_of(
    st.text(max_size=3), st.integers(), st.tuples(st.integers(), st.text(max_size=2)), st.booleans(), st.none()
)
values = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.lists(inner, max_size=3).map(collections.deque),
        st.dictionaries(keys, inner, max_size=3),
        st.sets(st.integers() | st.text(max_size=2), max_size=3),
        st.frozensets(st.integers(), max_size=3),
    ),
    max_leaves=8,
)


def alike(one, two):
    """Equal, of the same types, with NaN equal to itself and -0.0 not to 0.0."""
    if type(one) is not type(two):
        return False
    if isinstance(one, float):
        return (math.isnan(one) and math.isnan(two)) or (one == two and math.copysign(1, one) == math.copysign(1, two))
    if isinstance(one, complex):
        return alike(one.real, two.real) and alike(one.imag, two.imag)
    if isinstance(one, dict):
        return list(one) == list(two) and all(alike(one[k], two[k]) for k in one)
    if isinstance(one, list | tuple | collections.deque):
        return len(one) == len(two) and all(map(alike, one, two))
    return one == two


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values, values)
def test_any_plain_value_is_carried_whatever_was_there(value, live):
    """A6: containers nested in one another; NaN, infinities, minus zero, big integers."""
    assert alike(carried(value), value)
    assert alike(carried(value, live), value)


@pytest.mark.parametrize(
    "value",
    [
        2**20_000,
        -(2**20_000),
        "\ud800 lone",
        "\x00",
        float("nan"),
        float("-inf"),
        -0.0,
        5e-324,
        [0.1, float("nan")],
        collections.OrderedDict(b=1, a=2),
        collections.Counter("abca"),
        collections.deque([1, 2], maxlen=2),
        np.float32(0.1),
        np.int8(-3),
        np.datetime64("2020-01-01"),
        np.str_("text"),
        np.bool_(True),
        np.longdouble("0.1"),
        np.array(5),
        np.array([["a", "bc"]]),
        np.array([1, None, "x"], dtype=object),
        torch.tensor([1.5, float("nan")], dtype=torch.bfloat16),
        torch.arange(6).reshape(2, 3).T,
        torch.tensor(3),
        torch.zeros(0, 3),
        torch.tensor([True]),
        torch.tensor([1 + 2j]),
        torch.tensor([1.0], dtype=torch.float16),
    ],
    ids=lambda value: type(value).__name__,
)
def test_single_values(value):
    """A6: every kind of number, array and tensor."""
    found = carried(value)
    assert type(found) is type(value)
    if isinstance(value, torch.Tensor):
        assert (found.dtype, found.shape) == (value.dtype, value.shape)
        assert torch.equal(torch.nan_to_num(found), torch.nan_to_num(value))
    elif isinstance(value, np.ndarray):
        assert (found.dtype, found.shape) == (value.dtype, value.shape)
        assert found.tolist() == value.tolist()
    else:
        assert alike(found, value) or found == value
    if isinstance(value, collections.deque):
        assert found.maxlen == value.maxlen


def test_shared_references_stay_shared():
    """A6: two names for one list, array, generator; also where the live graph shared differently."""
    array, generator, items = np.zeros(3), np.random.default_rng(1), [1]
    value = Thing(a=array, b=array, c=generator, d=[generator, items], e=items)
    live = Thing(a=np.ones(3), b=np.ones(3), c=np.random.default_rng(2), d=[np.random.default_rng(3), [2]], e=[3])
    found = carried(value, live)
    assert found is live
    assert found.a is found.b
    assert found.c is found.d[0]
    assert found.d[1] is found.e
    apart = carried(Thing(a=np.zeros(2), b=np.ones(2)), Thing(**dict.fromkeys("ab", np.full(2, 7.0))))
    assert apart.a is not apart.b
    assert (apart.a.tolist(), apart.b.tolist()) == ([0, 0], [1, 1])


def test_cycles_are_kept():
    """A6: an object that knows itself, a list in itself, a cycle through a tuple."""

    def looped(number):
        thing = Thing(number=number, items=[])
        thing.me = thing
        thing.items.append(thing.items)
        thing.pair = (thing.items, [thing])
        return thing

    found = carried(looped(1), looped(2))
    assert found.me is found
    assert found.items[0] is found.items
    assert found.pair[0] is found.items
    assert found.pair[1][0] is found
    assert found.number == 1

    def through_tuple():
        inner = []
        pair = (inner, 5)
        inner.append(pair)
        return pair

    live = through_tuple()
    assert carried(through_tuple(), live) is live


def test_a_cycle_that_cannot_be_made_is_said():
    """Promise 3: a tuple in a list in itself, where nothing like it exists."""
    inner = []
    inner.append((inner,))
    pair = (inner, 1)
    inner.append(pair)
    filler = Filler()
    filler.build(stored(Describer().describe(pair)))
    assert filler.problems


def test_arrays_and_containers_are_filled_in_place():
    """A6: whoever else refers to them sees the restored state."""
    array, items, numbers = np.zeros(3), {"k": [1]}, collections.deque([1], maxlen=3)
    live = Thing(array=array, items=items, numbers=numbers)
    carried(Thing(array=np.arange(3.0), items={"k": [2, 3]}, numbers=collections.deque([4, 5], maxlen=3)), live)
    assert live.array is array
    assert array.tolist() == [0, 1, 2]
    assert live.items is items
    assert items == {"k": [2, 3]}
    assert live.numbers is numbers
    assert list(numbers) == [4, 5]
    other = carried(np.arange(4.0), np.zeros(3))
    assert other.tolist() == [0, 1, 2, 3]


def test_objects_are_filled_not_made_and_lose_what_was_not_there():
    """Promise 6: only attributes change; private slots and attributes that come and go included."""
    live = Thing(a=1, extra=2)
    assert carried(Thing(a=5, b=[1]), live) is live
    assert vars(live) == {"a": 5, "b": [1]}
    slotted = carried(Slotted(1, [2]), Slotted(3, [4]))
    assert (slotted.a, slotted.hidden()) == (1, [2])


def test_named_tuples_and_enumerations():
    """A6: into what is there; a nested enumeration by its place in the module."""
    found = carried(
        Thing(p=Point(1.0, 2.0), c=Colour.GREEN, r=Rights.READ | Rights.WRITE),
        Thing(p=Point(0.0, 0.0), c=Colour.RED, r=Rights.READ),
    )
    assert found.p == Point(1.0, 2.0)
    assert type(found.p) is Point
    assert found.c is Colour.GREEN
    assert found.r == Rights.READ | Rights.WRITE
    assert carried(Thing(k=Outer.Kind.ONE), Thing(k=None)).k is Outer.Kind.ONE
    assert carried(Thing(k=Colour.RED), Thing(k=None)).k is Colour.RED


def test_generators_go_on_with_the_same_numbers():
    """A6: numpy's of every kind, the old one, python's, torch's, and those inside spaces."""
    for bits in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64):
        generator = np.random.Generator(bits(3))
        generator.standard_normal(5)
        generator.integers(0, 5, dtype=np.int8)
        filled, made = carried(generator, np.random.Generator(bits(9))), carried(generator)
        expected = generator.random(4).tolist()
        assert filled.random(4).tolist() == made.random(4).tolist() == expected
    old = np.random.RandomState(3)
    old.normal()
    found = carried(old, np.random.RandomState(4))
    assert found.normal() == old.normal()
    python = random.Random(3)
    python.gauss(0, 1)
    found = carried(python, random.Random(4))
    assert found.gauss(0, 1) == python.gauss(0, 1)
    assert found.random() == python.random()
    torches = torch.Generator().manual_seed(3)
    found = carried(torches, torch.Generator())
    assert torch.equal(torch.rand(3, generator=found), torch.rand(3, generator=torches))


def test_spaces_keep_their_generators_all_the_way_down():
    """A6: composite spaces draw from the generators of their parts."""

    def space(seed):
        made = gymnasium.spaces.Dict(
            {
                "a": gymnasium.spaces.Tuple((gymnasium.spaces.Discrete(9), gymnasium.spaces.Box(0, 1, (2,)))),
                "b": gymnasium.spaces.MultiBinary(3),
                "c": gymnasium.spaces.Sequence(gymnasium.spaces.Discrete(4)),
            }
        )
        made.seed(seed)
        return made

    value, live = space(1), space(2)
    value.sample()
    found = carried(value, live)
    assert found is live
    for _ in range(3):
        one, two = value.sample(), found.sample()
        assert one["a"][0] == two["a"][0]
        assert one["a"][1].tolist() == two["a"][1].tolist()
        assert one["b"].tolist() == two["b"].tolist()
        assert one["c"] == two["c"]


def test_modules_and_optimizers_inside_objects():
    """A6: a network of the user's own, with its optimizer's moments."""

    def made(seed):
        torch.manual_seed(seed)
        network = torch.nn.Linear(2, 1)
        optimizer = torch.optim.Adam(network.parameters())
        network(torch.ones(2)).backward()
        optimizer.step()
        return Thing(network=network, optimizer=optimizer)

    value, live = made(1), made(2)
    found = carried(value, live)
    for thing in (value, found):
        thing.optimizer.step()
    assert torch.equal(value.network.weight, found.network.weight)


def test_a_snapshot_is_not_changed_by_what_comes_later():
    """A6: updates of every mutable thing after the description was made."""
    network = torch.nn.Linear(1, 1)
    value = Thing(
        array=np.zeros(2),
        tensor=torch.zeros(2),
        items=[1],
        numbers=[0.5],
        mapping={"a": [1]},
        queue=collections.deque([1]),
        generator=np.random.default_rng(0),
        raw=bytearray(b"ab"),
        unique={1},
        network=network,
        space=gymnasium.spaces.Discrete(3, seed=1),
        inner=Thing(x=1),
        objects=np.array([[1], None], dtype=object),
    )
    description = Describer().describe(value)
    before = stored(description)
    value.array += 1
    value.tensor += 1
    value.items.append(2)
    value.numbers[0] = 1.5
    value.mapping["a"].append(2)
    value.queue.append(2)
    value.generator.random()
    value.raw[0] = 0
    value.unique.add(2)
    with torch.no_grad():
        network.weight += 1
    value.space.sample()
    value.inner.x = 2
    value.objects[0].append(5)
    after = stored(description)
    from unbroken.capture.comparison import compare_states

    compared = compare_states(before, after)
    assert compared.identical, compared.text()


class Counted(np.ndarray):
    pass


@pytest.mark.parametrize(
    "value",
    [
        (n for n in range(3)),
        itertools.count(),
        iter([1]),
        zlib.compressobj(),
        map(str, [1]),
        threading.local(),
        memoryview(b"a"),
        np.ma.masked_array([1, 2], mask=[0, 1]),
        np.zeros(2).view(Counted),
        np.zeros(2, dtype="V4"),
        np.zeros(2, dtype=[("a", "f4")]),
        np.zeros(2, dtype="V4")[0],
        np.zeros(1, dtype=[("a", "f4")])[0],
        type("Own", (dict,), {})(a=1),
        type("Own", (list,), {})([1]),
        type("Own", (collections.deque,), {})([1]),
        type("Own", (set,), {})([1]),
        Exception("x"),
        object(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_plain_form_is_named_and_never_passed_over(value):
    """Promise 3: state inside C, subclasses of containers, masks; the description can still be stored."""
    describer = Describer()
    description = stored(describer.describe(Thing(part=value), "thing"))
    assert len(describer.opaque) == 1
    assert describer.opaque[0].startswith("thing.part: ")
    filler = Filler()
    live = Thing(part=value)
    filler.build(description, live, "thing")
    assert live.part is value
    assert len(filler.problems) == 1


@pytest.mark.parametrize(
    "value", [len, math.sin, np.add, functools.partial(int, base=2), Thing, threading.Lock(), print]
)
def test_code_and_inert_things_are_left_as_they_are(value):
    """A6: functions and locks belong to the program, not to the state."""
    live = Thing(part=value)
    assert carried(Thing(part=value), live).part is value


def test_other_code_in_the_place_is_a_problem():
    """Promise 3: only code can put a function back."""
    filler = Filler()
    filler.build(stored(Describer().describe(Thing(part=len))), Thing(part=print), "thing")
    assert filler.problems == ["thing.part: was builtins:len, which only code can put there"]


def test_an_object_of_another_class_is_a_problem_and_untouched():
    """Promise 6: a file does not choose classes."""
    filler = Filler()
    live = Slotted(1, 2)
    assert filler.build(stored(Describer().describe(Thing(a=5))), live, "x") is live
    assert live.a == 1
    assert len(filler.problems) == 1


def test_keys_that_cannot_be_made_are_left_out_and_said():
    """Promise 3: a named tuple as a key, where nothing like it is."""
    filler = Filler()
    found = filler.build(stored(Describer().describe({Point(1.0, 2.0): 5, "a": 1})), {}, "x")
    assert found == {"a": 1}
    assert filler.problems


class Exotic(dict):
    def __init__(self):
        raise TypeError("takes nothing, gives nothing")


class Plain(dict):
    def __init__(self, first, second):
        super().__init__({first: second})


def test_exotic_containers_do_not_cost_the_checkpoint():
    """A6: what plain SB3 loads may hold any container; constructors of subclasses take what they like."""
    from unbroken.capture.state_dicts import cloned

    words = collections.defaultdict(list, {"a": [1]})
    copied = cloned(words)
    words["a"].append(2)
    assert (type(copied), copied["a"], copied["new"]) == (collections.defaultdict, [1], [])
    assert cloned(Plain("a", [1])) == {"a": [1]}
    assert cloned(collections.Counter("aab")) == {"a": 2, "b": 1}
    assert cloned(torch.Size([2, 3])) == torch.Size([2, 3])
    assert cloned(Point(1.0, [2.0])) == Point(1.0, [2.0])

    class Refuses(list):
        def __copy__(self):
            raise RuntimeError("not me")

    refuses = Refuses([1])
    assert cloned({"a": refuses})["a"] is refuses
    assert cloned(Exotic.__new__(Exotic)) == {}


def counting(start, shared=None):
    state = {"n": start}

    def count():
        state["n"] += 1
        return state, shared

    return count


@pytest.mark.parametrize(
    ("make", "hidden"),
    [
        (lambda: counting(0), "closure"),
        (lambda: functools.partial(int, base=2), None),
        (lambda: functools.partial(counting(0)), "partial"),
        (lambda: functools.partial(len, [1]), "partial"),
        (lambda: (lambda n: lambda: n)(5), None),
        (lambda: (lambda n: lambda: n)((1, "a", len, None)), None),
        (lambda: (lambda n: lambda: n)((1, [2])), "closure"),
        (lambda: (lambda inner: lambda: inner())(counting(0)), "closure"),
        (lambda: (lambda rng: lambda: rng.random())(np.random.default_rng()), "closure"),
        (lambda: np.random.default_rng().random, "method of an object"),
        (lambda: random.Random(1).random, "method of an object"),
        (lambda: Thing().method, "method of an object"),
        (lambda: random.random, None),
        (lambda: np.random.normal, None),
        (lambda: len, None),
        (lambda: Thing.method, None),
        (lambda: "text".upper, None),
    ],
)
def test_state_in_a_callable_is_named(make, hidden):
    """Promise 3: code goes back with the program, what its closure counts or its object holds does not."""
    describer = Describer()
    describer.describe(Thing(part=make()), "thing")
    assert describer.opaque == ([f"thing.part: {hidden} with state"] if hidden else [])


def test_a_closure_over_what_is_captured_anyway_is_no_gap():
    """A6: over the object itself, or over something that another attribute holds, before it or after it."""
    generator = np.random.default_rng(1)
    thing = Thing()
    thing.first = lambda: generator.random()
    thing.me = lambda: thing.generator
    thing.bound = thing.method
    thing.draw = generator.random
    thing.bound_to = functools.partial(generator.normal, 1.0)
    thing.generator = generator
    describer = Describer()
    describer.describe(thing, "thing")
    assert describer.opaque == []


class Mixin:
    pass


class Numbered(int, Mixin):
    def __int__(self):
        return 0


class Named(str, Mixin):
    def __str__(self):
        return "other"


def test_numbers_and_texts_with_mixins():
    """A6: the builtin base, wherever the class has it."""
    assert [Describer().describe(value) for value in (Numbered(5), Named("a"))] == [5, "a"]
    assert type(Describer().describe(Named("a"))) is str


@pytest.mark.parametrize("axes", [(0, 3, 1, 2), (3, 2, 1, 0), (1, 0, 2, 3), (0, 1, 2, 3)])
@pytest.mark.parametrize("live", [False, True])
def test_an_array_keeps_its_order_in_memory(axes, live):
    """A6: a transposed image takes another convolution kernel than the same numbers side by side."""
    value = np.arange(120, dtype=np.uint8).reshape(2, 3, 4, 5).transpose(axes)
    found = carried(value, np.zeros(value.shape, np.uint8) if live else None)
    assert np.array_equal(found, value)
    assert found.strides == value.strides
    assert found.flags.writeable
