"""The pool of pages: what is alive is left alone, what died serves again, and it is never in the way."""

import copy
import ctypes
import gc
import io
import itertools
import os
import pickle
import random
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import xent
from xent.backends import native, pages

MB = 2**20
STATUS = Path("/proc/self/status")
SMAPS = Path("/proc/self/smaps")
POOL = pages._native

pytestmark = pytest.mark.skipif(
    native.serves(torch.device("cpu")) is not None or sys.platform == "win32", reason="no pool here"
)
DTYPES = pytest.mark.parametrize("dtype", pages._TYPES, ids=lambda d: str(d)[6:])


@pytest.fixture(autouse=True)
def empty_pool():
    """Each test has a pool of its own, of 1 GiB, whatever the environment says."""
    gc.collect()
    POOL.limit_pages(2**30)
    POOL.empty_pages()
    yield
    POOL.limit_pages(pages._limit())


def take(megabytes, dtype=torch.float32):
    """A tensor of the pool; the plan of it takes no memory."""
    size = int(megabytes * MB) // dtype.itemsize
    got = pages.empty_like(torch.empty(1, dtype=dtype).expand(size))
    assert got.shape == (size,)
    return got


def held():
    """MB idle and MB in use."""
    return tuple(n / MB for n in POOL.pages_held())


def of_process(name):
    """MB, by the system's count."""
    return int(re.search(rf"^{name}:\s+(\d+)", STATUS.read_text(), re.M)[1]) / 1024


