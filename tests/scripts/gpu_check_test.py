#!/usr/bin/env python3
"""scripts/gpu_check.sh without a GPU: programs of its own making stand for nvidia-smi, cmake, compute-sanitizer, Python and
what cmake builds. Needs bash and coreutils."""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
SCRIPT = HERE.parent.parent / "scripts" / "gpu_check.sh"
LOGS = HERE / "sanitizer"

# `cmake --build DIR` writes the programs; each adds its arguments to $FAKE/calls.
CMAKE = """
[[ ${HANGS:-} == cmake ]] && sleep 30
[[ $1 == --build ]] || exit 0
mkdir -p "$2/tests" "$2/apps/camoxpert"
for name in core ops attention nn models data training apps cuda; do
  [[ $name == "${NOT_BUILT:-}" ]] || install "$FAKE/program" "$2/tests/test_$name"
done
install "$FAKE/program" "$2/apps/camoxpert/camoxpert"
exit ${CMAKE_EXIT:-0}
"""
PROGRAM = """
echo "$(basename "$0") $*" >>"$FAKE/calls"
case "$*" in
  *synth*) mkdir -p "$3" ;;
  *--json*) echo 'median 1.00 ms'; words="$*"; json=${words##*--json }; echo '{}' >"${json%% *}" ;;
esac
[[ $(basename "$0") == "${FAILS:-}" ]] && { echo '[  FAILED  ] Sums.Add (1 ms)'; exit 1; }
exit 0
"""
SANITIZER = """
tool=$2
shift 4
while [[ $1 == --* ]]; do shift 2; done
"$@" || exit
log=$LOGS/racecheck_clean.log
[[ $tool == "${TOOL:-}" && "$*" == *"${REPORT_FOR:-}"* ]] && log=$LOGS/$REPORT
cat "$log"
[[ $log == *clean.log ]] || exit 9
"""
PYTHON = """
case "$*" in
  *find_spec*) exit ${NO_TORCH:-0} ;;
  *camoxpert_torch.py*) echo "peer $*" >>"$FAKE/calls"; echo '{"train_ms": 1}'; exit ${PEER_EXIT:-0} ;;
  *bench_ops.py* | *bench_attention.py*) echo 'the table' ;;
  *site*) echo "$FAKE" ;;
  *) exec "$REAL_PYTHON" "$@" ;;
esac
"""
NVIDIA_SMI = """
[[ -z ${NO_GPU:-} ]] || { echo 'NVIDIA-SMI has failed'; exit 9; }
[[ $1 == -L ]] && echo 'GPU 0: A GPU' || echo 'A GPU, 1.2'
"""


