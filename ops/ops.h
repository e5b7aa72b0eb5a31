// All operations.
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
