// Rows on the heap, laid out as a call may find them, with nothing behind the last element.
#pragma once
#include <memory>

#include "numbers.hpp"
#include "xent/call.hpp"

struct Layout {
    bool apart;           // the classes of a row in steps and neighbouring rows side by side, or the other way round
    int64_t gap, offset;  // elements that are nobody's, between the rows and in front of everything
    bool expanded;        // rows that are all the same lie there once, and so does a value
};

template <class T> class Tensor {
   public:
    xent::View view{};

    // The rows are (outer, inner).
    Tensor(const std::vector<T> &values, int64_t outer, int64_t inner, int64_t classes, Layout l)
        : rows(outer * inner), across(inner), width(classes) {
        view.inner = l.apart ? 1 : classes + l.gap, view.classes = l.apart ? inner + l.gap : 1;
        view.outer = l.apart ? classes * view.classes : inner * view.inner;
        if (l.expanded && repeats(values, classes)) {
            view.outer = view.inner = 0, view.classes = repeats(values, 1) ? 0 : 1;
        }
        size = l.offset + 1 + (outer - 1) * view.outer + (inner - 1) * view.inner + (classes - 1) * view.classes;
        memory.reset(new T[static_cast<size_t>(size)]);
        std::memset(static_cast<void *>(memory.get()), nobodys, static_cast<size_t>(size) * sizeof(T));
        view.data = memory.get() + l.offset;
        const T *next = values.data();
        each([&](T &value) { value = *next++; });
    }

    std::vector<T> read() const {
        std::vector<T> values(static_cast<size_t>(rows * width));
        T *next = values.data();
        each([&](T &value) { *next++ = value; });
        return values;
    }

    // Whether what is nobody's is as it was.
    bool untouched() const {
        if (size == rows * width) return true;
        std::vector<char> own(static_cast<size_t>(size));
        each([&](T &value) { own[static_cast<size_t>(&value - memory.get())] = true; });
        const uint8_t *p = reinterpret_cast<const uint8_t *>(memory.get());
        for (size_t i = 0; i < own.size(); i++)
            for (size_t b = 0; b < sizeof(T) && !own[i]; b++)
                if (p[i * sizeof(T) + b] != nobodys) return false;
        return true;
    }

   private:
    static constexpr uint8_t nobodys = 0xff;  // nan, whatever the type
    // Row by row.
    template <class Visit> void each(Visit visit) const {
        for (int64_t r = 0; r < rows; r++) {
            T *p = static_cast<T *>(view.data) + r / across * view.outer + r % across * view.inner;
            for (int64_t j = 0; j < width; j++) visit(p[j * view.classes]);
        }
    }
    static bool repeats(const std::vector<T> &values, int64_t period) {
        const size_t first = static_cast<size_t>(period);
        return !std::memcmp(values.data(), values.data() + first, (values.size() - first) * sizeof(T));
    }

    int64_t rows, across, width, size;
    std::unique_ptr<T[]> memory;
};