class GpuCheck(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.fake = pathlib.Path(self.folder.name)
        (self.fake / "calls").touch()
        programs = {"cmake": CMAKE, "program": PROGRAM, "compute-sanitizer": SANITIZER, "python3": PYTHON}
        for name, text in (programs | {"nvidia-smi": NVIDIA_SMI, "libcupti.so.13": ""}).items():
            (self.fake / name).write_text("#!/usr/bin/env bash" + text)
            (self.fake / name).chmod(0o755)

    def run_script(self, *arguments, **settings):
        """Exit code, output, and the rows of the table."""
        environment = os.environ | {"FAKE": self.fake, "LOGS": LOGS, "REAL_PYTHON": sys.executable,
                                    "PATH": f"{self.fake}:{os.environ['PATH']}"} | settings  # fmt: skip
        command = ["bash", SCRIPT, "--out", self.fake / "out", "--build", self.fake / "build", *arguments]
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120
        )
        table = done.stdout.partition("=== gpu_check")[2].splitlines()[1:]
        return done.returncode, done.stdout, {line[:34].strip(): line[34:].strip() for line in table if line[:1] != " "}

    def calls(self):
        return (self.fake / "calls").read_text().splitlines()

    def test_a_plan_that_holds(self):
        code, output, rows = self.run_script("measure")
        self.assertEqual(code, 0, output)
        self.assertTrue(
            all(
                rows[name].startswith("ok (")
                for name in ("build", "test.nn.2", "synth", "bench.train-step.tf32", "peer", "table")
            ),
            output,
        )
        self.assertEqual({name for name, text in rows.items() if text == "not asked for"}, {"sanitizer", "ops", "attention"})
        table = next(call for call in self.calls() if "bench table" in call)
        for flag in f"--peer {self.fake}/out/peer.jsonl", f"--dataset-path {self.fake}/out/pictures", "--profile":
            self.assertIn(flag, table)
        self.assertTrue(
            any(
                f"--pictures {self.fake}/out/train-step.bf16.json" in call
                for call in self.calls()
                if call.startswith("peer ")
            )
        )
        self.assertEqual(sum("synth" in call for call in self.calls()), 1)
        self.assertEqual(sum(call.startswith("test_nn ") for call in self.calls()), 3)

    def test_the_sanitizers_hold(self):
        code, output, rows = self.run_script("sanitize")
        self.assertEqual(code, 0, output)
        for tool in "memcheck", "initcheck", "racecheck":
            for name in "step.f32", "step.bf16", "step.graph", "step.graphs.f32", "ops.3", "gradients.0", "attention.0":
                self.assertTrue(rows[f"{tool}.{name}"].startswith("ok ("), output)
        for name in "synccheck.attention.0", "racecheck.step.tf32.light", "racecheck.ops16.0", "ops", "attention":
            self.assertTrue(rows[name].startswith("ok ("), output)

    def test_a_report_about_camo_fails(self):
        code, output, rows = self.run_script(
            "sanitizer", "build", TOOL="racecheck", REPORT="racecheck_camo.log", REPORT_FOR="test_nn"
        )
        self.assertEqual(code, 1)
        self.assertIn(
            "FAILED, 2 reports: 2 x Error: Race reported in camo::flash::flash_narrow_backward_kernel",
            rows["racecheck.gradients.0"],
        )
        self.assertTrue(rows["memcheck.gradients.0"].startswith("ok ("), output)
        self.assertIn("--- racecheck.gradients.0\n", output)

    def test_a_tool_that_fails_by_itself_does_not(self):
        code, output, rows = self.run_script(
            "build", "sanitizer", TOOL="racecheck", REPORT="racecheck_tool_failure.log", REPORT_FOR="--amp bf16"
        )
        self.assertEqual(code, 0, output)
        self.assertIn("NOT CHECKABLE, the tool failed in", rows["racecheck.step.bf16"])
        self.assertTrue(rows["racecheck.step.f16"].startswith("ok ("), output)

    def test_what_fails_what_is_not_built_and_what_is_cut_off(self):
        code, output, rows = self.run_script("build", "tests", FAILS="test_core", NOT_BUILT="data", CMAKE_EXIT="1")
        self.assertEqual(code, 1)
        self.assertTrue(rows["build"].startswith("FAILED, exit 1"), output)
        self.assertTrue(rows["test.core.0"].startswith("FAILED, exit 1"), output)
        self.assertIn("[  FAILED  ] Sums.Add", output)
        self.assertIn("test_data was not built", rows["test.data"])
        self.assertTrue(rows["test.nn.0"].startswith("ok ("), output)
        code, output, rows = self.run_script("build", "peer", "--seconds", "6", HANGS="cmake")
        self.assertEqual(code, 1)
        self.assertTrue(rows["configure"].startswith("cut off"), output)
        self.assertIn("left out: takes about", rows["peer"])

    def test_without_time(self):
        code, output, rows = self.run_script("--seconds", "1")
        self.assertEqual(code, 1)
        self.assertRegex(rows["configure"], "left out: takes about 5 s, -?[01] s are left")
        self.assertIn("was not built", rows["bench"])
        self.assertIn("left out", rows["sanitizer"])

    def test_without_pytorch(self):
        code, output, rows = self.run_script("build", "peer", "ops", "table", NO_TORCH="1")
        self.assertEqual(code, 1)
        self.assertIn("there is no PyTorch", rows["peer"])
        self.assertIn("there is no PyTorch", rows["ops"])
        self.assertIn("it has no figures", rows["table: peer"])
        self.assertTrue(rows["table"].startswith("ok ("), output)

    def test_a_peer_that_fails_for_one_configuration_keeps_the_others(self):
        code, output, rows = self.run_script("build", "peer", PEER_EXIT="1")
        self.assertEqual(code, 1)
        self.assertTrue(rows["peer"].startswith("FAILED"), output)
        self.assertEqual((self.fake / "out" / "peer.jsonl").read_text(), '{"train_ms": 1}\n')

    def test_without_a_gpu(self):
        code, output, _ = self.run_script(NO_GPU="1")
        self.assertEqual(code, 5)
        self.assertRegex(
            output, r"^gpu_check: needs an NVIDIA GPU and its driver; nvidia-smi -L: NVIDIA-SMI has failed\. .*make test\n$"
        )
        self.assertFalse((self.fake / "out").exists())

    def test_wrong_arguments(self):
        for arguments, message in ((["bnech"], "unknown part or option bnech"), (["--seconds"], "--seconds needs a value"),
                                   (["--seconds", "x"], "must be a whole number above 0; got x")):  # fmt: skip
            code, output, _ = self.run_script(*arguments)
            self.assertEqual(code, 2)
            self.assertIn(message, output)

    def test_both_plans_fit_into_ten_minutes(self):
        for plan in "measure", "sanitize":
            code, output, _ = self.run_script("--dry-run", "--seconds", "570", plan, NO_GPU="1")
            self.assertEqual(code, 0, output)
            self.assertLess(int(re.search(r"=== gpu_check: about (\d+) s", output).group(1)), 520, output)
        self.assertFalse((self.fake / "out").exists())
        self.assertEqual(self.calls(), [])
        code, output, rows = self.run_script("--dry-run", "--seconds", "300")
        self.assertIn("left out: takes about", rows["sanitizer"], output)


if __name__ == "__main__":
    unittest.main()
