#!/usr/bin/env python3
"""Checks that includes point downward only: apps -> models, data -> nn -> ops -> core.

models and data are siblings and do not include each other. Tests and examples may include anything, nobody includes
them; tests/support is for tests alone. `--self-test` checks that the checker sees a wrong include.
"""
import pathlib
import re
import sys
import tempfile

ALLOWED = {
    "core": {"core"},
    "ops": {"core", "ops"},
    "nn": {"core", "ops", "nn"},
    "models": {"core", "ops", "nn", "models"},
    "data": {"core", "ops", "nn", "data"},
    "apps": {"core", "ops", "nn", "models", "data", "apps"},
}
LAYERS = set(ALLOWED) | {"tests", "examples"}
SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}
INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)[">]')


def violations(root):
    for layer, allowed in ALLOWED.items():
        for path in sorted((root / layer).rglob("*")):
            if path.suffix not in SUFFIXES:
                continue
            for number, line in enumerate(path.read_text().splitlines(), 1):
                match = INCLUDE.match(line)
                if not match:
                    continue
                quote, target = match.groups()
                folder = target.split("/")[0]
                where = f"{path.relative_to(root)}:{number}"
                if folder in LAYERS and folder not in allowed:
                    yield f"{where}: {layer}/ must not include {target}; {layer}/ may include {', '.join(sorted(allowed))}"
                elif quote == '"' and folder not in LAYERS:
                    yield f'{where}: include own headers by their path from the source root; got "{target}"'


def self_test():
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name, text in {
            "core/a.cu": '#include "ops/b.h"\n',
            "ops/b.h": '#include "core/a.h"\n#include <vector>\n',
            "data/c.cpp": '#include "models/d.h"\n',
            "nn/e.cpp": '#include "sibling.h"\n',
            "apps/f.cpp": '#include "models/d.h"\n#include "data/c.h"\n',
        }.items():
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_text(text)
        found = [line.split(":")[0] for line in violations(root)]
        assert found == ["core/a.cu", "nn/e.cpp", "data/c.cpp"], found


def main():
    self_test()
    if "--self-test" in sys.argv:
        return 0
    found = list(violations(pathlib.Path(__file__).resolve().parent.parent))
    print("\n".join(found) if found else "include direction: ok")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