def run(code, **environment):
    """The code in a process of its own, which ends within a minute, without a word of complaint."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "XENT_PAGE_CACHE": str(2**30), **environment},
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


KEEPERS = {
    "tensor": lambda t: (t, lambda kept: kept),
    "view": lambda t: (t[t.numel() // 2 :][::3], lambda kept: kept),
    "storage": lambda t: (t.untyped_storage(), lambda kept: torch.empty(0).set_(kept)),
    "gradient": lambda t: (with_gradient(t), lambda kept: kept.grad),
    "array": lambda t: (t.numpy()[7:], torch.from_numpy),
    "exported": lambda t: (np.from_dlpack(t), lambda kept: torch.tensor(kept)),
    "saved": lambda t: (torch.ones_like(t, requires_grad=True) * t, lambda kept: kept.grad_fn._saved_other),
}


def with_gradient(t):
    leaf = torch.empty_like(t, requires_grad=True)
    leaf.grad = t
    return leaf


@pytest.mark.parametrize("seed", range(3))
def test_what_is_alive_is_never_handed_out_again(seed):
    """A walk: tensors are taken, filled with their number, kept in some way or let go; no number ever changes."""
    dice = random.Random(seed)
    alive = {}
    served = set()
    for number in range(120):
        t = take(dice.choice([4, 5, 6, 8, 10]))
        served.add(t.data_ptr())
        t.fill_(number)
        alive[number] = KEEPERS[dice.choice(list(KEEPERS))](t)
        del t
        while len(alive) > 6 or (alive and dice.random() < 0.3):
            del alive[dice.choice(list(alive))]
        for known, (kept, tensor_of) in alive.items():
            assert (tensor_of(kept) == known).all()
        if dice.random() < 0.05:
            xent.empty_cache()
    assert len(served) < 100  # many of them came twice
    del kept, tensor_of
    alive.clear()
    assert held()[1] == 0


@pytest.mark.parametrize("keeper", KEEPERS)
def test_whoever_keeps_it_keeps_its_pages(keeper):
    t = take(4).fill_(7)
    kept, tensor_of = KEEPERS[keeper](t)
    del t
    assert held() == (0, 4)
    other = take(4).fill_(8)
    assert (tensor_of(kept) == 7).all()
    del kept
    gc.collect()
    assert held() == (4, 4)
    assert (other == 8).all()


def test_the_next_one_of_about_the_size_takes_the_same_pages():
    t = take(20)
    place = t.data_ptr()
    assert place % (2 * MB) == 0
    for megabytes, same in ((20, True), (16, True), (14, False), (22, False), (20, True)):
        t = None
        t = take(megabytes)
        assert (t.data_ptr() == place) is same, megabytes
    t = None
    assert held() == (20 + 14 + 22, 0)


@pytest.mark.parametrize("small_first", [True, False])
def test_of_two_that_fit_the_smaller_one_serves(small_first):
    large, small = take(24), take(20)
    place = small.data_ptr()
    if small_first:
        del small, large
    else:
        del large, small
    assert take(20).data_ptr() == place
    assert take(24).data_ptr() != place


def test_the_oldest_goes_when_more_would_lie_idle_than_may():
    POOL.limit_pages(16 * MB)
    first, second, third = (take(8) for _ in range(3))
    places = second.data_ptr(), third.data_ptr()
    assert held() == (0, 24)  # the limit is of what lies idle
    del first
    del second
    del third
    assert held() == (16, 0)
    assert {take(8).data_ptr(), take(8).data_ptr()} <= set(places)
    POOL.limit_pages(9 * MB)
    assert held() == (8, 0)
    assert take(10).numel() == 10 * MB // 4  # by torch, since it would not be kept
    assert held() == (8, 0)
    POOL.limit_pages(0)
    assert held() == (0, 0)


@pytest.mark.skipif(not STATUS.exists(), reason="no /proc")
def test_empty_cache_gives_back_what_is_idle_and_nothing_else():
    alive, idle = take(8).fill_(1), take(64).fill_(2)
    del idle
    assert held() == (64, 8)
    before = of_process("VmSize"), of_process("VmRSS")
    assert xent.empty_cache() == 64 * MB
    assert of_process("VmSize") == before[0] - 64
    assert of_process("VmRSS") < before[1] - 50
    assert (alive == 1).all()
    assert xent.empty_cache() == 0


@pytest.mark.skipif(not STATUS.exists(), reason="no /proc")
def test_what_is_idle_is_the_systems_to_take():
    """MADV_PAGEOUT does what the system does when it runs short: it drops pages marked as free, without swap."""
    alive, idle = take(36).fill_(1), take(36).fill_(2)
    places = alive.data_ptr(), idle.data_ptr()
    del idle
    before = of_process("VmRSS")
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    for place in places:
        if madvise(place, 36 * MB, 21) != 0:
            pytest.skip("no MADV_PAGEOUT before Linux 5.4")
    assert before - of_process("VmRSS") > 35
    again = take(36).fill_(3)
    assert again.data_ptr() == places[1]
    assert (alive == 1).all()
    assert (again == 3).all()


def free_of(place):
    """MB at this address that are marked as free."""
    inside = False
    for line in SMAPS.read_text().splitlines():
        if mapping := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(mapping[1], 16) <= place < int(mapping[2], 16)
        elif inside and line.startswith("LazyFree:"):
            return int(line.split()[1]) / 1024
    return pytest.skip("no LazyFree in /proc/self/smaps")


@pytest.mark.skipif(not SMAPS.exists(), reason="no /proc")
def test_a_small_block_is_spared_until_the_next_is_idle():
    first, second = take(16).fill_(1), take(8).fill_(2)
    places = first.data_ptr(), second.data_ptr()
    del first
    assert free_of(places[0]) == 0
    del second
    assert free_of(places[1]) == 0
    total = sum(int(size) for size in re.findall(r"LazyFree: +(\d+) kB", SMAPS.read_text())) / 1024
    assert total == 16  # mappings that lie side by side are one
    assert held() == (24, 0)


def test_threads_take_and_let_go_at_once():
    wrong = []

    def work(number):
        kept = []
        for turn in range(60):
            kept.append(take(random.choice([4, 5, 6])).fill_(number))
            if not all((t == number).all() for t in kept):
                wrong.append((number, turn))
            del kept[: random.randrange(3)]
            if turn % 20 == number:
                xent.empty_cache()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert held()[1] == 0


FORK = """
import os, torch, xent
from xent.backends import pages
torch.set_num_threads(1)
rows = torch.empty(2**21)
alive, idle = pages.empty_like(rows).fill_(1), pages.empty_like(rows).fill_(2)
place = idle.data_ptr()
del idle
assert pages._native.pages_held() == (2**23, 2**23)
child = os.fork()
if child == 0:
    assert pages._native.pages_held() == (0, 2**23)  # what is idle is the parent's
    assert (alive == 1).all()
    alive.fill_(3)
    del alive
    mine = [pages.empty_like(rows).fill_(4) for _ in range(3)]
    assert all((t == 4).all() for t in mine)
    logits = torch.zeros(64, 32000, requires_grad=True)
    xent.cross_entropy(logits, torch.zeros(64, dtype=torch.int64)).backward()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert (alive == 1).all() and pages._native.pages_held() == (2**23, 2**23)
assert pages.empty_like(rows).data_ptr() == place
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_has_the_living_and_none_of_the_idle():
    run(FORK)


