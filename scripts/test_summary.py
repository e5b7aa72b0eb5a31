#!/usr/bin/env python3
"""Sums up the GoogleTest results of a build folder: failures, the slowest tests, and the counts.

  scripts/test_summary.py BUILD_FOLDER
"""
import json
import pathlib
import sys


def main():
    tests = []
    for path in sorted(pathlib.Path(sys.argv[1], "test-results").glob("*.json")):
        try:
            suites = json.loads(path.read_text())["testsuites"]
        except (ValueError, KeyError):
            continue  # the program died; ctest says so
        for suite in suites:
            for test in suite["testsuite"]:
                name = f"{path.stem.split('.')[0]}: {suite['name']}.{test['name']}"
                if test.get("result") == "SKIPPED":
                    outcome = "skipped"
                elif test.get("status") == "NOTRUN":
                    continue  # disabled, or of another shard
                else:
                    outcome = "failed" if test.get("failures") else "passed"
                tests.append((outcome, float(test["time"].rstrip("s")), name))
    for outcome, _, name in tests:
        if outcome == "failed":
            print("FAILED", name)
    slowest = sorted((test for test in tests if test[1] >= 1), key=lambda test: -test[1])[:5]
    for _, seconds, name in slowest:
        print(f"{seconds:6.1f} s  {name}")
    count = {key: sum(1 for test in tests if test[0] == key) for key in ("passed", "failed", "skipped")}
    print(f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
    return 1 if count["failed"] or not tests else 0


if __name__ == "__main__":
    sys.exit(main())
