"""The rules of the house, read from the source itself."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT

CODE = ("core", "domains", "experiments", "benchmarks")
FILE_LINES, FUNCTION_LINES = 350, 60
HEAVY = (
    "torch", "pandas", "timm", "torchvision",
    "torch_geometric", "e3nn", "rdkit", "sklearn", "Bio", "matplotlib", "scipy",
)  # fmt: skip
GLOBAL_DRAWS = {"rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "multinomial"}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def place(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def imported_modules(path: Path) -> Iterator[str]:
    """Absolute names of everything that a file imports, at any depth."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{place(path, node)}: write imports in full"
            yield f"{node.module}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def called_name(node: ast.AST) -> str:
    """``torch.load`` of ``torch.load(...)``, '' for anything else."""
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def calls(*folders: str) -> Iterator[tuple[str, ast.Call, str]]:
    """Place, node and name of every call."""
    for path in sources(*folders):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call):
                yield place(path, node), node, called_name(node)


def is_true(call: ast.Call, keyword: str) -> bool:
    return any(k.arg == keyword and isinstance(k.value, ast.Constant) and k.value.value is True for k in call.keywords)


def test_there_is_code_to_check() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in sources(*CODE)} >= {"core", "domains"}
    assert len(sources(*CODE)) > 40


def test_core_never_imports_a_domain() -> None:
    wrong = [f"{p.name}: {m}" for p in sources("core") for m in imported_modules(p) if m.split(".")[0] == "domains"]
    assert wrong == []


def test_core_and_domains_never_import_what_is_built_on_them() -> None:
    outside = {"experiments", "benchmarks", "tests"}
    wrong = [f"{p}: {m}" for p in sources("core", "domains") for m in imported_modules(p) if m.split(".")[0] in outside]
    assert wrong == []


def test_domains_never_import_each_other() -> None:
    wrong = []
    for path in sources("domains"):
        own = path.relative_to(ROOT / "domains").parts[0]
        for module in imported_modules(path):
            parts = module.split(".")
            if parts[0] == "domains" and len(parts) > 1 and parts[1] != own:
                wrong.append(f"{path}: {module}")
    assert wrong == []


def test_files_are_at_most_350_lines() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in sources(*CODE)}
    assert {name: n for name, n in lengths.items() if n > FILE_LINES} == {}


def test_functions_are_at_most_60_lines() -> None:
    long = {
        f"{place(path, node)} {node.name}": node.end_lineno - node.lineno + 1
        for path in sources(*CODE)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES
    }
    assert long == {}


def test_modules_and_public_classes_and_functions_have_docstrings() -> None:
    missing = []
    for path in sources("core", "domains"):
        module = tree(path)
        if module.body and not ast.get_docstring(module):
            missing.append(str(path.relative_to(ROOT)))
        for node in module.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                missing += [] if ast.get_docstring(node) else [f"{place(path, node)} {node.name}"]
    assert missing == []


def test_nothing_is_unpickled_without_restriction() -> None:
    wrong = []
    for where, call, name in calls(*CODE):
        if name in ("pickle.load", "pickle.loads", "yaml.load", "joblib.load", "torch.hub.load"):
            wrong.append(f"{where} {name}")
        if name == "torch.load" and not is_true(call, "weights_only"):
            wrong.append(f"{where} {name} without weights_only=True")
        if name.endswith("load") and is_true(call, "allow_pickle"):
            wrong.append(f"{where} {name} with allow_pickle=True")
    assert wrong == []


def test_pickle_loaders_are_not_imported_by_name() -> None:
    names = {"pickle.load", "pickle.loads", "torch.load", "yaml.load", "dill", "cloudpickle", "joblib"}
    assert [f"{p}: {m}" for p in sources(*CODE) for m in imported_modules(p) if m in names] == []


def test_global_random_numbers_only_initialise_parameters_and_buffers() -> None:
    wrong = []
    for path in sources("core", "domains"):
        module = tree(path)
        makers = ("nn.Parameter", "torch.nn.Parameter", "self.register_buffer")
        parameters = [node for node in ast.walk(module) if called_name(node) in makers]
        allowed = {id(inner) for node in parameters for inner in ast.walk(node)}
        for node in ast.walk(module):
            owner, _, name = called_name(node).rpartition(".")
            drawn = owner == "torch" and name in GLOBAL_DRAWS and "generator" not in ast.unparse(node)
            numpy_global = owner in ("np.random", "numpy.random") and name != "default_rng"
            unseeded = name == "default_rng" and isinstance(node, ast.Call) and not node.args
            if (drawn or numpy_global or unseeded) and id(node) not in allowed:
                wrong.append(f"{place(path, node)} {ast.unparse(node)}")
    assert wrong == []


def test_the_standard_random_module_is_not_used() -> None:
    assert [str(p) for p in sources("core", "domains") for m in imported_modules(p) if m == "random"] == []


def test_importing_the_command_line_stays_light() -> None:
    code = f"import sys, core, core.cli; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("package", ["core", "domains"])
def test_packages_declare_their_types(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
