"""What a hostile file cannot do: run code, read other files, or take all time and memory."""

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from torchvision_customizer.recipe import Recipe, RecipeError


def tenfold(use: str) -> str:
    """A to i, each ten times the one before; ``use`` is how one uses another."""
    pairs = zip("abcdefgh", "bcdefghi", strict=True)
    return "".join(f"  {name}: {use.replace('NAME', name).replace('OLD', old)}\n" for old, name in pairs)


TEN = "  a: &a [x, x, x, x, x, x, x, x, x, x]\n"
MACROS = "backbone: resnet18\nname: ${i}\nmacros:\n"
BOMB = "macros:\n" + TEN + tenfold("&NAME [" + ", ".join(["*OLD"] * 10) + "]")
MACRO_BOMB = MACROS + TEN + tenfold("[" + ", ".join(["'${OLD}'"] * 10) + "]")
TEXT_BOMB = MACROS + "  a: xxxxxxxxxx\n" + tenfold("${OLD}" * 10)
REFUSED = {
    "aliases": (BOMB, "more than 10,000 values"),
    "macros": (MACRO_BOMB, "make more than 10,000 values"),
    "texts of macros": (TEXT_BOMB, "make more than 10,000 values or 256 KiB of text"),
    "depth of macros": (
        "backbone: resnet18\nmacros:\n  m0: x\n" + "".join(f"  m{n + 1}: ['${{m{n}}}']\n" for n in range(60)),
        "nested more than 32 levels deep",
    ),
    "depth of lists": ("backbone: " + "[" * 50_000, "nested more than 32 levels deep"),
    "depth of blocks": ("- " * 50_000, "nested more than 32 levels deep"),
    "an alias within itself": ("backbone: &b [*b]", "no anchor '&b' that ends before"),
    "code": ("backbone: !!python/object/apply:os.system ['touch hacked']", "tags are not read"),
    "a name": ("backbone: !!python/name:os.system", "tags are not read"),
    "a key": ("!!python/name:os.system : 1", "a key must be a plain text"),
    "code in a short form": ("stem: \"conv(__import__('os'))\"\nstages: [conv(1)]\nhead: linear(1)", "expected ',' or ')'"),
    "digits": (f"backbone: resnet18\nnum_classes: {'9' * 5000}", "must be an integer"),
    "a large file": ("# " + "x" * (1 << 18), "more than 256 KiB"),
    "targets": (
        "backbone:\n  name: resnet50\n  patches:\n" + "".join(f"    layr{n}: {{inject: see}}\n" for n in range(2000)),
        "matches",
    ),
    "names": ("\n".join(f"k{n}: 1" for n in range(4000)), "unknown key"),
    "globs": ("backbone: {name: resnet18, patches: {'" + "**." * 60 + "nothing': {inject: se}}}", "matches"),
    "stars": ("backbone: {name: resnet18, patches: {'" + "*a" * 200 + "': {inject: se}}}", "matches"),
    "a name without end": ("backbone: {name: " + "resnet" * 5000 + "}", "unknown backbone"),
    "a long definition": (f"stem: conv({'1, ' * 5000})\nstages: [conv(1)]\nhead: linear(1)", "at most 2000 characters"),
    "brackets": (f"stem: conv({'[' * 900})\nstages: [conv(1)]\nhead: linear(1)", "nested more than 8 deep"),
}


@contextmanager
def bounded(seconds: float = 1.0, mebibytes: int = 200) -> Iterator[None]:
    tracemalloc.start()
    start = time.process_time()
    try:
        yield
    finally:
        # Under tracemalloc everything takes several times as long.
        taken, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert taken < 5 * seconds and peak < mebibytes * 2**20, (taken, peak)


def refused(file: Path, words: str) -> None:
    Recipe.from_yaml("mnist_net")  # what is read once is not measured
    with bounded(), pytest.raises(RecipeError) as caught:
        Recipe.from_yaml(file)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, name: str) -> None:
    text, words = REFUSED[name]
    (tmp_path / "recipe.yaml").write_text(text)
    refused(tmp_path / "recipe.yaml", words)
    assert not (tmp_path / "hacked").exists()


