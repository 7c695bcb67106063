"""Which code a result depends on: the modules that compute it and what these import that is not installed from elsewhere.

Newlines are normalised, so that a checkout with Windows line ends has the same digests. Nothing is imported to find out.
"""

from __future__ import annotations

import ast
import codecs
import contextlib
import functools
import hashlib
import importlib
import importlib.util
import logging
import marshal
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from unbroken import logs

_FRONT = "unbroken"
_CHUNK = 1 << 20
# a file of names and the version, and one of exceptions: nothing is computed of them; a test holds them to that
_NEUTRAL = frozenset({_FRONT, "unbroken.errors"})
# of statements, where further ones stand
_PARTS = ("body", "orelse", "finalbody", "handlers", "cases")


def with_plain_newlines(content: bytes) -> bytes:
    """A text file's bytes as a checkout with Unix line ends has them."""
    return content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def text_digest(content: bytes) -> str:
    """Hash of a text file's bytes with its newlines normalised."""
    return hashlib.blake2b(with_plain_newlines(content), digest_size=16).hexdigest()


def data_digest(path: Path) -> str:
    """Hash of a file of data: of text as `text_digest`, of anything else as it is. Read again only when it has changed."""
    facts = path.stat()
    return _data_digest(path.absolute(), (facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns))


@functools.lru_cache(maxsize=100_000)
def _data_digest(path: Path, facts: tuple[int, ...]) -> str:
    as_it_is, as_text = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
    letters, is_text, held = codecs.getincrementaldecoder("utf-8")(), True, b""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            as_it_is.update(chunk)
            if is_text:
                is_text = b"\0" not in chunk and _decodes(letters, chunk)
                # a line end may lie across two chunks
                whole = held + chunk
                held = b"\r" if whole.endswith(b"\r") else b""
                as_text.update(with_plain_newlines(whole[: len(whole) - len(held)]))
    as_text.update(with_plain_newlines(held))
    return as_text.hexdigest() if is_text and _decodes(letters, b"", final=True) else as_it_is.hexdigest()


def _decodes(letters: codecs.IncrementalDecoder, chunk: bytes, *, final: bool = False) -> bool:
    try:
        letters.decode(chunk, final)
    except UnicodeDecodeError:
        return False
    return True


def module_sources(*roots: str) -> dict[str, str]:
    """Digests of the files of modules and of what they import, directly or not; by path in the package.

    Followed are imports of the roots' own packages, of this one, and of whatever lies outside of `site-packages` and the standard
    library. Imports inside functions count, those by `import_module` with a name that stands there, those under `TYPE_CHECKING`
    where a package hands them out by its `__getattr__`, and packages above a module with what they import themselves; not what is
    imported by a name that is made at run time, from a folder that a module puts on the path, or from a zip. Read once in a
    process: what runs is what was there when it was imported. A file that has changed since gets a digest that no other process
    finds, and a warning. Raises ModuleNotFoundError for a root that does not exist.
    """
    return dict(_module_sources(roots))


def file_source(module: str) -> dict[str, str]:
    """The digest of a module's own file, by path in the package. Raises ModuleNotFoundError."""
    _forget()
    return {_name_in_package(module, path): _digest(module, path) for path in [_existing(module)]}


def changed_module(sources: Mapping[str, str]) -> str | None:
    """The first file among such digests that is another now, or gone; None while all are as they were.

    For who takes digests in one process and computes in another, which imports what is there by then. Names that are no modules
    are not looked at.
    """
    for name, digest in sources.items():
        module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        path = _file_of(module) if name.endswith(".py") else None
        if path is not None and (not path.is_file() or text_digest(path.read_bytes()) != digest):
            return name
    return None


@functools.lru_cache(maxsize=64)
def _module_sources(roots: tuple[str, ...]) -> dict[str, str]:
    _forget()
    followed = {_top(root) for root in roots} | {_FRONT}
    found: dict[str, str] = {}
    waiting = [_Wanted(root) for root in roots]
    seen: set[_Wanted] = set()
    for root in roots:
        _existing(root)
    while waiting:
        wanted = waiting.pop()
        if wanted in seen:
            continue
        seen.add(wanted)
        path = _file_of(wanted.module)
        if path is not None and wanted.module not in _NEUTRAL:
            found[_name_in_package(wanted.module, path)] = _digest(wanted.module, path)
        waiting += [new for new in _needed(wanted, path) if _is_own(_top(new.module), followed)]
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class _Wanted:
    """A module, or a package of ours that only stands above one: then the bodies of its functions do not count."""

    module: str
    as_parent: bool = False