FORK_AMONG_THREADS = """
import os, threading, torch
from xent.backends import pages
torch.set_num_threads(1)
take, done = pages._native.pages, threading.Event()
def work():  # capsules alone: whoever holds another of torch's locks at the fork is not our matter
    while not done.is_set():
        take(2, 32, (2**20,), (1,))
        pages._native.limit_pages(2**22)
        pages._native.limit_pages(2**30)
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
children = []
for _ in range(200):
    child = os.fork()
    if child == 0:
        for _ in range(3):
            take(2, 32, (2**20,), (1,))
        os._exit(0)
    children.append(child)
assert all(os.waitpid(child, 0)[1] == 0 for child in children)
done.set()
for thread in threads:
    thread.join()
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_fork_among_threads_that_take_never_hangs():
    run(FORK_AMONG_THREADS, PYTHONWARNINGS="ignore::DeprecationWarning")


EXIT = """
import atexit, sys, threading, torch, xent
from xent.backends import pages
rows = torch.empty(2**21)
kept = [pages.empty_like(rows).fill_(i) for i in range(3)]
torch.kept_beyond_this_module = pages.empty_like(rows)
sys.kept = [pages.empty_like(rows)]
loop = [pages.empty_like(rows)]
loop.append(loop)
capsule = pages._native.pages(2, 32, (2**21,), (1,))
logits = torch.zeros(64, 32000, requires_grad=True)
xent.cross_entropy(logits, torch.zeros(64, dtype=torch.int64)).backward()
late = pages.empty_like(rows)
atexit.register(lambda: late.add_(1))
def wait():
    mine = pages.empty_like(rows)
    threading.Event().wait()
def work():  # capsules alone: an operation of torch in a daemon's thread ends the process with an error of its own
    while True:
        pages._native.pages(2, 32, (2**21,), (1,))
        pages._native.limit_pages(2**24)
for job in (wait, work):
    threading.Thread(target=job, daemon=True).start()
