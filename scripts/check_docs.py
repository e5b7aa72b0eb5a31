#!/usr/bin/env python3
"""Checks README.md and docs/ against the tree and the program, so that they cannot fall behind.

- A code block under a line `<!-- FILE: NAME, ... -->` holds the regions `// [doc: NAME]` to `// [doc end]` of that file
  (`#` in Python), which the tests compile and run. In docs/ every C++ block has such a line. `--fix` copies the regions
  into the pages.
- Relative links lead to a file, and to a heading where they name one.
- With `--camoxpert PROGRAM`: every flag that is named is in the program's --help, that of the subcommand where one is
  named with it, or, for scripts of this tree, in the script; and every subcommand has a call with its output.

`--self-test` checks that the checker sees what it is there to see.
"""
import argparse
import pathlib
import re
import subprocess
import sys
import tempfile

MARKER = re.compile(r"^<!-- (\S+\.(?:cpp|cu|py)): (.+) -->$")
REGION = re.compile(r"^\s*(?://|#) \[doc: (\w+)\]$")
REGION_END = re.compile(r"^\s*(?://|#) \[doc end\]$")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
LINK = re.compile(r"\]\(([^)\s]+)\)")
OUTPUT_FENCES = {"console", ""}  # calls stand behind "$ ", everything else is output


def pages(root):
    return [path for path in [root / "README.md", *sorted((root / "docs").rglob("*.md"))] if path.exists()]


# --- code ---


def regions(path):
    """The regions of a source file, without their common indentation."""
    found, name, lines = {}, None, []
    for line in path.read_text().splitlines():
        begin = REGION.match(line)
        if begin:
            name, lines = begin.group(1), []
        elif REGION_END.match(line) and name:
            indent = min((len(text) - len(text.lstrip()) for text in lines if text.strip()), default=0)
            found[name] = "\n".join(text[indent:] for text in lines)
            name = None
        elif name:
            lines.append(line)
    return found


def blocks(text):
    """The fenced blocks of a page: (number of the opening line, language, marker's file and regions or None, lines)."""
    lines = text.splitlines()
    position = 0
    while position < len(lines):
        fence = re.match(r"^```(\S*)$", lines[position])
        if fence:
            end = next(i for i in range(position + 1, len(lines)) if lines[i] == "```")
            marker = MARKER.match(lines[position - 1]) if position else None
            names = [name.strip() for name in marker.group(2).split(",")] if marker else []
            yield position + 1, fence.group(1), (marker.group(1), names) if marker else None, lines[position + 1 : end]
            position = end
        position += 1


def wanted_code(root, marker):
    file, names = marker
    if not (root / file).exists():
        raise KeyError(f"there is no {file}")
    known = regions(root / file)
    missing = [name for name in names if name not in known]
    if missing:
        raise KeyError(f"{file} has no region {missing[0]}; it has {', '.join(known)}")
    return "\n\n".join(known[name] for name in names).splitlines()


def code_errors(root, page):
    where = page.relative_to(root)
    for number, language, marker, lines in blocks(page.read_text()):
        if marker is None:
            if language in ("cpp", "cuda") and page.name != "README.md":
                yield f"{where}:{number}: C++ that nothing compiles; move it to examples/ and name it in a marker line"
            continue
        try:
            if wanted_code(root, marker) != lines:
                yield f"{where}:{number}: differs from {marker[0]}; run scripts/check_docs.py --fix"
        except KeyError as error:
            yield f"{where}:{number}: {error.args[0]}"


def fix(root):
    for page in pages(root):
        lines = page.read_text().splitlines()
        for number, _, marker, old in reversed(list(blocks(page.read_text()))):
            if marker:
                lines[number : number + len(old)] = wanted_code(root, marker)
        page.write_text("\n".join(lines) + "\n")


# --- links ---


def anchors(path):
    """GitHub's names of the headings."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    names = set()
    for heading in re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE):
        names.add(re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-"))
    return names


def link_errors(root, page):
    for number, line in enumerate(page.read_text().splitlines(), 1):
        for target in LINK.findall(line):
            if re.match(r"[a-z]+:", target):
                continue
            file, _, anchor = target.partition("#")
            path = (page.parent / file) if file else page
            where = f"{page.relative_to(root)}:{number}"
            if not path.exists():
                yield f"{where}: there is no {target}"
            elif anchor and anchor not in anchors(path):
                yield f"{where}: {file or page.name} has no heading #{anchor}"


# --- flags ---


class Program:
    """The flags that each subcommand's --help lists."""

    def __init__(self, path):
        def help_of(*command):
            result = subprocess.run([path, *command, "--help"], capture_output=True, text=True, check=True)
            return result.stdout

        general = help_of()
        self.commands = re.findall(r"^  ([a-z][a-z-]*) ", general.split("SUBCOMMANDS:")[-1], flags=re.MULTILINE)
        self.general = set(FLAG.findall(general))
        self.flags = {name: set(FLAG.findall(help_of(name))) | self.general for name in self.commands}
        self.all = set().union(*self.flags.values())