@dataclass(frozen=True)
class _Parsed:
    """What a file imports: `(module, names)`, names empty for `import module`; at all, at its top level, and lazily by name.

    `exported` are the names of its `__all__`.
    """

    imports: tuple[tuple[str, tuple[str, ...]], ...]
    at_top: tuple[tuple[str, tuple[str, ...]], ...]
    lazy: tuple[tuple[str, str], ...]
    exported: tuple[str, ...]


def _needed(wanted: _Wanted, path: Path | None) -> Iterator[_Wanted]:
    """What a module needs: its packages, and what its file imports."""
    yield from _above(wanted.module)
    if path is None or wanted.module in _NEUTRAL:
        return
    parsed = _parsed(wanted.module, path)
    for module, names in parsed.at_top if wanted.as_parent else parsed.imports:
        yield from _imported(module, names)


def _above(module: str) -> Iterator[_Wanted]:
    """The packages above a module. What theirs does at its top may call any of their functions; ours do not."""
    parts = module.split(".")
    yield from (_Wanted(".".join(parts[:n]), as_parent=parts[0] == _FRONT) for n in range(1, len(parts)))


def _imported(module: str, names: tuple[str, ...]) -> Iterator[_Wanted]:
    path = _file_of(module)
    parsed = None if path is None else _parsed(module, path)
    if "*" in names:
        names = (*names, *(parsed.exported if parsed else ()))
    inside = [name for name in names if _file_of(f"{module}.{name}") is not None]
    yield from (_Wanted(f"{module}.{name}") for name in inside)
    as_parent = _top(module) == _FRONT and bool(names) and len(inside) == len(names)
    yield _Wanted(module, as_parent=as_parent)
    if parsed:
        yield from (_Wanted(home) for name, home in parsed.lazy if not names or name in names)
    if not names and _top(module) != _FRONT:
        # `import a.b` is also the name `a`
        parts = module.split(".")
        yield from (_Wanted(".".join(parts[:n])) for n in range(1, len(parts)))


@functools.lru_cache(maxsize=2048)
def _parsed(module: str, path: Path) -> _Parsed:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:
        # whoever runs it is told by Python; who imports it in vain depends on its text alone
        return _Parsed((), (), (), ())
    hidden = [node for node in tree.body if _is_for_checkers(node)]
    hands_out = any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body)
    unseen = [imported for node in hidden for imported in _imports(node.body, package, whole=True)]  # type: ignore[attr-defined]
    return _Parsed(
        imports=(*_imports(tree.body, package, whole=True), *_calls(tree, module, package)),
        at_top=tuple(_imports(tree.body, package, whole=False)),
        lazy=tuple((name, home) for home, names in unseen for name in names) if hands_out else (),
        exported=tuple(_exported(tree)),
    )


def _calls(tree: ast.Module, module: str, package: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Imports by `import_module("name")` and `__import__("name")`; a relative name may be that of the module or its package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called, name = node.func, node.args[0].value
            by = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
            if by in ("import_module", "__import__") and isinstance(name, str):
                for base in (module, package):
                    with contextlib.suppress(ImportError):
                        yield importlib.util.resolve_name(name, base), ()


def _exported(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.List | ast.Tuple):
            continue
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets):
            names = (item.value for item in node.value.elts if isinstance(item, ast.Constant))
            yield from (name for name in names if isinstance(name, str))


def _imports(body: Iterable[ast.AST], package: str, *, whole: bool) -> Iterator[tuple[str, tuple[str, ...]]]:
    for node in _statements(body, whole):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield _absolute(node, package), tuple(alias.name for alias in node.names)


def _statements(body: Iterable[ast.AST], whole: bool) -> Iterator[ast.AST]:
    """All statements but those that only type checkers see; without the bodies of functions unless `whole`."""
    waiting = list(body)
    while waiting:
        node = waiting.pop()
        yield node
        if whole or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            parts = ("orelse",) if _is_for_checkers(node) else _PARTS
            waiting += [inner for part in parts for inner in getattr(node, part, ())]


