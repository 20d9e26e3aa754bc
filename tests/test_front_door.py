import subprocess
import sys

import pytest

import stretto


def python(code):
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("use", ["", "stretto.load, stretto.Session, stretto.Answer, stretto.Profile, stretto.Budget"])
def test_neither_importing_nor_naming_brings_in_torch_or_an_engine(use):
    heavy = "{'torch', 'onnxruntime', 'onnx', 'fastapi', 'typer'}"
    assert python(f"import stretto, sys; {use}\nprint(sorted({heavy} & set(sys.modules)))") == "[]"


def test_importing_leaves_everything_for_later():
    assert (
        python("import stretto, sys; print(sorted(name for name in sys.modules if name.startswith('stretto.')))")
        == "[]"
    )


@pytest.mark.parametrize("name", stretto.__all__)
def test_every_public_name_is_there(name):
    assert getattr(stretto, name).__name__ == name
    assert name in dir(stretto)


def test_type_checkers_see_the_same_names():
    import ast
    import inspect

    tree = ast.parse(inspect.getsource(stretto))
    seen = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen - {"import_module", "TYPE_CHECKING", "Any"} == set(stretto.__all__)


def test_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(AttributeError, match=r"no attribute 'lode'; it has Answer, Budget"):
        stretto.lode  # noqa: B018


def test_errors_have_one_base():
    assert issubclass(stretto.BundleError, stretto.StrettoError)
    assert issubclass(stretto.InputError, stretto.StrettoError) and issubclass(stretto.InputError, ValueError)
