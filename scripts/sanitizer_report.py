#!/usr/bin/env python3
"""Says in one line what a run under compute-sanitizer showed.

  scripts/sanitizer_report.py LOG EXIT_CODE

Exit code 0: nothing about camo; 1: a report, a failed test or a run that did not end; 3: not checkable, because the tool
itself failed.

- A report about a kernel of camo fails. So does one about any other kernel, whose arguments are camo's, but for hazards
  that racecheck sees in shared memory: inside a kernel of NVIDIA's libraries these are NVIDIA's, and are only counted.
- `Internal Sanitizer Error` is the tool's failure: it can't run some of NVIDIA's kernels. It kills the context, so calls
  and tests that fail after it say nothing. The library's call is named where CUDA_LAUNCH_BLOCKING=1 let it fail itself. A
  launch of camo's own that fails so is a failure, not the tool's.
"""

import collections
import re
import sys

OK, FAILED, NOT_CHECKABLE = 0, 1, 3
CUT_OFF = (124, 137)  # exit codes of timeout

HEADER = re.compile(r"^========= (\S.*)$")
DETAIL = re.compile(r"^=========  +(\S.*)$")
SUMMARY = re.compile(r"(?:ERROR|RACECHECK|LEAK) SUMMARY: (\d+)")
UNPRINTED = re.compile(r"(\d+) errors were not printed")
PLACE = re.compile(r"\b(?:at|Device Frame:) (\S.*?)\+0x[0-9a-f]+")
FAILED_TEST = re.compile(r"^\[  FAILED  \] ([^\s,]+)")
CALL = re.compile(r"\b(?P<library>cublas|cudnn|cuda): (?P<name>\w+).* failed at (?:\S*/)?(?P<place>[^/\s]+:\d+)")
NO_REPORT = ("COMPUTE-SANITIZER", "ERROR SUMMARY", "RACECHECK SUMMARY", "LEAK SUMMARY", "Target application returned an error",
             "Error: process didn't terminate successfully")  # fmt: skip


def kernel_name(place):
    """camo::flash::kernel of `void camo::flash::kernel<...>(...)`."""
    name = re.sub(r"^(?:void|static|__global__) +", "", place.replace("<unnamed>::", ""))
    return re.split(r"[<(]", name)[0].strip()


def is_ours(kernel):
    return "camo" in kernel


class Report:
    def __init__(self, title):
        self.title, self.kernels = title, []
        self.see(title)

    def see(self, line):
        self.kernels += map(kernel_name, PLACE.findall(line))

    @property
    def kernel(self):
        """The last frame is the kernel, those before it what it calls; both accesses of a race lie in one kernel."""
        return self.kernels[-1] if self.kernels else ""

    @property
    def is_hazard(self):
        return self.title.split(": ")[-1].startswith(("Race reported", "Potential"))

    def counts(self):
        return is_ours(self.kernel) or not self.kernel or not self.is_hazard


class Log:
    def __init__(self, text):
        self.reports, self.failed_tests, self.warnings = [], [], []
        self.tool_failure, self.test, self.call = "", "", None  # of the first failure, and what the program says next
        self.summary, self.unprinted = None, 0
        context_is_dead, report = False, None
        for line in text.splitlines():
            header, detail = HEADER.match(line), DETAIL.match(line)
            if header:
                report, title = None, header.group(1)
                if title.startswith("Internal Sanitizer Error"):
                    self.tool_failure = self.tool_failure or title
                    context_is_dead = context_is_dead or "hardware exception" in title
                elif title.startswith(NO_REPORT):
                    summary, unprinted = SUMMARY.match(title), UNPRINTED.search(title)
                    if unprinted:
                        self.unprinted = int(unprinted.group(1))
                    elif summary:
                        self.summary = int(summary.group(1))
                elif title.startswith("Warning: ") and not Report(title).is_hazard:
                    self.warnings.append(title)  # of the tool about itself
                elif not (context_is_dead and title.startswith("Program hit")):
                    report = Report(title)
                    self.reports.append(report)
            elif detail and report:
                report.see(detail.group(1))
            elif context_is_dead:
                self.call = self.call or CALL.search(line)
                test = FAILED_TEST.match(line)
                self.test = self.test or (test.group(1) if test else "")
            elif FAILED_TEST.match(line):
                self.failed_tests.append(FAILED_TEST.match(line).group(1))


def shown(names):
    """Names with how often they came, the first three."""
    counted = collections.Counter(names).most_common()
    return ", ".join(f"{count} x {name}" for name, count in counted[:3]) + (", ..." if len(counted) > 3 else "")


def is_launch_of_ours(call):
    """camo names its kernels where CUDA names its functions; the launches of a graph or the waits may be about any kernel."""
    name = call["name"]
    return call["library"] == "cuda" and (name.startswith("cudaLaunch") or not name.startswith("cuda"))


def where_the_tool_failed(log):
    if log.call:
        where = "a kernel that ended before " if log.call["library"] == "cuda" else ""
        where += f"{log.call['name']} ({log.call['place']})"
    else:
        launching = re.search(r"launching (.+?) and didn't", log.tool_failure)
        where = kernel_name(launching.group(1)) if launching else "a kernel that nothing names"
    return where + (f" in {log.test}" if log.test else "")


def judge(text, code):
    """Exit code and line."""
    log = Log(text)
    counted = [report for report in log.reports if report.counts()]
    ignored = [report for report in log.reports if not report.counts()]
    if counted:
        titles = shown(f"{report.title.split(' between ')[0]} in {report.kernel or 'the program'}" for report in counted)
        return FAILED, f"FAILED, {len(counted)} reports: {titles}"
    if log.failed_tests:
        return FAILED, f"FAILED, tests: {shown(log.failed_tests)}"
    if log.unprinted:
        return FAILED, f"FAILED, {log.unprinted} reports were not printed"
    if log.tool_failure:
        if log.call and is_launch_of_ours(log.call):
            name, place = log.call["name"], log.call["place"]
            return FAILED, f"FAILED, {name} of camo ({place}) ended with the tool's error; run it under memcheck"
        return NOT_CHECKABLE, f"NOT CHECKABLE, the tool failed in {where_the_tool_failed(log)}"
    if code in CUT_OFF:
        return FAILED, "cut off"
    if log.summary is None:
        return FAILED, f"FAILED, exit {code}, without the tool's summary"
    if ignored:
        hazards = f"hazards inside {shown(report.kernel for report in ignored)}, not camo's"
        # The exit code stands for the hazards; that the program itself failed is a line of the log.
        if "Target application returned an error" in text:
            return FAILED, f"FAILED, exit {code}; {hazards}"
        return OK, f"ok; {hazards}"
    if code != 0:
        return FAILED, f"FAILED, exit {code}"
    return OK, "; ".join(["ok", *sorted(set(log.warnings))])


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1], errors="replace") as file:
        code, line = judge(file.read(), int(sys.argv[2]))
    print(line)
    return code


if __name__ == "__main__":
    sys.exit(main())