local = threading.local()
local.kept = pages.empty_like(rows)
del kept[0]
"""


def test_tensors_that_outlive_the_interpreter_do_no_harm():
    for _ in range(2):
        run(EXIT)


def test_the_switch_turns_it_off():
    code = (
        "import torch, xent\nfrom xent.backends import pages\n"
        "logits = torch.zeros(64, 32000, requires_grad=True)\n"
        "xent.cross_entropy(logits, torch.zeros(64, dtype=torch.int64)).backward()\n"
        "held = pages._native.pages_held()\n"
        "logits.grad = None\n"
        "print(held, pages._native.pages_held(), xent.empty_cache())"
    )
    assert run(code, XENT_PAGE_CACHE="8388608") == f"(0, {8 * MB}) ({8 * MB}, 0) {8 * MB}\n"
    for less in ("8388607", "0"):
        assert run(code, XENT_PAGE_CACHE=less) == "(0, 0) (0, 0) 0\n"


@pytest.mark.parametrize("value", ["2GB", "-1", "1e9", "off", "٣"])
def test_a_switch_that_is_no_number_is_refused(value, monkeypatch):
    monkeypatch.setenv("XENT_PAGE_CACHE", value)
    with pytest.raises(xent.OptionError) as refused:
        pages._limit()
    for word in ("XENT_PAGE_CACHE", repr(value), "in digits", "1073741824", "Unset"):
        assert word in str(refused.value)


def test_the_command_line_refuses_it_without_a_traceback():
    command = [sys.executable, "-m", "xent", "info"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "XENT_PAGE_CACHE": "2GB"})
    assert (done.returncode, done.stdout) == (3, "")
    assert re.fullmatch(r"OptionError: the environment variable XENT_PAGE_CACHE .*\n", done.stderr)


def test_the_switch_left_alone_is_an_eighth_of_the_memory_and_4_gib_at_most(monkeypatch):
    for unset in ("", " "):
        monkeypatch.setenv("XENT_PAGE_CACHE", unset)
        assert pages._limit() == min(pages._physical_memory() // 8, 4 * 2**30)
    monkeypatch.delenv("XENT_PAGE_CACHE")
    assert 0 < pages._limit() <= 4 * 2**30
    monkeypatch.setenv("XENT_PAGE_CACHE", "9" * 40)
    POOL.limit_pages(pages._limit())


def plans(dtype):
    """Tensors of 5 MB and more, dense and not."""
    size = 5 * MB // dtype.itemsize
    yield torch.empty(5, size // 5, dtype=dtype)
    yield torch.empty(2, 16, 128, size // 4096 + 1, dtype=dtype).to(memory_format=torch.channels_last)
    yield torch.empty(3, size // 3 + 1, 1, dtype=dtype).permute(1, 2, 0)
    yield torch.empty(4, size // 2, dtype=dtype)[:, ::2]
    yield torch.empty(1, size, dtype=dtype).expand(2, size)
    yield torch.empty(size, dtype=dtype).as_strided((1, size, 1), (3, 1, 77))


@DTYPES
def test_it_is_what_torch_gives(dtype):
    for like in plans(dtype):
        got, want = pages.empty_like(like), torch.empty_like(like)
        assert (got.dtype, got.shape, got.stride()) == (want.dtype, want.shape, want.stride())
        assert held()[1] >= 5
        assert type(got) is torch.Tensor
        assert (got.requires_grad, got.is_leaf, got.layout, got.device) == (False, True, want.layout, want.device)
        assert (got.storage_offset(), got._version) == (0, want._version)
        del got


def test_a_parameter_is_plain_and_inference_mode_is_kept():
    rows = torch.nn.Parameter(torch.empty(2 * MB))
    assert not pages.empty_like(rows).requires_grad
    assert held() == (8, 0)
    with torch.inference_mode():
        assert pages.empty_like(rows).is_inference()
    with torch.device("meta"):
        assert pages.empty_like(rows).device.type == "cpu"


def test_what_is_small_or_not_plain_is_torchs():
    class Kind(torch.Tensor):
        pass

    with FakeTensorMode():
        fake = torch.empty(2 * MB)
        assert type(pages.empty_like(fake)) is type(fake)
    for rows in (
        torch.empty(pages.THRESHOLD // 4 - 1),
        torch.empty(0, 5),
        torch.empty(2 * MB).as_subclass(Kind),
        torch.empty(2 * MB, device="meta"),
        torch.empty(2 * MB, dtype=torch.int64),
        torch.empty([*[1] * 9, 2 * MB]),
    ):
        got = pages.empty_like(rows)
        assert (type(got), got.shape, got.device) == (type(rows), rows.shape, rows.device)
        assert held() == (0, 0)


def test_without_the_module_it_is_torchs(monkeypatch):
    monkeypatch.setattr(pages, "_native", None)
    assert pages.empty_like(torch.empty(2 * MB)).shape == (2 * MB,)
    assert pages.empty_cache() == 0
    assert held() == (0, 0)


def test_a_capsule_that_nobody_takes_gives_its_pages_back():
    capsule = POOL.pages(2, 32, (2 * MB,), (1,))
    assert held() == (0, 8)
    del capsule
    assert held() == (8, 0)
    for wrong in ((2, 32, (2 * MB,), (2**70,)), (2, 32, (2 * MB,), ("1",)), (2, 32, [2 * MB], (1,))):
        with pytest.raises((TypeError, OverflowError)):
            POOL.pages(*wrong)
    assert POOL.pages(2, 32, (2 * MB,), (1, 1)) is None
    assert held() == (8, 0)


NO_ROOM = """
import resource, torch
from xent.backends import pages
torch.set_num_threads(1)
MB = 2**20
t = pages.empty_like(torch.empty(1).expand(15 * MB))
del t
assert pages._native.pages_held() == (60 * MB, 0)
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 40 * MB, -1))
t = pages.empty_like(torch.empty(1).expand(20 * MB))  # 80 MB: only without the idle 60
assert pages._native.pages_held() == (0, 80 * MB)
try:
    pages.empty_like(torch.empty(1).expand(50 * MB))
except RuntimeError as reason:
    print("allocate memory" in str(reason))