def test_a_file_of_100_megabytes(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    with file.open("wb") as stream:
        stream.truncate(100 * 2**20)
    refused(file, "more than 256 KiB")


@pytest.mark.parametrize("what", ["folder", "pipe", "zero", "binary", "latin"])
def test_what_is_no_text_file(tmp_path: Path, what: str) -> None:
    file = tmp_path / "recipe.yaml"
    match what:
        case "folder":
            file.mkdir()
        case "pipe":
            os.mkfifo(file)
        case "zero":
            file.symlink_to("/dev/zero")
        case "binary":
            file.write_bytes(bytes(range(256)))
        case "latin":
            file.write_bytes("name: Größe".encode("latin-1"))
    refused(file, {"binary": "recipe.yaml:", "latin": "recipe.yaml:1:9: is not UTF-8", "folder": "folder"}.get(what, "file"))


class TestExtends:
    """Only shipped recipes, and files below the recipe's own folder."""

    def child(self, tmp_path: Path, extends: str, folder: str = "mine") -> Path:
        (tmp_path / folder).mkdir(exist_ok=True)
        file = tmp_path / folder / "child.yaml"
        file.write_text(f"extends: {extends}\n")
        return file

    @pytest.mark.parametrize("target", ["../../etc/passwd", "../other.yaml", "/etc/passwd", "sub/../../other.yaml"])
    def test_outside(self, tmp_path: Path, target: str) -> None:
        (tmp_path / "other.yaml").write_text("backbone: resnet18\n")
        file = self.child(tmp_path, target)
        (file.parent / "sub").mkdir()
        refused(file, f"{file}:1:10: extends: '{target}' is outside of {file.parent}")

    def test_a_link_to_the_outside(self, tmp_path: Path) -> None:
        (tmp_path / "secret.yaml").write_text("backbone: resnet18\n")
        file = self.child(tmp_path, "link.yaml")
        (file.parent / "link.yaml").symlink_to(tmp_path / "secret.yaml")
        refused(file, "is outside of")
        (file.parent / "link.yaml").unlink()
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "base.yaml").write_text("backbone: resnet18\n")
        (file.parent / "folder").symlink_to(tmp_path / "elsewhere")
        file.write_text("extends: folder/base.yaml\n")
        refused(file, "is outside of")

    def test_links_in_a_circle(self, tmp_path: Path) -> None:
        file = self.child(tmp_path, "a.yaml")
        (file.parent / "a.yaml").symlink_to(file.parent / "b.yaml")
        (file.parent / "b.yaml").symlink_to(file.parent / "a.yaml")
        refused(file, "no shipped recipe and no file 'a.yaml'")

    def test_a_parent_below_cannot_leave_either(self, tmp_path: Path) -> None:
        (tmp_path / "other.yaml").write_text("backbone: resnet18\n")
        file = self.child(tmp_path, "sub/parent.yaml")
        (file.parent / "sub").mkdir()
        (file.parent / "sub" / "parent.yaml").write_text("extends: ../../other.yaml\n")
        refused(file, f"{file.parent}/sub/parent.yaml:1:10: extends: '../../other.yaml' is outside of {file.parent}")

    def test_cycles(self, tmp_path: Path) -> None:
        file = self.child(tmp_path, "child.yaml")
        refused(file, "extends: makes a circle: child.yaml -> child.yaml")
        file.write_text("extends: other.yaml\n")
        (file.parent / "other.yaml").write_text("extends: child.yaml\n")
        refused(file, "other.yaml:1:10: extends: makes a circle: child.yaml -> other.yaml -> child.yaml")

    def test_levels(self, tmp_path: Path) -> None:
        for level in range(30):
            (tmp_path / f"l{level}.yaml").write_text(f"extends: l{level + 1}.yaml\n")
        refused(tmp_path / "l0.yaml", "more than 16 levels")

    @pytest.mark.parametrize("name", ["'a\\0b'", '"a\\0b"', "'x" + "y" * 5000 + "'", "~/x.yaml", "..", "."])
    def test_odd_names(self, tmp_path: Path, name: str) -> None:
        file = self.child(tmp_path, name)
        with bounded(), pytest.raises(RecipeError):
            Recipe.from_yaml(file)

    def test_values_of_a_program_extend_no_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "base.yaml").write_text("backbone: resnet18\n")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(RecipeError, match=r"there is no shipped recipe 'base.yaml'"):
            Recipe.from_dict({"extends": "base.yaml"})


def test_a_file_that_is_written_is_whole_or_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision_customizer.recipe import save_yaml_recipe

    file = tmp_path / "recipe.yaml"
    save_yaml_recipe(Recipe(backbone="resnet18"), file)
    before = file.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        save_yaml_recipe(Recipe(backbone="resnet34"), file)
    assert file.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["recipe.yaml"]
