// libFuzzer's way into the kernels: bytes become a call over heap buffers of exactly the size it needs, made on every
// instruction set of the machine (the baseline in some of the cases, else the others). Beyond what the sanitizers see:
//
//   - a row has the same bits in a batch, alone, in another layout, and divided among threads; AVX2's are AVX-512's,
//   - the peak and the label's logit are exact, and the rest is what std::exp says to a few ulp,
//   - labels are counted as wrong exactly when they are out of range; rows with such, and ignored ones, are 0,
//   - classes are counted and the first one at the peak is found as a loop does it,
//   - finite rows have finite facts, and softmax and gradients stay in their bounds,
//   - nothing between the rows of a strided result is written.
//
// `make fuzz` compiles and runs it (fuzz/run.py). Fields of Call that fuzz/problem.hpp does not name are 0, and kinds
// that are not in the table below are not called.
#include <string>

#include "fuzz/judge.hpp"

namespace xent {
extern const Set set_baseline;
#ifdef XENT_X86
extern const Set set_avx2, set_avx512;
#endif
}  // namespace xent

namespace {

constexpr int64_t kinds[] = {xent::summary, xent::gradient, xent::softmax, xent::log_softmax, xent::softmax_gradient,
                             xent::loss, xent::spread, xent::spread_gradient};

// The borders of vectors, regimes (24, 4,096), parts (65,536) and shared rows (131,072), and what lies next to them.
constexpr int64_t class_counts[] = {
    1, 2, 3, 7, 8, 9, 10, 15, 16, 17, 23, 24, 25, 31, 32, 33, 63, 64, 65, 79, 80, 81, 127, 128, 129, 255, 256, 257,
    513, 1000, 1024, 1025,
};
constexpr int64_t long_class_counts[] = {
    2049, 4095, 4096, 4097, 4112, 8193, 16385, 65535, 65536, 65537, 131072, 131073, 131089, 200001,
};
constexpr int64_t row_counts[] = {1, 1, 2, 3, 7, 8, 9, 15, 16, 17, 25, 33};
// Elements of several rows, so that a call takes milliseconds. Two rows may have more.
constexpr int64_t most = 1 << 12;

std::vector<Set> sets_of_this_machine() {
    std::vector<Set> sets{xent::set_baseline};
#ifdef XENT_X86
    __builtin_cpu_init();
    // every processor with AVX2 has F16C, which Clang 14 has no name for
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        sets.push_back(xent::set_avx2);
    if (sets.size() == 2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        sets.push_back(xent::set_avx512);
#endif
    return sets;
}

Layout layout_from(Bytes &bytes) {
    const uint8_t b = bytes.next();
    return {(b & 1) != 0, b & 2 ? b >> 6 : 0, b & 4 ? b >> 3 & 7 : 0, (b & 6) == 6};
}
Places places_from(Bytes &bytes, int64_t inner) {
    return {layout_from(bytes), layout_from(bytes), layout_from(bytes), layout_from(bytes), inner, bytes.next()};
}

// Two thirds in range, the others at its ends, at those of the types, or anything.
std::vector<uint8_t> labels_from(Bytes &bytes, int64_t rows, int64_t classes, int64_t kind, int64_t ignored) {
    std::vector<uint8_t> labels;
    for (int64_t r = 0; r < rows; r++) {
        const uint8_t b = bytes.next();
        int64_t value = bytes.bits<uint16_t>() % classes;
        if (b > 170) {
            const int64_t others[] = {0,         classes - 1, classes,  -1,        ignored,   INT64_MIN,
                                      INT64_MAX, INT32_MAX,   INT32_MIN, 1L << 32, 1L << 62, bytes.bits<int64_t>()};
            value = others[b % 12];
        }
        const uint8_t *p = reinterpret_cast<const uint8_t *>(&value);
        labels.insert(labels.end(), p, p + label_size[kind]);
    }
    return labels;
}

template <class T> std::vector<T> rows_from(Bytes &bytes, int64_t rows, int64_t classes) {
    const int64_t repeated = bytes.below(4);  // one row again and again, or one value, for expanded tensors
    std::vector<T> values = numbers<T>(bytes, repeated == 1 ? classes : repeated == 2 ? 1 : rows * classes);
    const size_t own = values.size();
    for (size_t i = own; i < static_cast<size_t>(rows * classes); i++) values.push_back(values[i - own]);
    return values;
}

template <class T> void examine(Bytes bytes, int64_t type) {
    Problem<T> p{};
    p.kind = bytes.one_of(kinds), p.type = type;
    p.classes = bytes.one_in(32) ? bytes.one_of(long_class_counts) : bytes.one_of(class_counts);
    const int64_t inner = std::min(bytes.one_of(row_counts), std::max<int64_t>(most / p.classes, 2));
    const int64_t outer = std::min(bytes.one_of(row_counts), std::max<int64_t>(most / p.classes / inner, 1));
    p.rows = outer * inner;
    const Places first = places_from(bytes, inner), second = places_from(bytes, bytes.one_in(2) ? 1 : p.rows);
    const uint8_t options = bytes.next();
    const bool least = bytes.one_in(4);
    const bool targeted = p.kind == xent::summary || p.kind == xent::gradient || p.kind == xent::loss;
    p.target_kind = targeted ? bytes.below(xent::distribution + 1) : -1;
    const int64_t to_ignore[] = {-100, 0, p.classes - 1, p.classes, -1, 255, INT64_MIN, INT64_MAX};
    p.ignore_index = bytes.one_of(to_ignore);
    if (p.labelled()) p.labels = labels_from(bytes, p.rows, p.classes, p.target_kind, p.ignore_index);
    if (p.target_kind >= 0 && options & 1) {
        p.weight = numbers<double>(bytes, p.classes);
        for (const double w : p.weight) p.weight_sum += w;
    }
    p.mixed = (p.kind == xent::summary || p.kind == xent::loss) && options & 2;
    p.differentiated = p.kind == xent::loss && options & 8;
    p.ours = options & 16 ? bytes.next() / 255.0 : 1.0, p.theirs = 0.1;  // shares, as smoothing has them
    if (p.kind == xent::gradient || p.kind == xent::loss) {
        p.hard = options & 4 ? numbers<double>(bytes, p.rows) : std::vector<double>(static_cast<size_t>(p.rows), 1.0);
        if (options & 2) p.smooth = numbers<double>(bytes, p.rows);
    }
    if (p.kind == xent::spread_gradient) {
        p.hard = options & 4 ? numbers<double>(bytes, p.rows) : std::vector<double>(static_cast<size_t>(p.rows), 0.0);
        p.smooth = numbers<double>(bytes, p.rows);
    }
    const bool strange_facts = p.takes_facts() && (options & 0xe0) == 0xe0;
    if (strange_facts) p.peak = numbers<double>(bytes, p.rows), p.rest = numbers<double>(bytes, p.rows);
    p.x = rows_from<T>(bytes, p.rows, p.classes);
    if (p.soft()) p.q = rows_from<T>(bytes, p.rows, p.classes);
    if (p.kind == xent::softmax_gradient) p.slope = rows_from<T>(bytes, p.rows, p.classes);

    static const std::vector<Set> sets = sets_of_this_machine();
    Result<T> before;
    for (const Set &set : sets) {
        if (sets.size() > 1 && (set.name == std::string("baseline")) != least) continue;
        if (p.takes_facts() && !strange_facts) {
            Problem<T> forward = p;
            forward.kind = p.kind == xent::gradient ? xent::summary : xent::softmax, forward.slope.clear();
            Result<T> facts = run(forward, set, second);
            p.peak = facts.facts[0], p.rest = facts.facts[1];
            for (size_t r = 0; r < p.rest.size() && p.kind == xent::spread; r++)  // a logit of the row
                p.rest[r] = wide(p.x[(r + 1) * static_cast<size_t>(p.classes) - 1]);
        }
        const Result<T> whole = run(p, set, first);
        judge(p, set, whole);
        const Result<T> again = run(p, set, second);
        compare("another layout", p, set, whole, 0, again);
        compare_sums("sums in another layout", p, set, whole, again);
        Places alone = second;
        alone.inner = 1;
        for (int64_t r = 0; r < p.rows; r++) {
            const Result<T> one = run(p.row(r), set, alone);
            compare("alone", p, set, whole, r, one);
            if (!one.wrong != !p.wrong(r)) p.fail("label counted as wrong", set, r, double(one.wrong), p.wrong(r));
        }
        // (peaks that are not those of the rows take exp out of its range, where the sets may differ)
        if (!strange_facts && set.name == std::string("avx512")) {
            compare("avx2", p, set, whole, 0, before);
            compare_sums("sums on avx2", p, set, whole, before);
        }
        before = whole;
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Bytes bytes{data, size};
    switch (bytes.below(4)) {
        case xent::float64: examine<double>(bytes, xent::float64); break;
        case xent::float32: examine<float>(bytes, xent::float32); break;
        case xent::bfloat16: examine<Brain>(bytes, xent::bfloat16); break;
        default: examine<Half>(bytes, xent::float16);
    }
    return 0;
}
