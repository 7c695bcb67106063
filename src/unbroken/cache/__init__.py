"""Results that are computed once: found again by everything that they depend on, extended, and carried to other machines.

cache = ResultCache(Path("cache"))
result = cache.get_or_compute(inputs, compute, extend, steps=240)
"""

from unbroken.cache.inputs import Inputs
from unbroken.cache.result import Result
from unbroken.cache.result_cache import ResultCache

__all__ = ["Inputs", "Result", "ResultCache"]
