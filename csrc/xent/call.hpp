// One call of a kernel: plain numbers and addresses, the same for every instruction set.
#pragma once
#include <atomic>
#include <cstdint>

namespace xent {

enum Kind : int64_t { summary, gradient, softmax, log_softmax, softmax_gradient };
enum Type : int64_t { float64, float32, bfloat16, float16 };
enum Labels : int64_t { i64, i32, i16, i8, u64, u32, u16, u8, distribution };

// A tensor (outer, classes, inner), strides in elements.
struct View {
    void *data;
    int64_t outer, classes, inner;
};

// Filled from Python as a row of 64-bit numbers, in this order.
struct Call {
    int64_t kind, type, outer, classes, inner;
    View rows;
    int64_t target_kind;
    View target;            // labels: contiguous, (outer, inner); a distribution: the type of the rows
    int64_t ignore_index;
    const double *weight;   // nullptr: every class weighs 1
    const float *weight_float;
    const double *weight_sum;
    int64_t mixed;
    double *peak, *rest, *picked, *mass, *mix;  // (outer, inner), contiguous
    const double *hard, *smooth;
    View out, slope;        // slope: the incoming gradient of softmax_gradient, the type of the rows
};
constexpr int64_t call_slots = sizeof(Call) / 8;

using Run = void (*)(const Call &call, int64_t begin, int64_t end, std::atomic<int64_t> &wrong_labels);

// Rows handled together: as many as lie side by side in a cache line, where the classes do not.
constexpr int64_t group = 16;

inline int64_t groups_of(const Call &call) { return call.outer * ((call.inner + group - 1) / group); }

}  // namespace xent
