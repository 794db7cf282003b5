"""Derivatives of other kinds: right, or refused; never silently 0. Of equal logits every one is known by hand."""

from ..case import Probe, case


@case("double backward: a gradient that is silently detached")
def double_backward():
    return Probe(
        "x, y = torch.zeros(1, 4, requires_grad=True), torch.tensor([0])",
        """
        first, = torch.autograd.grad(loss(x, y), x, create_graph=True)
        assert first.requires_grad, "create_graph=True gave a gradient without a graph"
        got, = torch.autograd.grad(first[0, 0], x)  # p (v - p v) with p = 1/4
        assert got.tolist() == [[0.1875, -0.0625, -0.0625, -0.0625]], f"{got.tolist()} is not [3, -1, -1, -1] / 16"
        """,
        needs=("autograd",),
        refusable=True,
    )


@case("forward-mode derivative: silently 0")
def forward_mode():
    return Probe(
        "x, y, v = torch.zeros(1, 4), torch.tensor([0]), torch.tensor([[1.0, 0.0, 0.0, 0.0]])",
        """
        got = torch.func.jvp(lambda x: loss(x, y), (x,), (v,))[1].item()
        assert abs(got + 0.75) < 1e-2, f"the derivative of the loss along its label's logit is {got}, not -3/4"
        """,
        needs=("autograd",),
        refusable=True,
    )


@case("per-sample gradients by vmap: right or refused")
def vmap_of_grad():
    return Probe(
        "x, y = torch.zeros(3, 4), torch.tensor([0, 1, 2])",
        """
        one = lambda x, y: loss(x.unsqueeze(0), y.unsqueeze(0))
        got = torch.func.vmap(torch.func.grad(one))(x, y)
        assert torch.equal(got, 0.25 - torch.eye(4)[:3].to(got.dtype)), f"{got[0].tolist()} is not [-3, 1, 1, 1] / 4"
        """,
        needs=("autograd",),
        refusable=True,
    )


@case("a gradient of the target probabilities: silently missing")
def gradient_of_probabilities():
    return Probe(
        "x, y = torch.zeros(1, 4), torch.full((1, 4), 0.25, requires_grad=True)",
        """
        got = loss(x, y)
        assert got.requires_grad, "the target asks for a gradient, and the loss has no graph"
        error = (torch.autograd.grad(got, y)[0].double() - 4.0 ** 0.5 * 0.6931471805599453).abs().max().item()
        assert error < 1e-2, f"off by {error}: it is log 4 for every class"
        """,
        needs=("autograd", "probabilities"),
        refusable=True,
    )


@case("a gradient of the class weights: silently missing")
def gradient_of_weights():
    return Probe(
        "x, y, w = torch.zeros(2, 4), torch.tensor([0, 2]), torch.ones(4).requires_grad_()",
        """
        slope, = torch.autograd.grad(loss(x.requires_grad_(), y, weight=w, reduction="sum"), w, allow_unused=True)
        assert slope is not None, "the class weights ask for a gradient, and the loss knows none of them"
        error = (slope.double() - torch.tensor([2.0, 0.0, 2.0, 0.0]) * 0.6931471805599453).abs().max().item()
        assert error < 1e-2, f"off by {error}: it is log 4 for the classes of the labels"
        """,
        needs=("autograd", "weight", "reduction"),
        refusable=True,
    )
