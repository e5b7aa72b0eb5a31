"""`camoxpert bench` for the scripts that measure beside it."""

import json
import os
import subprocess
import sys
import tempfile


def measure(camoxpert, *arguments):
    """What `camoxpert bench ARGUMENTS --json` writes; ends the script with the program's own words where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "bench.json")
        command = [camoxpert, "bench", *map(str, arguments), "--json", path]
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        except OSError as error:
            sys.exit(f"can't run {camoxpert}: {error.strerror}; build it, or name another with --camoxpert")
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed, exit {done.returncode}:\n{done.stdout}")
        with open(path) as file:
            return json.load(file)
