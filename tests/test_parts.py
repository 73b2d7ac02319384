"""Parts by name: words, classes of the user's own, and what may not be imported."""

import sys

import pytest

from declip_pl import parts
from declip_pl.errors import UserError
from declip_pl.parts import Registry, as_text, read_spec, short


@pytest.fixture
def registry():
    """A registry of cakes, which are made from flour."""
    cakes = Registry("cake")

    @cakes.register("plain")
    class Plain:
        def __init__(self, flour, sugar=1):
            self.flour, self.sugar = flour, sugar

    @cakes.register("bread")
    def bread(flour):
        return [flour]

    return cakes


def write(folder, name, body="class Cake:\n    def __init__(self, flour, icing=0):\n        "
          "self.flour, self.icing = flour, icing\n"):  # fmt: skip
    (folder / name).write_text(body)
    return folder / name


def test_words_and_classes_with_arguments(registry):
    assert registry.names() == ["plain", "bread"]
    plain = registry.make("plain", 3)
    assert (plain.flour, plain.sugar) == (3, 1)
    for spec in ({"class_path": "plain", "init_args": {"sugar": 5}},):
        sweet = registry.make(spec, 3)
        assert type(sweet) is type(plain) and (sweet.flour, sweet.sugar) == (3, 5)
    for init_args in ({}, {"init_args": {}}, {"init_args": None}):
        assert registry.make({"class_path": "bread"} | init_args, 7) == [7]


def test_a_named_file_stays_loaded_wherever_one_goes(registry, tmp_path, monkeypatch):
    write(tmp_path, "own_near.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DECLIP_PARTS", "own_near.py")
    first = registry.make("own_near.Cake", 3)
    monkeypatch.chdir("/")
    assert type(registry.make("own_near.Cake", 3)) is type(first)


@pytest.mark.parametrize(
    "spec",
    [3, None, ["plain"], {}, {"init_args": {}}, {"class_path": 3}, {"class_path": None},
     {"class_path": "plain", "init_args": [1]}, {"class_path": "plain", "sugar": 5}],
)  # fmt: skip
def test_what_is_no_spec_is_refused(registry, spec):
    with pytest.raises(UserError, match="expected a name, or class_path and init_args; found"):
        registry.make(spec, 3)


def test_wrong_arguments_are_named_with_the_right_ones(registry):
    with pytest.raises(UserError, match=r"cake plain: .*'salt'; it takes flour, sugar"):
        registry.make({"class_path": "plain", "init_args": {"salt": 5}}, 3)
    with pytest.raises(UserError, match=r"cake plain: missing.*'flour'; it takes flour, sugar"):
        registry.make("plain")
    with pytest.raises(UserError, match=r"cake plain: multiple values.*'flour'"):
        registry.make({"class_path": "plain", "init_args": {"flour": 5}}, 3)


def test_a_parts_own_type_error_is_not_taken_for_wrong_arguments(registry):
    @registry.register("broken")
    def broken(flour):
        return flour + "sugar"

    with pytest.raises(TypeError, match="unsupported operand"):
        registry.make("broken", 3)


def test_an_unknown_word_lists_the_words(registry):
    message = r"there is no cake 'pie'; choose one of plain, bread, or a class of your own"
    with pytest.raises(UserError, match=message):
        registry.make("pie", 3)


def test_one_name_stands_for_one_part(registry):
    with pytest.raises(UserError, match=r"two parts called 'bread' \(cake\)"):
        registry.register("bread")(list)
    assert registry.make("bread", 3) == [3]


def test_classes_of_a_file(registry, tmp_path, monkeypatch):
    monkeypatch.setenv("DECLIP_PARTS", str(write(tmp_path, "own_cakes.py")))
    spec = {"class_path": "own_cakes.Cake", "init_args": {"icing": 2}}
    cake = registry.make(spec, 3)
    assert (cake.flour, cake.icing) == (3, 2)
    assert type(registry.make("own_cakes.Cake", 3)) is type(cake)  # loaded once
    assert registry.knows(spec) and registry.knows("own_cakes.Cake") and registry.knows("plain")
    assert not registry.knows("other/own_cakes") and not registry.knows("pie")
    with pytest.raises(UserError, match="own_cakes has no class Pie"):
        registry.make("own_cakes.Pie", 3)


def test_a_file_may_register_words_of_its_own(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "CAKES", registry, raising=False)
    body = (
        "from declip_pl import parts\n\n"
        "@parts.CAKES.register('mine')\n"
        "def mine(flour):\n    return ['mine', flour]\n"
    )
    monkeypatch.setenv("DECLIP_PARTS", str(write(tmp_path, "own_words.py", body)))
    for _ in range(2):  # importing it again would register the word twice
        assert registry.make("mine", 3) == ["mine", 3]
    assert registry.names() == ["plain", "bread", "mine"]