def _is_for_checkers(node: ast.AST) -> bool:
    test = node.test if isinstance(node, ast.If) else None
    name = test.attr if isinstance(test, ast.Attribute) else test.id if isinstance(test, ast.Name) else None
    return name == "TYPE_CHECKING"


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    above = ".".join(parts[: len(parts) - node.level + 1])
    return f"{above}.{node.module}" if node.module else above


def _top(module: str) -> str:
    return module.partition(".")[0]


def _is_own(top: str, followed: set[str]) -> bool:
    return top in followed or not _is_installed(top)


@functools.cache
def _is_installed(top: str) -> bool:
    """Whether it comes from elsewhere, or is not there at all."""
    places = _places(top)
    elsewhere = {"site-packages", "dist-packages"}
    return not places or top in sys.stdlib_module_names or all(elsewhere & {*place.parts} for place in places)


@functools.cache
def _places(top: str) -> tuple[Path, ...]:
    """The file of a module, or the folders of a package, that is found by its name alone."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return ()
    if spec is None:
        return ()
    if spec.submodule_search_locations:
        return tuple(map(Path, spec.submodule_search_locations))
    return (Path(spec.origin),) if spec.has_location and spec.origin else ()


@functools.lru_cache(maxsize=4096)
def _file_of(module: str) -> Path | None:
    """The module's source file; None where the name is no module (`from package import value`) or has no source."""
    top, *below = module.split(".")
    for place in _places(top) if top else ():
        if below and place.suffix == ".py":
            continue
        inside = place.joinpath(*below)
        for path in (inside / "__init__.py", inside.with_name(f"{inside.name}.py"), inside):
            if path.suffix == ".py" and path.is_file():
                return path
    return None


def _existing(module: str) -> Path:
    path = _file_of(module)
    if path is None:
        raise ModuleNotFoundError(f"there is no module {module} with a source file")
    return path


def _forget() -> None:
    """Look again: in a notebook modules come into being, and folders onto the path, while the process runs."""
    importlib.invalidate_caches()
    for cached in (_parsed, _is_installed, _places, _file_of):
        cached.cache_clear()


def _name_in_package(module: str, path: Path) -> str:
    parts = module.split(".")
    return "/".join([*parts, "__init__.py"] if path.name == "__init__.py" else [*parts[:-1], path.name])


def _digest(module: str, path: Path) -> str:
    if module in sys.modules and _has_changed(path):
        logs.LOGGER.warning(
            "[CACHE] WARNING: %s has changed since this process imported it: its results are kept for no other; start again",
            path,
        )
        return f"changed {uuid4().hex}"
    return text_digest(path.read_bytes())


def _has_changed(path: Path) -> bool:
    """Whether a file may be another one than what was imported. A time in the future is that of another clock and says nothing."""
    facts, now = path.stat(), time.time()
    if facts.st_mtime > now:
        return False
    # copies keep the time of their content, and only the system sets the other one, for new names and rights too
    return _begun() < facts.st_mtime or (_begun() < facts.st_ctime <= now and not _was_compiled_before(path, facts))


def _was_compiled_before(path: Path, facts: os.stat_result) -> bool:
    """Whether the bytecode beside a source is of the source as it is, and was written before the file's last change of any kind.

    What was imported then is what is there: other rights, another name, a backup by links are no other content.
    """
    try:
        compiled = Path(importlib.util.cache_from_source(str(path)))
        content = compiled.read_bytes()
        is_older = compiled.stat().st_mtime <= facts.st_ctime
        return is_older and marshal.loads(content[16:]) == compile(
            path.read_bytes(), str(path), "exec", dont_inherit=True
        )
    except (OSError, NotImplementedError, ValueError, EOFError, TypeError, SyntaxError):
        return False


def _begun() -> float:
    """Seconds since 1970 when `logging` was imported, which every process does before it computes anything; forks inherit it."""
    record = logging.LogRecord("", logging.INFO, "", 0, "", None, None)
    return record.created - record.relativeCreated / 1000