def command_errors(root, program, words):
    """The flags in a call, given as its words, that its program does not have."""
    text = " ".join(words)
    name = words[0].split("/")[-1].lstrip("$")
    flags = [flag.split("=")[0] for flag in FLAG.findall(text)]
    if name == "camoxpert":
        command = next((word for word in words[1:] if not word.startswith("-")), None)
        if command in program.flags:
            return [(flag, f"camoxpert {command} --help") for flag in flags if flag not in program.flags[command]]
        return [(flag, "camoxpert --help") for flag in flags if flag not in program.all]
    if name in program.flags:
        return [(flag, f"camoxpert {name} --help") for flag in flags if flag not in program.flags[name]]
    if words[0].startswith("--"):
        return [(flag, "any --help of camoxpert") for flag in flags if flag not in program.all]
    script = root / words[0]
    if script.is_file():
        source = script.read_text(errors="ignore")
        return [(flag, words[0]) for flag in flags if flag not in source]
    return []  # other programs


def joined(lines, start):
    """A command line with those it continues on."""
    text = lines[start]
    while text.endswith("\\") and start + 1 < len(lines):
        start += 1
        text = text[:-1] + lines[start]
    return text, start


def without_assignments(words):
    """Drops the prompt, settings of variables and comments."""
    while words and (words[0] == "$" or re.match(r"^[A-Za-z_]+=", words[0])):
        words = words[1:]
    return words[: words.index("#")] if "#" in words else words


def flag_errors(root, page, program, documented):
    where = page.relative_to(root)
    text = page.read_text()
    in_block = set()
    for number, language, _, lines in blocks(text):
        in_block.update(range(number, number + len(lines) + 2))
        position = 0
        while position < len(lines):
            first = position
            line, position = joined(lines, position)
            is_call = line.startswith("$ ") if language in OUTPUT_FENCES else language == "sh"
            words = without_assignments(line.split()) if is_call else []
            if words:
                for flag, source in command_errors(root, program, words):
                    yield f"{where}:{number + first + 1}: {flag} is not in {source}"
                has_output = position + 1 < len(lines) and not lines[position + 1].startswith("$ ")
                if words[0] == "camoxpert" and len(words) > 1 and language in OUTPUT_FENCES and has_output:
                    documented.add(words[1])
            elif language in OUTPUT_FENCES:
                for flag in FLAG.findall(line):
                    if flag not in program.all:
                        yield f"{where}:{number + first + 1}: {flag} is not in any --help of camoxpert"
            position += 1
    for number, line in enumerate(text.splitlines(), 1):
        if number in in_block:
            continue
        for span in re.findall(r"`([^`]+)`", line):
            words = without_assignments(span.replace("\\|", "|").split())
            if words:
                for flag, source in command_errors(root, program, words):
                    yield f"{where}:{number}: {flag} is not in {source}"


def errors(root, program_path):
    found, documented = [], set()
    program = Program(program_path) if program_path else None
    for page in pages(root):
        found += code_errors(root, page)
        found += link_errors(root, page)
        if program:
            found += flag_errors(root, page, program, documented)
    if program:
        found += [
            f"docs/: no block shows a call of `camoxpert {name}` with its output"
            for name in program.commands
            if name not in documented
        ]
    return found


# --- self-test ---

FAKE_PROGRAM = """#!/bin/sh
case "$1" in
train) echo '  --lr FLOAT' ;;
bench) echo '  --json FILE' ;;
*) printf 'OPTIONS:\\n  --config FILE\\n\\nSUBCOMMANDS:\\n  train    Trains\\n  bench    Measures\\n' ;;
esac
"""
PAGE = """# A page
[good](other.md#two-words) [bad](none.md) [worse](other.md#none)
`--lr` `--none` `train --json x` `bench --json x` `scripts/s.py --fast --slow` `git --oops`
<!-- examples/a.cpp: one -->
```cpp
int a;
```
<!-- examples/a.cpp: one, two -->
```cpp
int a;
```
```cpp
int c;
```
```console
$ camoxpert train --lr 1 \\
    --gone
done
$ camoxpert bench
```
"""


def self_test():
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name, text in {
            "docs/page.md": PAGE,
            "docs/other.md": "## Two words\n",
            "examples/a.cpp": "  // [doc: one]\n  int a;\n  // [doc end]\n// [doc: two]\nint b;\n// [doc end]\n",
            "scripts/s.py": "--fast",
            "program": FAKE_PROGRAM,
        }.items():
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_text(text)
        (root / "program").chmod(0o755)
        found = errors(root, str(root / "program"))
        wanted = ["page.md:9: differs from", "page.md:12: C++ that nothing", "there is no none.md", "no heading #none",
                  "page.md:16: --gone is not in camoxpert train", "page.md:3: --none",
                  "page.md:3: --json is not in camoxpert train", "page.md:3: --slow", "call of `camoxpert bench`"]  # fmt: skip
        assert len(found) == len(wanted) and all(any(text in line for line in found) for text in wanted), found
        fix(root)
        assert not any("differs" in line for line in errors(root, None))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camoxpert", help="the program whose --help the flags are compared with")
    parser.add_argument("--fix", action="store_true", help="copy the code of examples/ into the pages")
    parser.add_argument("--self-test", action="store_true", help="only check the checker")
    options = parser.parse_args()
    self_test()
    if options.self_test:
        return 0
    root = pathlib.Path(__file__).resolve().parent.parent
    if options.fix:
        fix(root)
    found = errors(root, options.camoxpert)
    print("\n".join(found) if found else "docs: ok")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
