"""The rules of the house that a machine can hold."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from main import ENTRY_POINTS
from tests.upload import REPOSITORY

FLOORS = ("functions", "shared", "local_emulator")
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
# Where decisions about time have to be the database's, or the caller's argument.
CLOCKLESS = ("shared/stores", "shared/domain")
HOST_CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
# The word for the server's clock belongs to what is sent to the server.
SERVER_CLOCK = "$$NOW"
# Two modules that know different parts of one collection's documents.
SHARED_COLLECTIONS = {
    "connectors": {"connectors", "rate_limits"},
    "jobs": {"jobs", "job_leases", "job_summaries", "series_jobs"},
}
PURE_FLOOR_IMPORTS_BANNED = {"pymongo", "bson", "requests", "flask", "os", "socket", "urllib3", "pydantic_settings"}


def modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (REPOSITORY / folder).rglob("*.py") if "__pycache__" not in path.parts)


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def functions_of(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def strings_of(path: Path) -> list[str]:
    """All string constants of a module but its docstrings."""
    tree = ast.parse(path.read_text())
    prose = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose
    ]


def test_no_file_is_too_long() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in modules(*FLOORS)}
    assert {name: lines for name, lines in lengths.items() if lines > FILE_LINES_MAX} == {}


def test_no_function_is_too_long() -> None:
    lengths = {
        f"{name_of(path)}:{function.name}": (function.end_lineno or 0) - function.lineno + 1
        for path in modules(*FLOORS)
        for function in functions_of(path)
    }
    assert {name: lines for name, lines in lengths.items() if lines > FUNCTION_LINES_MAX} == {}


def test_every_module_says_what_it_is() -> None:
    assert [name_of(path) for path in modules(*FLOORS) if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_every_public_function_says_what_it_promises() -> None:
    silent = [
        f"{name_of(path)}:{function.name}"
        for path in modules("functions", "shared")
        for function in _public(ast.parse(path.read_text()))
        if not ast.get_docstring(function)
    ]
    assert silent == []


def _public(tree: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from _public(node)


@pytest.mark.parametrize("folder", CLOCKLESS)
def test_no_host_clock_decides_anything(folder: str) -> None:
    read = [
        f"{name_of(path)}:{node.lineno}"
        for path in modules(folder)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ".".join(ast.unparse(node).split(".")[-2:]) in HOST_CLOCKS
    ]
    imported = [
        name_of(path)
        for path in modules(folder)
        if re.search(r"^from time import .*\b(time|time_ns)\b", path.read_text(), flags=re.MULTILINE)
    ]
    assert read + imported == []


def test_the_servers_clock_is_spelled_in_stores_only() -> None:
    stores = {name_of(path) for path in modules("shared/stores")}
    spelled = {name_of(path) for path in modules("functions", "shared") if any(SERVER_CLOCK in s for s in strings_of(path))}
    assert spelled <= stores
    assert spelled, "else this looks for the wrong word"


def test_the_domain_does_no_io() -> None:
    imported = {
        (name_of(path), module.split(".")[0])
        for path in modules("shared/domain")
        for node in ast.walk(ast.parse(path.read_text()))
        for module in _imports(node)
    }
    assert [pair for pair in sorted(imported) if pair[1] in PURE_FLOOR_IMPORTS_BANNED] == []


def _imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module else []


def test_a_collections_name_is_spelled_only_in_its_store() -> None:
    owners: dict[str, set[str]] = {}
    for path in modules("shared/stores"):
        for name in re.findall(r'^COLLECTION: Final = "(\w+)"$', path.read_text(), flags=re.MULTILINE):
            owners.setdefault(name, set()).add(path.stem)
    assert {"connectors", "jobs", "job_runs", "alerts", "audit_log"} <= set(owners)
    assert {name: stems for name, stems in owners.items() if len(stems) > 1} == SHARED_COLLECTIONS
    reached = [
        f"{name_of(path)}:{node.lineno}"
        for path in modules("functions", "shared")
        if path.parent.name != "stores"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("collection", "candles_collection", "get_collection")
    ]
    assert reached == [], "only stores take collections from the database"


def test_the_entry_points_are_the_functions() -> None:
    gateway_aside = {path.stem for path in modules("functions")} - {"__init__", "gateway"}
    assert gateway_aside >= set(ENTRY_POINTS)
    for name in ENTRY_POINTS:
        defined = {function.name for function in functions_of(REPOSITORY / "functions" / f"{name}.py")}
        assert name in defined, f"functions/{name}.py has no function {name}"


@pytest.mark.parametrize(
    "name", ["requirements.txt", "requirements-emulator.txt", "requirements-export.txt", "requirements-dev.txt"]
)
def test_every_requirement_is_pinned(name: str) -> None:
    lines = [line.split("#")[0].strip() for line in (REPOSITORY / name).read_text().splitlines()]
    # A pin, and perhaps the platforms that it is for.
    pin = re.compile(r"[\w.\-\[\]]+==[\w.]+(; .+)?")
    loose = [line for line in lines if line and not line.startswith("-r ") and not pin.fullmatch(line)]
    assert loose == []


def test_nothing_is_left_to_do() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    assert [name_of(path) for path in modules(*FLOORS) if marks.search(path.read_text())] == []
