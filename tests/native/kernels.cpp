// The kernels without torch or Python, for the sanitizers: buffers of exactly the size of the call, any bits as logits,
// labels of any kind and value, every layout; then float32 and float64 against long double.
//
// Compile with -DXENT_SOURCE='"cpu/avx2.cpp"' -DXENT_SET=set_avx2 and the flags of that set (csrc/cpu/sets.py).
#include XENT_SOURCE

#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

namespace {

using xent::Call;
using xent::View;

std::mt19937_64 random_bits(1);

struct Layout {
    int64_t outer, classes, inner;
    bool apart;  // classes behind one another in steps of `inner`, or side by side
    View view(void *data) const {
        if (apart) return {data, classes * inner, inner, 1};
        return {data, classes * inner, 1, classes};
    }
    int64_t rows() const { return outer * inner; }
    int64_t size() const { return rows() * classes; }
};

// Everything a call reads and writes, on the heap, no element longer than it has to be.
template <class T> struct Data {
    Layout layout;
    std::vector<T> x, q, slope, out;
    std::vector<double> facts[5], hard, smooth, weight;
    std::vector<uint64_t> labels;
    double weight_sum = 0;

    Data(Layout l) : layout(l), x(l.size()), q(l.size()), slope(l.size()), out(l.size()), hard(l.rows(), 1.0),
                     smooth(l.rows(), 0.01), weight(l.classes), labels(l.rows()) {
        for (auto &fact : facts) fact.assign(l.rows(), 0.0);
        for (int64_t j = 0; j < l.classes; j++) {
            weight[j] = j % 3 ? 0.5 + j % 5 : 0.0, weight_sum += weight[j];
        }
    }
    Call call(int64_t kind, int64_t type, int64_t target_kind, bool weighted, bool smoothed) {
        Call c{};
        c.kind = kind, c.type = type, c.outer = layout.outer, c.classes = layout.classes, c.inner = layout.inner;
        c.rows = layout.view(x.data()), c.target_kind = target_kind, c.ignore_index = -100;
        c.target = target_kind == xent::distribution ? layout.view(q.data()) : View{labels.data(), 0, 0, 0};
        if (weighted) c.weight = weight.data(), c.weight_sum = &weight_sum;
        c.mixed = smoothed && kind != xent::gradient, c.step = 1, c.ours = 0.9, c.theirs = 0.01;
        c.peak = facts[0].data(), c.rest = facts[1].data(), c.picked = facts[2].data();
        c.mass = facts[3].data(), c.mix = facts[4].data();
        c.hard = hard.data(), c.smooth = smoothed && kind != xent::summary ? smooth.data() : nullptr;
        if (kind != xent::summary) c.out = layout.view(out.data());
        if (kind == xent::softmax_gradient) c.slope = layout.view(slope.data());
        return c;
    }
};

int64_t run(const Call &call) {
    xent::Tally tally;
    xent::XENT_SET.run(call, 0, xent::units_of(call), tally);
    return tally.wrong;
}

template <class T> void scramble(std::vector<T> &values) {
    for (T &value : values) {
        const uint64_t bits = random_bits();
        std::memcpy(&value, &bits, sizeof value);
    }
}

template <class T> void any_bits(int64_t type, Layout layout) {
    Data<T> data(layout);
    for (int round = 0; round < 2; round++) {
        scramble(data.x), scramble(data.q), scramble(data.slope), scramble(data.labels);
        if (round) scramble(data.hard);
        for (int64_t target = xent::i64; target <= xent::distribution; target++)
            for (int options = 0; options < 4; options++)
                for (int64_t kind : {xent::summary, xent::gradient, xent::loss}) run(data.call(kind, type, target, options & 1, options & 2));
        for (int64_t kind : {xent::softmax, xent::log_softmax, xent::softmax_gradient})
            run(data.call(kind, type, -1, false, false));
        for (int64_t kind : {xent::spread, xent::spread_gradient}) run(data.call(kind, type, -1, false, true));
    }
}

void expect(bool fine, const char *what, const Layout &l, double got, double want) {
    if (fine) return;
    std::printf("%s of %d classes: %.17g, expected %.17g\n", what, int(l.classes), got, want);
    std::exit(1);
}

template <class T> void truth(int64_t type, Layout layout, double allowed) {
    Data<T> data(layout);
    std::normal_distribution<double> normal(0, 5);
    for (T &x : data.x) x = static_cast<T>(normal(random_bits));
    for (uint64_t &y : data.labels) y = random_bits() % layout.classes;
    if (run(data.call(xent::summary, type, xent::u64, false, false))) std::exit(1);
    run(data.call(xent::gradient, type, xent::u64, false, false));
    const View view = layout.view(nullptr);
    for (int64_t r = 0; r < layout.rows(); r++) {
        const int64_t start = r / layout.inner * view.outer + r % layout.inner * view.inner;
        const auto x = [&](int64_t j) { return static_cast<long double>(data.x[start + j * view.classes]); };
        long double peak = x(0), rest = -1;
        for (int64_t j = 1; j < layout.classes; j++) peak = x(j) > peak ? x(j) : peak;
        for (int64_t j = 0; j < layout.classes; j++) rest += std::exp(x(j) - peak);
        const double have = data.facts[1][r];
        expect(std::fabs(have - rest) <= allowed * (1 + rest), "rest", layout, have, double(rest));
        for (int64_t j = 0; j < layout.classes; j++) {
            const bool asked = j == static_cast<int64_t>(data.labels[r]);
            const double want = double(std::exp(x(j) - peak) / (1 + rest) - asked);
            const double got = data.out[start + j * view.classes];
            expect(std::fabs(got - want) <= allowed, "gradient", layout, got, want);
        }
    }
}

}  // namespace

int main() {
    for (int64_t classes : {1, 2, 7, 8, 9, 15, 16, 17, 24, 25, 33, 63, 64, 65, 79, 80, 81, 129})
        for (bool apart : {false, true})
            for (Layout l : {Layout{1, classes, 1, apart}, Layout{19, classes, 1, apart}, Layout{2, classes, 17, apart}}) {
                any_bits<double>(xent::float64, l), any_bits<float>(xent::float32, l);
                any_bits<uint16_t>(xent::bfloat16, l), any_bits<uint16_t>(xent::float16, l);
                truth<double>(xent::float64, l, 1e-15), truth<float>(xent::float32, l, 3e-7);
            }
    std::puts("fine");
}