def test_two_files_and_a_module(registry, tmp_path, monkeypatch):
    files = [write(tmp_path, "own_first.py"), write(tmp_path, "own_second.py")]
    (tmp_path / "own_package").mkdir()
    write(tmp_path / "own_package", "__init__.py", "")
    write(tmp_path / "own_package", "inner.py")
    monkeypatch.syspath_prepend(tmp_path)
    named = f"{files[0]}, {files[1]},own_package.inner,"
    monkeypatch.setenv("DECLIP_PARTS", named)
    for name in ("own_first.Cake", "own_second.Cake", "own_package.inner.Cake"):
        assert registry.make({"class_path": name}, 3).flour == 3
        assert registry.knows(name)


def test_load_is_the_same_for_scripts(registry, tmp_path):
    module = parts.load(write(tmp_path, "own_script.py"))
    assert type(registry.make("own_script.Cake", 3)) is module.Cake
    assert parts.load(tmp_path / "own_script.py") is module


def test_what_is_not_named_is_not_imported(registry, tmp_path, monkeypatch):
    marker = tmp_path / "imported"
    body = f"from pathlib import Path\nPath({str(marker)!r}).touch()\nclass Cake: ...\n"
    write(tmp_path, "own_outside.py", body)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("own_outside.Cake", "subprocess.Popen", "torch.nn.Linear", "pathlib.Path"):
        for spec in (name, {"class_path": name, "init_args": {}}):
            message = f"cake {name} is code outside declip-pl; if you trust it, name its file"
            with pytest.raises(UserError, match=message):
                registry.make(spec, 3)
    assert not marker.exists()
    monkeypatch.setenv("DECLIP_PARTS", "own_outside")
    registry.find("own_outside.Cake")
    assert marker.exists()


def test_a_named_module_is_no_way_to_what_it_imports(registry, tmp_path, monkeypatch):
    """Naming one file trusts that file, not all that can be reached by dots from it."""
    monkeypatch.setenv("DECLIP_PARTS", str(write(tmp_path, "own_imports.py", "import subprocess")))
    with pytest.raises(UserError):
        registry.make("own_imports.subprocess.Popen", 3)
    with pytest.raises(UserError, match="has no class subprocess"):
        registry.make("own_imports.subprocess", 3)


def test_trusted_packages_need_not_be_named():
    trusting = Registry("number", trusted=("fractions",))
    assert trusting.make("fractions.Fraction", 1, 2) == 0.5
    with pytest.raises(UserError, match="code outside"):
        trusting.make("decimal.Decimal", 1)


def test_files_and_modules_that_are_not_there(registry, tmp_path, monkeypatch):
    monkeypatch.setenv("DECLIP_PARTS", str(tmp_path / "nowhere.py"))
    with pytest.raises(UserError, match=r"DECLIP_PARTS: there is no file .*nowhere\.py"):
        registry.names()
    monkeypatch.setenv("DECLIP_PARTS", "no_such_module")
    with pytest.raises(UserError, match="there is no module 'no_such_module'"):
        registry.names()


def test_a_file_named_like_another_module_is_refused(tmp_path, monkeypatch):
    import json

    with pytest.raises(UserError, match=r"'json' is already the name of another module; rename"):
        parts.load(write(tmp_path, "json.py"))
    assert sys.modules["json"] is json
    parts.load(write(tmp_path, "own_twice.py"))
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="already the name of another module"):
        parts.load(write(tmp_path / "other", "own_twice.py"))


def test_a_file_of_the_same_name_in_the_variable_is_refused_too(registry, tmp_path, monkeypatch):
    """Otherwise the second of two files would be left out without a word."""
    (tmp_path / "other").mkdir()
    files = [write(tmp_path, "own_same.py"), write(tmp_path / "other", "own_same.py")]
    monkeypatch.setenv("DECLIP_PARTS", ",".join(map(str, files)))
    with pytest.raises(UserError, match="already the name of another module"):
        registry.names()


def test_a_file_that_fails_leaves_no_module_behind(tmp_path):
    path = write(tmp_path, "own_fault.py", "raise RuntimeError('fault of mine')")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="fault of mine"):
            parts.load(path)
    assert "own_fault" not in sys.modules


def test_names_for_folders_and_keys():
    spec = {"init_args": {"b": 1, "a": 2}, "class_path": "own.Cake"}
    assert short("conv-4") == "conv-4" and short(spec) == "cake"
    assert read_spec(spec) == ("own.Cake", {"b": 1, "a": 2})
    same = {"class_path": "own.Cake", "init_args": {"a": 2, "b": 1}}
    assert as_text(spec) == as_text(same) != as_text({"class_path": "own.Cake"})
    assert as_text("conv-4") == "conv-4"
