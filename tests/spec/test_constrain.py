import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from autosp.errors import SpecError
from autosp.spec import constrain
from autosp.syntax import P, parse_layout

LAYOUTS = ["[batch@dp, hidden]", "[batch@dp,hidden]", parse_layout("[batch@dp, hidden]"), P("dp", None)]


class Model(torch.nn.Module):
    def __init__(self, layout):
        super().__init__()
        self.linear, self.layout = torch.nn.Linear(4, 4), layout

    def forward(self, x):
        return constrain(self.linear(x), self.layout).sin().sum()


class Inline(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x):
        return constrain(self.linear(x), P("dp", None)).sin().sum()


def run(model, compiled, x):
    model.zero_grad()
    loss = compiled(x)
    loss.backward()
    return loss.detach(), model.linear.weight.grad.clone()


@pytest.mark.parametrize("model", [*map(Model, LAYOUTS), Inline()])
@pytest.mark.parametrize("dynamic", [None, True])
def test_it_stays_in_the_graph_and_is_the_identity(model, dynamic):
    torch._dynamo.reset()
    graphs = []

    def keep(gm, _):
        graphs.append(gm)
        return gm

    x = torch.randn(3, 4)
    loss, grad = run(model, model, x)
    for backend in (keep, "aot_eager"):
        torch._dynamo.reset()
        again, grad_again = run(model, torch.compile(model, fullgraph=True, backend=backend, dynamic=dynamic), x)
        assert torch.equal(loss, again)
        assert torch.equal(grad, grad_again)
    (node,) = [n for n in graphs[0].graph.nodes if "constrain" in str(n.target)]
    assert node.args[1] in ("[batch@dp, hidden]", "[_@dp, _]")


def test_outside_of_autosp_it_is_nothing():
    x = torch.zeros(2, 3)
    assert constrain(x, "[a, b@sp]") is x


def test_it_is_traced_before_dispatch():
    graph = make_fx(lambda x: torch.ops.autosp.constrain(x, "[a@sp]") * 2, pre_dispatch=True)(
        torch.ones(3, requires_grad=True)
    )
    assert torch.ops.autosp.constrain.default in [n.target for n in graph.graph.nodes]


def test_the_operator_keeps_torchs_promises():
    x = torch.randn(3, 4, requires_grad=True)
    torch.library.opcheck(torch.ops.autosp.constrain.default, (x, "[a, b]"))
    torch.library.opcheck(torch.ops.autosp.constrain.default, (x.t(), "[a, b]"))


@pytest.mark.parametrize(
    ("layout", "what"),
    [
        ("[a b]", "no comma between 'a' and 'b'"),
        ("[a@sp, b] sum@dp", "a partial sum over 'dp' is asked for"),
        ("[a@sp]", "a tensor of 2 dims is constrained to [a@sp]"),
        (3, "a value of type int stands where a layout belongs"),
    ],
)
def test_a_wrong_layout_is_told_at_once(layout, what):
    with pytest.raises(SpecError) as caught:
        constrain(torch.zeros(2, 2), layout)
    assert caught.value.problems[0].what == what


def test_a_wrong_layout_is_told_while_compiling_too():
    torch._dynamo.reset()
    with pytest.raises(Exception, match="no comma between 'a' and 'b'"):
        torch.compile(Model("[a b]"), fullgraph=True, backend="aot_eager")(torch.zeros(3, 4))
