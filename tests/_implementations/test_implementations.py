"""What can be loaded is behind torch's signature; what cannot says why; a peer is imported when it is asked for."""

import subprocess
import sys
import types

import pytest
import torch
import torch.nn.functional as F

import xent
from xent import _implementations
from xent._implementations import CATALOGUE, find

HERE = [one for one in CATALOGUE.values() if one.missing() is None and one.refusal("cpu", "float32") is None]
LOGITS = torch.tensor([[2.0, 1.0, 0.1], [-4.1, 1.0, 0.1]])
LABELS = torch.tensor([0, 1])


def called(one, logits, target, **options):
    if not one.head:
        return one.load()(logits, target, **options)
    return one.load()(logits, torch.eye(logits.shape[1]), target, **options)


@pytest.mark.parametrize("one", [one for one in HERE if one.name != "torch-compile"], ids=lambda one: one.name)
def test_what_is_installed_gives_the_loss_and_the_gradient(one):
    logits = LOGITS.clone().requires_grad_()
    want = F.cross_entropy(logits, LABELS)
    got = called(one, logits, LABELS)
    torch.testing.assert_close(got.detach(), want.detach())
    if "gradient" in one.offers:
        torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (got, want)))
    if "reduction" in one.offers:
        torch.testing.assert_close(called(one, LOGITS, LABELS, reduction="sum"), 2 * want.detach())


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_every_name_says_what_it_is_and_what_it_misses(name):
    one = CATALOGUE[name]
    assert one.offers <= _implementations.OPTIONS
    assert one.signature in _implementations.SIGNATURES
    if one.missing() is not None:
        with pytest.raises(
            xent.LoadError, match=rf"{name}: .* is not installed\. .*pip install {one.packages[0].partition('/')[0]}"
        ):
            one.load()


def test_a_peer_is_imported_when_it_is_asked_for_only():
    code = """if True:
        import sys, xent._implementations as i
        [one.missing() for one in i.CATALOGUE.values()]
        peers = "sklearn jax keras tensorflow trl liger_kernel cut_cross_entropy optax xent.ops"
        print(sorted(set(peers.split()) & set(sys.modules)))"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.fixture
def home(monkeypatch):
    module = types.ModuleType("home_of_losses")
    monkeypatch.setitem(sys.modules, "home_of_losses", module)
    return module


def test_a_function_a_class_and_a_module_are_taken(home):
    def plain(input, target, ignore_index=-100):
        return F.cross_entropy(input, target, ignore_index=ignore_index)

    home.plain, home.Class, home.module = plain, torch.nn.CrossEntropyLoss, torch.nn.CrossEntropyLoss()
    want = F.cross_entropy(LOGITS, LABELS)
    for name in ("plain", "Class", "module"):
        torch.testing.assert_close(find(f"home_of_losses:{name}").load()(LOGITS, LABELS), want)
    assert find("home_of_losses:plain").offers & {"weight", "ignore_index", "reduction"} == {"ignore_index"}
    assert "label_smoothing" in find("home_of_losses:Class").offers
    assert "weight" not in find("home_of_losses:module").offers
    torch.testing.assert_close(
        find("home_of_losses:Class").load()(LOGITS, LABELS, label_smoothing=0.1),
        F.cross_entropy(LOGITS, LABELS, label_smoothing=0.1),
    )


def test_a_head_of_either_signature_is_taken(home):
    def linear(input, linear_weight, target, *, linear_bias=None):
        return F.cross_entropy(F.linear(input, linear_weight, linear_bias), target)

    def hidden(e, c, targets, bias=None):
        return linear(e, c, targets, linear_bias=bias), None

    home.linear, home.hidden = linear, hidden
    bias = torch.tensor([0.5, 0.0, 1.0])
    want = F.cross_entropy(LOGITS + bias, LABELS)
    for signature in ("linear", "hidden"):
        one = find(f"home_of_losses:{signature}", signature)
        assert one.head
        assert "bias" in one.offers
        torch.testing.assert_close(one.load()(LOGITS, torch.eye(3), LABELS, linear_bias=bias), want)


@pytest.mark.parametrize("name", ["torch", "torch-linear", "xent", "xent-linear", "sklearn"])
def test_its_statement_binds_the_same(name):
    namespace = {}
    exec(find(name).statement("loss"), namespace)
    one = find(name)
    rest = (LOGITS, torch.eye(3), LABELS) if one.head else (LOGITS, LABELS)
    torch.testing.assert_close(namespace["loss"](*rest), one.load()(*rest), rtol=0, atol=0)


def test_what_cannot_be_loaded_says_why(home):
    home.number = 3
    with pytest.raises(xent.OptionError, match=r"'optx' is not a known implementation .* Did you mean optax\?"):
        find("optx")
    with pytest.raises(xent.LoadError, match="No module named 'nowhere'"):
        find("nowhere:loss")
    with pytest.raises(xent.LoadError, match="has no attribute 'loss'"):
        find("home_of_losses:loss")
    with pytest.raises(xent.LoadError, match="home_of_losses:number is a int; a function, a class or a module"):
        find("home_of_losses:number")
    with pytest.raises(xent.OptionError, match="signature is 'head'"):
        find("torch", "head")


def test_devices_and_dtypes_are_claimed(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert find("cce").refusal("cpu", "bfloat16") == "needs a GPU"
    assert find("liger").refusal("cpu", "float32") == "needs a GPU (or TRITON_INTERPRET=1)"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert find("liger").refusal("cpu", "float32") is None
    assert find("cce").refusal("cpu", "bfloat16") == "needs a GPU"
    assert find("sklearn").refusal("cpu", "bfloat16") == "does not take bfloat16"
    assert find("torch").refusal("cuda:0", "bfloat16") is None