assert pages._native.pages_held() == (0, 80 * MB)
"""


@pytest.mark.skipif(not STATUS.exists(), reason="no /proc")
def test_where_there_is_no_memory_the_idle_goes_first_and_the_error_is_torchs():
    assert run(NO_ROOM) == "True\n"


def trained(dtype=torch.float32, shape=(64, 40_000)):
    logits = torch.randn(shape).to(dtype).requires_grad_()
    xent.cross_entropy(logits, torch.zeros(shape[0], dtype=torch.int64)).backward()
    return logits


@DTYPES
def test_a_step_holds_one_gradient_and_the_next_one_takes_its_place(dtype):
    logits = trained(dtype)
    block = (logits.nbytes + 2 * MB - 1) // (2 * MB) * 2
    assert held() == (0, block)  # the gradient was taken over, not copied
    place = logits.grad.data_ptr()
    for _ in range(3):
        logits.grad = None
        assert held() == (block, 0)
        xent.cross_entropy(logits, torch.zeros(64, dtype=torch.int64)).backward()
        assert logits.grad.data_ptr() == place
        assert held() == (0, block)
    xent.cross_entropy(logits, torch.zeros(64, dtype=torch.int64)).backward()  # adds to it
    assert held() == (block, block)


def test_a_gradient_is_a_tensor_like_any_other(tmp_path):
    logits = trained()
    grad, want = logits.grad, logits.grad.tolist()
    assert held()[1] == 10
    assert grad.numpy().tolist() == want
    for other in (grad.clone(), copy.deepcopy(grad), pickle.loads(pickle.dumps(grad))):
        assert torch.equal(other, grad)
    file = io.BytesIO()
    torch.save(grad, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=True), grad)
    grad.mul_(2).add_(1).clamp_(max=3).zero_()
    grad[3:5] = 7
    assert grad.sum() == 2 * 40_000 * 7
    torch.optim.SGD([logits], lr=0.1).step()
    torch.nn.utils.clip_grad_norm_([logits], 1.0)
    assert grad.resize_(2, 100).shape == (2, 100)
    assert (grad == 0).all()
    with pytest.raises(RuntimeError, match="not resizable"):
        grad.resize_(100, 40_000)


def test_a_gradient_moves_to_shared_memory_and_leaves_its_pages():
    grad = trained().grad
    want = grad.clone()
    view = grad[1:]
    grad.share_memory_()
    assert grad.is_shared()
    assert held() == (10, 0)
    assert torch.equal(grad, want)
    assert torch.equal(view, want[1:])


def dirty():
    """Leaves pages full of nan, in which an entry that a kernel forgets would show."""
    for megabytes in (4, 6, 8, 10):
        take(megabytes).fill_(torch.nan)


@DTYPES
@pytest.mark.parametrize("shape", [(150, 20_000), (300_000, 10), (4, 70, 11_000), (4, 9, 90_000)])
def test_every_entry_is_written(dtype, shape):
    """The same bits in pages full of nan as in torch's memory: ignored rows, weights of zero, all functions."""
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=g).to(dtype)
    labels = torch.randint(shape[1], (shape[0], *shape[2:]), generator=g)
    labels[::3] = -100
    weight = torch.rand(shape[1], generator=g).to(dtype)
    weight[::2] = 0
    for function in (
        lambda x: xent.cross_entropy(x, labels),
        lambda x: xent.cross_entropy(x, labels, weight=weight, label_smoothing=0.1),
        lambda x: xent.softmax(x, 1),
        lambda x: xent.log_softmax(x, 1),
    ):
        results = []
        for limit in (0, 2**30):
            POOL.limit_pages(limit)
            dirty()
            x = logits.clone().requires_grad_()
            out = function(x)
            before = out.detach().clone()
            (grad,) = torch.autograd.grad(out.square().sum(), x)
            assert (held()[1] > 0) is (limit > 0)
            results.append((before, out.detach().clone(), grad.clone()))
            del out, grad, x
        for without, with_pool in zip(*results, strict=True):
            assert torch.equal(without, with_pool)


PEAK = """
import re, torch, xent
torch.set_num_threads(1)
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
def step(logits):
    logits.grad = None
    xent.cross_entropy(logits, torch.zeros(logits.shape[0], dtype=torch.int64)).backward()
step(torch.zeros(64, 10, requires_grad=True))
logits = torch.randn(2048, 8192, requires_grad=True)  # 64 MB
before = peak()
for _ in range(4):
    step(logits)
print(peak() - before)
"""


@pytest.mark.skipif(not STATUS.exists(), reason="no /proc")
def test_the_peak_of_many_steps_is_one_gradient():
    assert float(run(PEAK)) < 64 * 1.1


def test_a_gradient_that_is_freed_in_the_middle_of_a_backward_pass_serves_the_next_layer():
    """Two losses on one body: the second gradient of logits takes the pages of the first. (Small ones, which are made
    in the forward pass, live side by side.)"""
    body = torch.randn(64, 8, requires_grad=True)
    heads = [torch.randn(8, 160_000) for _ in range(2)]
    target = torch.zeros(64, dtype=torch.int64)
    for _ in range(2):
        sum(xent.cross_entropy(body @ head, target) for head in heads).backward()
    assert held() == (40, 0)


def test_retained_graphs_and_higher_derivatives_use_memory_of_their_own():
    logits = torch.randn(64, 40_000, requires_grad=True)
    loss = xent.cross_entropy(logits, torch.zeros(64, dtype=torch.int64))
    first = torch.autograd.grad(loss, logits, retain_graph=True)[0]
    copied = first.clone()
    second = torch.autograd.grad(loss, logits, create_graph=True)[0]
    torch.autograd.grad(second.square().sum(), logits)
    assert torch.equal(first, copied)
    assert torch.equal(first, second)
    for a, b in itertools.combinations([t.data_ptr() for t in (logits, first, second)], 2):
        assert a != b
