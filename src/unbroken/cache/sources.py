"""Which code a result depends on: the modules that compute it and all that these import of the same package.

Newlines are normalised, so that a checkout with Windows line ends has the same digests.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path


def text_digest(content: bytes) -> str:
    """Hash of a text file's bytes with its newlines normalised."""
    normal = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return hashlib.blake2b(normal, digest_size=16).hexdigest()


@functools.lru_cache(maxsize=64)
def module_sources(*roots: str) -> dict[str, str]:
    """Digests of the files of modules and of what they import, directly or not, from their own packages; by path in the package.

    Read once in a process: what runs is what was there when it was imported. Imports inside functions count, those under
    `TYPE_CHECKING` do not. Other packages are not followed. Raises ModuleNotFoundError for a root that does not exist.
    """
    packages = {root.partition(".")[0] for root in roots}
    found: dict[str, str] = {}
    waiting = list(roots)
    seen = set(waiting)
    while waiting:
        module = waiting.pop()
        path = _file_of(module)
        if path is None:
            if module in roots:
                raise ModuleNotFoundError(f"there is no module {module} with a source file")
            continue
        content = path.read_bytes()
        found[_name_in_package(module, path)] = text_digest(content)
        for name in _imported(module, path, content):
            if name.partition(".")[0] in packages and name not in seen:
                seen.add(name)
                waiting.append(name)
    return dict(sorted(found.items()))


def file_source(module: str) -> dict[str, str]:
    """The digest of a module's own file, by path in the package. Raises ModuleNotFoundError."""
    path = _file_of(module)
    if path is None:
        raise ModuleNotFoundError(f"there is no module {module} with a source file")
    return {_name_in_package(module, path): text_digest(path.read_bytes())}


def _file_of(module: str) -> Path | None:
    """The module's source file; None where the name is no module (`from package import value`) or has no source."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    origin = None if spec is None or not spec.has_location else spec.origin
    return Path(origin) if origin and origin.endswith(".py") else None


def _name_in_package(module: str, path: Path) -> str:
    parts = module.split(".")
    return "/".join([*parts, "__init__.py"] if path.name == "__init__.py" else [*parts[:-1], path.name])


def _imported(module: str, path: Path, content: bytes) -> Iterator[str]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in _executed(ast.parse(content)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    above = ".".join(parts[: len(parts) - node.level + 1])
    return f"{above}.{node.module}" if node.module else above


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only type checkers see."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        children: Iterable[ast.AST] = ast.iter_child_nodes(node)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            children = node.orelse
        waiting.extend(children)
