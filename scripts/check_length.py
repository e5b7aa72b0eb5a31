#!/usr/bin/env python3
"""Checks the length of source files: more than 600 lines fail, more than 400 are listed as due for a split.

`--self-test` checks that the checker sees a file that is too long.
"""
import pathlib
import sys
import tempfile

LIST_ABOVE = 400
FAIL_ABOVE = 600
FOLDERS = ["core", "ops", "nn", "models", "data", "apps", "tests", "examples", "scripts", "cmake"]
SUFFIXES = {".h", ".cpp", ".cu", ".cuh", ".py", ".sh", ".cmake"}


def lengths(root):
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in SUFFIXES:
                with path.open("rb") as file:
                    yield sum(1 for _ in file), path.relative_to(root).as_posix()


def long_files(root):
    found = [(lines, name) for lines, name in lengths(root) if lines > LIST_ABOVE]
    return sorted(found, reverse=True)


def self_test():
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        (root / "core").mkdir()
        for name, lines in {"fits.cpp": LIST_ABOVE, "long.cpp": LIST_ABOVE + 1, "too_long.cu": FAIL_ABOVE + 1}.items():
            (root / "core" / name).write_text("\n" * lines)
        assert long_files(root) == [(FAIL_ABOVE + 1, "core/too_long.cu"), (LIST_ABOVE + 1, "core/long.cpp")]


def main():
    self_test()
    if "--self-test" in sys.argv:
        return 0
    found = long_files(pathlib.Path(__file__).resolve().parent.parent)
    for lines, name in found:
        print(f"{name}: {lines} lines; " + (f"at most {FAIL_ABOVE} allowed" if lines > FAIL_ABOVE else "split it soon"))
    if not found:
        print("file length: ok")
    return 1 if any(lines > FAIL_ABOVE for lines, _ in found) else 0


if __name__ == "__main__":
    sys.exit(main())
