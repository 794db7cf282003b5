// One call of a kernel: plain numbers and addresses, the same for every instruction set.
#pragma once
#include <atomic>
#include <cstdint>
#include <mutex>

#include "sum.hpp"

namespace xent {

enum Kind : int64_t { summary, gradient, softmax, log_softmax, softmax_gradient, spread, spread_gradient, loss, masses };
enum Type : int64_t { float64, float32, bfloat16, float16 };
enum Labels : int64_t { i64, i32, i16, i8, u64, u32, u16, u8, distribution };

// A tensor (outer, classes, inner), strides in elements.
struct View {
    void *data;
    int64_t outer, classes, inner;
};

// Filled from Python as a row of 64-bit numbers, in this order.
//
// `masses` adds up the weights of the labels. `loss` gives ours * hard + theirs * smooth of each row
// (docs/design/numerics.md) and its sum, and where there is an `out`, the gradient of that sum times *hard (*smooth for
// the second term) in the same pass. `spread` takes a logit a row in the place of `rest`, and gives a moment, a number of
// classes and a class in those of `picked`, `mass` and `mix`; `spread_gradient` takes the mean in the place of `picked`,
// and the factors of lse and entropy in those of `hard` and `smooth`.
struct Call {
    int64_t kind, type, outer, classes, inner;
    View rows;
    int64_t target_kind;
    View target;            // labels: contiguous, (outer, inner); a distribution: the type of the rows
    int64_t ignore_index;
    const double *weight;   // nullptr: every class weighs 1
    const double *weight_sum;
    int64_t mixed;          // is the second term asked for?
    double *peak, *rest, *picked, *mass, *mix;  // (outer, inner), contiguous; `loss` gives peak and rest if asked to
    const double *hard, *smooth;
    int64_t step;           // from one row's factors to the next's: 1, or 0 where all rows have the same
    View out, slope;        // slope: the incoming gradient of softmax_gradient, the type of the rows
    double ours, theirs;
    double *losses;
};
constexpr int64_t call_slots = sizeof(Call) / 8;

// What the rows of a call add up to.
struct Tally {
    std::atomic<int64_t> wrong{0};  // labels that are no class
    std::mutex guard;
    ExactSum losses, mass;
};

// Of rows that threads share: the facts of parts, what there is of a whole row, the classes of parts.
enum Stage : int64_t { facts, whole, classes };

// The kernels of an instruction set: a range of the units of a call, and the sum of doubles.
struct Set {
    const char *name;
    void (*run)(const Call &call, int64_t begin, int64_t end, Tally &tally);
    double (*sum)(const double *values, int64_t count);
    // The same as `run` stage by stage: parts from begin to end, or all rows.
    void *(*open)(const Call &call);
    void (*stage)(const Call &call, void *settled, Stage stage, int64_t begin, int64_t end, Tally &tally);
    void (*close)(void *settled);
};
using Run = decltype(Set::run);

// Up to `few` classes a row is a lane (across.hpp); up to `some`, rows are looked at one by one, and what there is of one
// number a row for all of a group at once (beside.hpp); with more, a row is for itself (rows.hpp).
constexpr int64_t few = 24, some = 4096;
constexpr int64_t group = 16;
// For these kinds a row is for itself however few its classes.
inline bool spreads(const Call &call) { return call.kind == spread || call.kind == spread_gradient; }
inline int64_t unit_of(const Call &call) { return call.classes > some && call.rows.classes == 1 ? 1 : group; }
// Rows of more classes are surveyed in parts, each for itself; where labels ask and nothing else, threads share a row.
constexpr int64_t part = 1 << 16;
inline int64_t parts_of(const Call &call) { return (call.classes + part - 1) / part; }
inline bool shared(const Call &call) {
    const bool plain = call.kind == softmax || call.kind == log_softmax ||
                       (call.kind != softmax_gradient && call.kind != masses && !spreads(call) &&
                        call.target_kind != distribution && !call.mixed && !call.smooth);
    const bool apart = call.out.data != call.rows.data;  // in place, one thread would overwrite what another reads
    return plain && apart && call.classes > 2 * part && call.rows.classes == 1 && (!call.out.data || call.out.classes == 1);
}
inline int64_t units_of(const Call &call) {
    return (call.outer * call.inner + unit_of(call) - 1) / unit_of(call);
}

}  // namespace xent
