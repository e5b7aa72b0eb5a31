// All operations. Unless its comment says otherwise, an operation wants operands of one floating dtype on one device,
// of any strides, and gives a new contiguous tensor. f16 and bf16 are summed in f32; where a device has no code for
// them, a message says so. Every floating operand gets its gradient. Axes count from the end when negative. What does
// not fit throws camo::Error with the operation, the rule and the shapes or dtypes that came, before anything is
// computed. Results repeat bit for bit.
#pragma once

#include "ops/attention.h"
#include "ops/conv2d.h"
#include "ops/dropout.h"
#include "ops/elementwise.h"
#include "ops/expert_rows.h"
#include "ops/losses.h"
#include "ops/matmul.h"
#include "ops/normalization.h"
#include "ops/pool.h"
#include "ops/reduce.h"
#include "ops/resize.h"
#include "ops/shape_ops.h"
#include "ops/softmax.h"
