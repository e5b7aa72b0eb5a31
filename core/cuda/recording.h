// Whether a thread records a graph (core/cuda/graph.h): what may not be recorded asks here first.
#pragma once

namespace camo::cuda {

bool is_recording();
/// Returns what it was before.
bool set_recording(bool recording);
/// Throws ErrorCode::device while this thread records; `what` would wait for the device or copy from or to the host.
void refuse_recording(const char* what);

}  // namespace camo::cuda
