// The only file that knows Python. A module of the stable ABI (3.10): calls come as a row of 64-bit numbers, threads
// from a function whose address Python hands over (torch's own pool), so that torch is needed neither to build nor here.
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030a0000
#include <Python.h>

#include <cstring>
#include <limits>

#include "xent/call.hpp"
#include "xent/pages.hpp"
#include "xent/sum.hpp"

namespace xent {

extern const Set set_baseline;
#ifdef XENT_X86
extern const Set set_avx2, set_avx512;
#endif

namespace {

const Set &best() {
#ifdef XENT_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl"))
        return set_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
        return set_avx2;
#endif
    return set_baseline;
}

const Set &chosen = best();
Set active = chosen;

// torch_parallel_for of libtorch: ranges of [begin, end), at least `grain` long, on the threads torch may use.
using ParallelFor = int (*)(int64_t begin, int64_t end, int64_t grain, void (*body)(int64_t, int64_t, void *), void *);
ParallelFor parallel_for = nullptr;

struct Work {
    Call call;
    Run run;
    Tally tally;
    std::atomic<bool> failed{false};
    void *settled = nullptr;
    Stage stage = facts;
};

void body(int64_t begin, int64_t end, void *context) {
    Work &work = *static_cast<Work *>(context);
    try {
        work.run(work.call, begin, end, work.tally);
    } catch (...) {  // no memory for a group's scratch
        work.failed = true;
    }
}

void part_body(int64_t begin, int64_t end, void *context) {
    Work &work = *static_cast<Work *>(context);
    try {
        active.stage(work.call, work.settled, work.stage, begin, end, work.tally);
    } catch (...) {
        work.failed = true;
    }
}

void run_parts(Work &work) {
    const int64_t parts = work.call.outer * work.call.inner * parts_of(work.call);
    const auto all = [&](Stage stage) {
        work.stage = stage;
        parallel_for ? parallel_for(0, parts, 1, part_body, &work), void() : part_body(0, parts, &work);
    };
    work.settled = active.open(work.call);
    if (work.call.kind != gradient) all(facts);
    work.stage = whole;
    part_body(0, 0, &work);
    if (work.call.out.data && !work.failed) all(classes);
    active.close(work.settled);
}

// All rows of a call, on the threads that torch may use.
void run_all(Work &work) {
    if (shared(work.call)) return run_parts(work);
    work.run = active.run;
    const int64_t units = units_of(work.call), each = work.call.classes * unit_of(work.call);
    const int64_t grain = 1 + 32768 / (each > 0 ? each : 1);  // as torch has it: 32,768 elements a thread at least
    if (parallel_for && units > grain)
        parallel_for(0, units, grain, body, &work);
    else if (units > 0)
        body(0, units, &work);
}

// Numbers as they are, floats as their bits. False with an exception set.
bool slots_of(PyObject *const *args, Py_ssize_t count, Py_ssize_t expected, int64_t *slots) {
    if (count != expected) {
        PyErr_Format(PyExc_TypeError, "a call takes %zd numbers, got %zd", expected, count);
        return false;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if (PyFloat_Check(args[i])) {
            const double value = PyFloat_AsDouble(args[i]);
            std::memcpy(&slots[i], &value, 8);
        } else {
            slots[i] = static_cast<int64_t>(PyLong_AsLongLong(args[i]));
            if (slots[i] == -1 && PyErr_Occurred()) return false;
        }
    }
    return true;
}

// A call's slots -> how many labels are no class.
PyObject *run(PyObject *, PyObject *const *args, Py_ssize_t count) {
    int64_t slots[call_slots];
    if (!slots_of(args, count, call_slots, slots)) return nullptr;
    Work work;
    std::memcpy(&work.call, slots, sizeof work.call);
    Py_BEGIN_ALLOW_THREADS
    run_all(work);
    Py_END_ALLOW_THREADS
    if (work.failed) return PyErr_NoMemory();
    return PyLong_FromLongLong(work.tally.wrong);
}

// The losses of a call, and their gradient if it has an `out`: slots, and whether the mean is asked for rather than the
// sum -> labels that are no class, value, what a mean divides by.
PyObject *loss(PyObject *, PyObject *const *args, Py_ssize_t count) {
    int64_t slots[call_slots + 1];
    if (!slots_of(args, count, call_slots + 1, slots)) return nullptr;
    const bool mean = slots[call_slots], soft = slots[9] == distribution;
    double divisor = 0, factors[2];
    Work work;
    std::memcpy(&work.call, slots, sizeof work.call);
    Py_BEGIN_ALLOW_THREADS
    if (soft) divisor = static_cast<double>(work.call.outer * work.call.inner);
    if (mean && !soft && work.call.out.data) {  // the gradient is divided by what is only known once labels are read
        Work labels;
        labels.call = work.call, labels.call.kind = masses;
        run_all(labels);
        divisor = labels.tally.mass.rounded();
        work.tally.wrong += labels.tally.wrong, work.failed = labels.failed.load();
    }
    if (work.call.out.data) {
        const double share = !mean ? 1 : divisor == 0 ? 0 : 1 / divisor;
        factors[0] = share * work.call.ours, factors[1] = share * work.call.theirs;
        work.call.hard = factors, work.call.step = 0;
        work.call.smooth = work.call.mixed ? factors + 1 : nullptr;
    }
    if (!work.tally.wrong && !work.failed) run_all(work);
    Py_END_ALLOW_THREADS
    if (work.failed) return PyErr_NoMemory();
    if (!soft) divisor = work.tally.mass.rounded();
    const double sum = work.tally.losses.rounded();
    const double nothing = std::numeric_limits<double>::quiet_NaN();
    return Py_BuildValue("Ldd", static_cast<long long>(work.tally.wrong),
                         !mean ? sum : divisor == 0 ? nothing : sum / divisor, divisor);
}

// Address and number of doubles -> their sum.
PyObject *exact_sum(PyObject *, PyObject *const *args, Py_ssize_t count) {
    if (count != 2) return PyErr_Format(PyExc_TypeError, "exact_sum takes 2 numbers, got %zd", count);
    const void *values = PyLong_AsVoidPtr(args[0]);
    const int64_t number = PyLong_AsLongLong(args[1]);
    if (PyErr_Occurred()) return nullptr;
    double sum;
    Py_BEGIN_ALLOW_THREADS
    sum = active.sum(static_cast<const double *>(values), number);
    Py_END_ALLOW_THREADS
    return PyFloat_FromDouble(sum);
}

PyObject *set_parallel_for(PyObject *, PyObject *address) {
    void *pointer = PyLong_AsVoidPtr(address);
    if (PyErr_Occurred()) return nullptr;
    parallel_for = reinterpret_cast<ParallelFor>(pointer);
    Py_RETURN_NONE;
}

PyObject *instruction_set(PyObject *, PyObject *) { return PyUnicode_FromString(active.name); }

// For tests: a lesser set than the best one.
PyObject *use_instruction_set(PyObject *, PyObject *name) {
    const Set *sets[] = {&chosen, &set_baseline,
#ifdef XENT_X86
                         std::strcmp(chosen.name, "baseline") ? &set_avx2 : nullptr,
#endif
    };
    for (const Set *set : sets)
        if (set && PyUnicode_CompareWithASCIIString(name, set->name) == 0) {
            active = *set;
            Py_RETURN_NONE;
        }
    return PyErr_Format(PyExc_ValueError, "this machine has no instruction set %R", name);
}

// Pages as a tensor: DLPack's structures (version 0, dmlc/dlpack), of which torch takes a capsule over.

struct DLTensor {
    void *data;
    struct { int32_t type, id; } device;
    int32_t ndim;
    struct { uint8_t code, bits; uint16_t lanes; } dtype;
    int64_t *shape, *strides;
    uint64_t byte_offset;
};

struct DLManagedTensor {
    DLTensor tensor;
    void *context;
    void (*deleter)(DLManagedTensor *);
};

constexpr Py_ssize_t most_dimensions = 8;
constexpr char unused_name[] = "dltensor";  // whoever takes the capsule over renames it

struct PagedTensor {
    DLManagedTensor managed;
    Block *block;
    int64_t shape[most_dimensions], strides[most_dimensions];
};

// On any thread, without the GIL, at or after the interpreter's end: nothing of Python in here.
void delete_paged(DLManagedTensor *managed) {
    PagedTensor *paged = static_cast<PagedTensor *>(managed->context);
    Pages::instance().give_back(paged->block);
    delete paged;
}

void delete_unused(PyObject *capsule) {
    if (!PyCapsule_IsValid(capsule, unused_name)) return;
    auto *managed = static_cast<DLManagedTensor *>(PyCapsule_GetPointer(capsule, unused_name));
    managed->deleter(managed);
}

bool read_numbers(PyObject *tuple, int64_t *numbers, Py_ssize_t count) {
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *number = PyTuple_GetItem(tuple, i);
        if (number) numbers[i] = PyLong_AsLongLong(number);
        if (PyErr_Occurred()) return false;
    }
    return true;
}

// DLPack's code and bits of the dtype, shape, strides -> a capsule, or None where the pool has no block for it.
PyObject *pages(PyObject *, PyObject *args) {
    int code, bits;
    PyObject *shape, *strides;
    if (!PyArg_ParseTuple(args, "iiO!O!", &code, &bits, &PyTuple_Type, &shape, &PyTuple_Type, &strides)) return nullptr;
    const Py_ssize_t ndim = PyTuple_Size(shape);
    if (ndim > most_dimensions || PyTuple_Size(strides) != ndim) Py_RETURN_NONE;
    auto *paged = new (std::nothrow) PagedTensor{};
    if (!paged) Py_RETURN_NONE;
    if (!read_numbers(shape, paged->shape, ndim) || !read_numbers(strides, paged->strides, ndim)) {
        delete paged;
        return nullptr;
    }
    int64_t elements = 1;
    for (Py_ssize_t i = 0; i < ndim; i++) elements += (paged->shape[i] - 1) * paged->strides[i];
    paged->block = elements > 0 ? Pages::instance().take(size_t(elements) * size_t(bits / 8)) : nullptr;
    if (!paged->block) {
        delete paged;
        Py_RETURN_NONE;
    }
    paged->managed = {{paged->block->start, {1, 0}, int32_t(ndim), {uint8_t(code), uint8_t(bits), 1},  // 1: the CPU
                       paged->shape, paged->strides, 0}, paged, delete_paged};
    PyObject *capsule = PyCapsule_New(&paged->managed, unused_name, delete_unused);
    if (!capsule) delete_paged(&paged->managed);
    return capsule;
}

PyObject *empty_pages(PyObject *, PyObject *) {
    size_t bytes;
    Py_BEGIN_ALLOW_THREADS
    bytes = Pages::instance().empty();
    Py_END_ALLOW_THREADS
    return PyLong_FromSize_t(bytes);
}

PyObject *limit_pages(PyObject *, PyObject *bytes) {
    const size_t limit = PyLong_AsSize_t(bytes);
    if (PyErr_Occurred()) return nullptr;
    Py_BEGIN_ALLOW_THREADS
    Pages::instance().set_limit(limit);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

PyObject *pages_held(PyObject *, PyObject *) {
    const Held held = Pages::instance().now();
    return Py_BuildValue("(nn)", Py_ssize_t(held.idle), Py_ssize_t(held.used));
}

PyMethodDef methods[] = {
    {"run", reinterpret_cast<PyCFunction>(reinterpret_cast<void *>(run)), METH_FASTCALL, "Run one call."},
    {"loss", reinterpret_cast<PyCFunction>(reinterpret_cast<void *>(loss)), METH_FASTCALL, "Losses and gradient."},
    {"exact_sum", reinterpret_cast<PyCFunction>(reinterpret_cast<void *>(exact_sum)), METH_FASTCALL, "Sum of doubles."},
    {"set_parallel_for", set_parallel_for, METH_O, "Address of torch_parallel_for."},
    {"instruction_set", instruction_set, METH_NOARGS, "The instruction set in use."},
    {"use_instruction_set", use_instruction_set, METH_O, "Use a lesser instruction set."},
    {"pages", pages, METH_VARARGS, "A capsule of DLPack over pages of the pool, or None."},
    {"empty_pages", empty_pages, METH_NOARGS, "Unmap what is idle: bytes."},
    {"limit_pages", limit_pages, METH_O, "How many bytes may lie idle."},
    {"pages_held", pages_held, METH_NOARGS, "Bytes idle and bytes in use."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", "Kernels for the CPU.", -1, methods,
                          nullptr, nullptr, nullptr, nullptr};

}  // namespace
}  // namespace xent

PyMODINIT_FUNC PyInit__native() { return PyModule_Create(&xent::definition); }
