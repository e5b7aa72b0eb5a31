#!/usr/bin/env python3
"""scripts/sanitizer_report.py on logs of compute-sanitizer 2025.3 from an H100 (sanitizer/), and on variations of them."""

import pathlib
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "scripts"))
from sanitizer_report import FAILED, NOT_CHECKABLE, OK, judge, kernel_name  # noqa: E402

REPORT = 9  # --error-exitcode


def log(name):
    return (HERE / "sanitizer" / name).read_text()


class SanitizerReport(unittest.TestCase):
    def expect(self, text, code, wanted, *parts):
        got, line = judge(text, code)
        self.assertEqual(got, wanted, line)
        for part in parts:
            self.assertIn(part, line)

    def test_nothing_found(self):
        self.expect(log("racecheck_clean.log"), 0, OK, "ok")

    def test_an_exit_code_without_a_report_fails(self):
        self.expect(log("racecheck_clean.log"), 1, FAILED, "exit 1")

    def test_hazards_of_camo_fail(self):
        self.expect(
            log("racecheck_camo.log"),
            REPORT,
            FAILED,
            "2 x Error: Race reported in camo::flash::flash_narrow_backward_kernel",
        )

    def test_hazards_inside_nvidia_kernels_are_counted(self):
        self.expect(
            log("racecheck_nvidia.log"), REPORT, OK, "hazards inside 1 x nvjet_sm90_tss_64x8_64x16_1x1_h_bz_splitK_NNT"
        )

    def test_a_hazard_of_camo_among_those_of_nvidia_fails(self):
        self.expect(log("racecheck_nvidia.log") + log("racecheck_camo.log"), REPORT, FAILED, "2 reports")

    def test_a_program_that_fails_beside_hazards_of_nvidia_fails(self):
        text = log("racecheck_nvidia.log").replace(
            "========= RACECHECK", "========= Target application returned an error\n========= RACECHECK"
        )
        self.expect(text, REPORT, FAILED, "exit 9")

    def test_reports_of_memcheck_fail_whatever_the_kernel(self):
        self.expect(
            log("memcheck_camo.log"),
            REPORT,
            FAILED,
            "Invalid __global__ read of size 16 bytes in camo::flash::flash_narrow_forward_kernel",
            "Program hit cudaErrorLaunchFailure",
        )
        self.expect(log("memcheck_camo.log").replace("camo::", "nvjet::"), REPORT, FAILED, "Invalid __global__ read")

    def test_the_kernel_is_the_last_device_frame(self):
        self.expect(
            log("initcheck_camo.log"),
            REPORT,
            FAILED,
            "2 x Uninitialized __global__ memory read",
            "in camo::flash::flash_narrow_forward_kernel",
        )

    def test_the_failure_of_the_tool_is_no_failure_of_camo(self):
        self.expect(
            log("racecheck_tool_failure.log"),
            REPORT,
            NOT_CHECKABLE,
            "ended before cudaStreamSynchronize (copy.cu:112)",
            "in All/GradientSums.EqualGradientsAddedOneByOne/f16",
        )

    def test_the_failed_call_is_named(self):
        call = "cublas: cublasLtMatmul failed at /src/camo/ops/detail/gemm_cuda.cpp:262: the GPU program failed to execute"
        text = log("racecheck_tool_failure.log").replace(
            "cuda: cudaStreamSynchronize(stream) failed at /src/camo/core/copy.cu:112", call
        )
        self.expect(text, REPORT, NOT_CHECKABLE, "the tool failed in cublasLtMatmul (gemm_cuda.cpp:262)")

    def test_a_launch_of_camo_that_ends_with_the_tool_fails(self):
        for call in "elementwise_flat_kernel", "cudaLaunchKernelExC(&config, kernel, arguments)":
            text = log("racecheck_tool_failure.log").replace("cudaStreamSynchronize(stream)", call)
            self.expect(text, REPORT, FAILED, call.split("(")[0], "memcheck")

    def test_what_comes_before_the_failure_of_the_tool_counts(self):
        self.expect(
            "[  FAILED  ] Sums.Add/f16, where GetParam() = 1 (2 ms)\n" + log("racecheck_tool_failure.log"),
            REPORT,
            FAILED,
            "Sums.Add/f16",
        )
        self.expect(
            log("racecheck_camo.log") + log("racecheck_tool_failure.log"), REPORT, FAILED, "flash_narrow_backward_kernel"
        )

    def test_a_launch_that_was_not_tracked(self):
        text = log("racecheck_clean.log").replace(
            "========= RACECHECK",
            "========= Internal Sanitizer Error: The Sanitizer encountered an error while "
            "launching camo::relu_kernel(float *) and didn't track the launch.\n========= RACECHECK",
        )
        self.expect(text, REPORT, NOT_CHECKABLE, "the tool failed in camo::relu_kernel")
        self.expect(text + "[  FAILED  ] Relu.Values (1 ms)\n", REPORT, FAILED, "Relu.Values")  # the context lives

    def test_reports_that_were_not_printed_may_be_about_camo(self):
        self.expect(
            log("racecheck_nvidia.log") + "========= ERROR SUMMARY: 7 errors were not printed. Use --print-limit\n",
            REPORT,
            FAILED,
            "7 reports",
        )

    def test_runs_that_did_not_end(self):
        self.expect("========= COMPUTE-SANITIZER\n", 124, FAILED, "cut off")
        self.expect("", 127, FAILED, "exit 127", "without the tool's summary")
        self.expect("========= COMPUTE-SANITIZER\n", 0, FAILED, "without the tool's summary")

    def test_warnings_of_the_tool_are_shown(self):
        warning = "========= Warning: Detected overflow of tracked cuda::barrier structures. Results might be incorrect.\n"
        self.expect(warning + log("racecheck_clean.log"), 0, OK, "overflow of tracked cuda::barrier")
        hazard = log("racecheck_camo.log").replace("Error: Race", "Warning: Race")
        self.expect(hazard, REPORT, FAILED, "Warning: Race reported")

    def test_names_of_kernels(self):
        self.assertEqual(
            kernel_name("void camo::<unnamed>::tile_kernel<camo::Half, (int)8>(const T1 *)"), "camo::tile_kernel"
        )
        self.assertEqual(kernel_name("nvjet_sm90_tss_64x8"), "nvjet_sm90_tss_64x8")


if __name__ == "__main__":
    unittest.main()
