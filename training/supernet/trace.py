"""A torch classifier as a graph: torch's own layers, and subclasses of them, as leaves; shapes of every tensor."""

import copy
import inspect
import linecache
import traceback
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from ..errors import TraceError

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
LAYERS = tuple(
    kind
    for kind in vars(nn).values()
    if inspect.isclass(kind) and issubclass(kind, nn.Module) and kind is not nn.Module and kind not in CONTAINERS
)
DROPOUTS = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
}
SIZES = ("shape", "size")


@dataclass(slots=True)
class Traced:
    """A network as a graph.

    `shapes`: node name → shape of its tensor at the example's batch size, for nodes that give one tensor.
    `batch_sizes`: names of nodes whose value is the batch size; they can be computed anew from any tensor.
    `notes`: what evaluation leaves out, such as branches that only training takes.
    """

    module: fx.GraphModule
    example: torch.Tensor
    shapes: dict[str, tuple[int, ...]]
    batch_sizes: set[str]
    notes: list[str]


class LayerTracer(fx.Tracer):
    """Looks into every module but torch's own layers and their subclasses."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LAYERS) and not isinstance(m, CONTAINERS)


def trace(model: nn.Module, example: torch.Tensor) -> Traced:
    """Trace a classifier as it runs in evaluation; `example`: (batch, …), any batch size.

    Raises:
        TraceError: control flow depends on a tensor's values, several inputs are needed, or the answer isn't one
            (batch, classes) tensor.
    """
    model = copy.deepcopy(model)
    module = _graph_module(model.eval())
    notes = _follow_mode(module, model)
    _lower_functional_layers(module)
    _name_batch_sizes(module)
    _remove_in_place(module)
    module.graph.eliminate_dead_code()
    module.recompile()
    module.eval()
    two, three = (propagate(module, _batch(example, size)) for size in (2, 3))
    answer = two.get(_output(module).name)
    if not isinstance(answer, torch.Tensor) or answer.dim() != 2 or len(answer) != 2:
        found = tuple(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
        raise TraceError(
            f"{type(model).__name__} answers {found} for an input of {tuple(example.shape)}; "
            "a classifier must answer one (batch, classes) tensor: return only the logits"
        )
    batch_sizes = {name for name, value in two.items() if isinstance(value, int) and (value, three[name]) == (2, 3)}
    shapes = {name: tuple(value.shape) for name, value in two.items() if isinstance(value, torch.Tensor)}
    return Traced(module, _batch(example, 2), shapes, batch_sizes, notes)


def propagate(module: fx.GraphModule, example: torch.Tensor) -> dict[str, Any]:
    """Every node's value, by name, for an example on the meta device: shapes without arithmetic.

    Raises:
        TraceError: a node fails; names it.
    """
    values: dict[str, Any] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            try:
                values[n.name] = super().run_node(n)
            except Exception as error:
                raise NodeError(n, error) from error
            return values[n.name]

    meta = copy.deepcopy(module).to("meta")
    with torch.no_grad():
        Recorder(meta).run(example.to("meta"))
    return values


class NodeError(TraceError):
    """A node of a traced graph failed on the shapes it was given."""

    def __init__(self, node: fx.Node, error: Exception) -> None:
        super().__init__(f"{node.format_node()} fails: {error}")
        self.node = node.name


def _graph_module(model: nn.Module) -> fx.GraphModule:
    """The symbolic trace, further arguments at their defaults."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    optional = {p.name: p.default for p in parameters[1:] if p.default is not p.empty}
    tracer = LayerTracer()
    try:
        graph = tracer.trace(model, concrete_args=optional)
    except Exception as error:
        raise _explained(model, error) from error
    inputs = [node for node in graph.nodes if node.op == "placeholder" and node.users]
    if len(inputs) > 1:
        raise TraceError(f"{type(model).__name__} takes {len(inputs)} inputs ({inputs}); a classifier takes one tensor")
    for node in [node for node in graph.nodes if node.op == "placeholder" and not node.users][len(inputs) == 0 :]:
        graph.erase_node(node)
    return fx.GraphModule(tracer.root, graph)


def _explained(model: nn.Module, error: Exception) -> TraceError:
    """The error with the network's own line that caused it."""
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "/torch/" not in frame.filename.replace("\\", "/")
    ]
    where = own[-1]
    line = linecache.getline(where.filename, where.lineno or 0).strip()
    return TraceError(
        f"{type(model).__name__} can't be traced: {where.filename}:{where.lineno}: `{line}`: {error}. "
        "Which operations run must not depend on a tensor's values or size: decide it in __init__, "
        "or move the part into a subclass of the torch layer it replaces"
    )


def _follow_mode(module: fx.GraphModule, model: nn.Module) -> list[str]:
    """Give functional dropout a layer that follows the module's mode; name what only training does."""
    try:
        training = _graph_module(copy.deepcopy(model).train())
    except TraceError as error:
        return [f"training takes a way that can't be traced and is left out: {error}"]
    finally:
        model.eval()
    ours, theirs = list(module.graph.nodes), list(training.graph.nodes)
    if [n.target for n in ours] != [n.target for n in theirs]:
        known = {str(n.target) for n in ours}
        extra = list(dict.fromkeys(str(n.target) for n in theirs if str(n.target) not in known))
        what = ", ".join(extra[:6]) or "other operations"
        return [f"only training takes a branch with {what}; the supernet is what runs in evaluation"]
    for node, twin in zip(ours, theirs, strict=True):
        if node.target in DROPOUTS and _argument(node, 2, "training", True) != _argument(twin, 2, "training", True):
            name = f"{node.name}_layer"
            module.add_module(name, DROPOUTS[node.target](_argument(node, 1, "p", 0.5)))
            _replace(module, node, name, (node.args[0] if node.args else node.kwargs["input"],))
    return []


def _lower_functional_layers(module: fx.GraphModule) -> None:
    """Turn `F.conv2d` and `F.linear` on the network's own parameters into the layers that they are."""
    for node in list(module.graph.nodes):
        layer = None
        if node.op == "call_function" and node.target in (F.conv2d, torch.conv2d):
            layer = _conv_of(module, node)
        elif node.op == "call_function" and node.target is F.linear:
            layer = _linear_of(module, node)
        if layer is not None:
            name = f"{node.name}_layer"
            module.add_module(name, layer)
            _replace(module, node, name, (node.args[0],))


def _conv_of(module: fx.GraphModule, node: fx.Node) -> nn.Conv2d | None:
    weight = _parameter(module, _argument(node, 1, "weight", None))
    bias_node = _argument(node, 2, "bias", None)
    bias = _parameter(module, bias_node)
    stride, padding = _argument(node, 3, "stride", 1), _argument(node, 4, "padding", 0)
    dilation, groups = _argument(node, 5, "dilation", 1), _argument(node, 6, "groups", 1)
    literal = all(not isinstance(value, fx.Node) for value in (stride, padding, dilation, groups))
    if weight is None or (bias is None) != (bias_node is None) or not literal or not node.args:
        return None
    out_channels, in_channels, *kernel = weight.shape
    layer = nn.Conv2d(
        in_channels * groups, out_channels, tuple(kernel), stride, padding, dilation, groups, bias is not None,
        device="meta",
    )  # fmt: skip
    layer.weight, layer.bias = weight, bias
    return layer


def _linear_of(module: fx.GraphModule, node: fx.Node) -> nn.Linear | None:
    weight = _parameter(module, _argument(node, 1, "weight", None))
    bias_node = _argument(node, 2, "bias", None)
    bias = _parameter(module, bias_node)
    if weight is None or (bias is None) != (bias_node is None) or not node.args:
        return None
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight, layer.bias = weight, bias
    return layer


def _parameter(module: fx.GraphModule, node: Any) -> nn.Parameter | None:
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    owner, _, name = str(node.target).rpartition(".")
    value = getattr(module.get_submodule(owner), name)
    return value if isinstance(value, nn.Parameter) else None


def _name_batch_sizes(module: fx.GraphModule) -> None:
    """Ask for one dimension as `x.size(0)` wherever it was taken out of a whole shape, so that no shape stays alive."""
    for node in list(module.graph.nodes):
        source = node.args[0] if node.args else None
        if not (_is_getitem(node) and isinstance(source, fx.Node) and isinstance(node.args[1], int)):
            continue
        whole = (source.op == "call_method" and source.target == "size" and len(source.args) == 1) or (
            source.op == "call_function" and source.target is getattr and source.args[1] == "shape"
        )
        if whole and not source.kwargs:
            with module.graph.inserting_before(node):
                single = module.graph.call_method("size", (source.args[0], node.args[1]))
            node.replace_all_uses_with(single)
            module.graph.erase_node(node)


def _is_getitem(node: fx.Node) -> bool:
    return node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem"


def _remove_in_place(module: fx.GraphModule) -> None:
    """No operation writes into its input: several widths read the same tensors."""
    for layer in module.modules():
        if getattr(layer, "inplace", False) is True:
            layer.inplace = False
    for node in module.graph.nodes:
        if "inplace" in node.kwargs:
            node.kwargs = {**node.kwargs, "inplace": False}
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        if node.op == "call_method" and name.endswith("_") and not name.startswith("_"):
            node.target = name.rstrip("_")
        elif node.op == "call_function" and node.target.__module__ == "_operator" and name.startswith("i"):
            plain = getattr(__import__("operator"), name[1:], None)
            node.target = plain if plain is not None and name not in ("inv", "invert", "index") else node.target
        elif node.op == "call_function" and name.endswith("_") and hasattr(F, name[:-1]):
            node.target = getattr(F, name[:-1])


def _argument(node: fx.Node, place: int, name: str, default: Any) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _replace(module: fx.GraphModule, node: fx.Node, layer: str, args: tuple[Any, ...]) -> None:
    with module.graph.inserting_after(node):
        new = module.graph.call_module(layer, args)
    node.replace_all_uses_with(new)
    module.graph.erase_node(node)


def _batch(example: torch.Tensor, size: int) -> torch.Tensor:
    return example[:1].detach().expand(size, *example.shape[1:]).contiguous()


def _output(module: fx.GraphModule) -> fx.Node:
    """The node whose tensor the network answers."""
    answer = next(node for node in reversed(module.graph.nodes) if node.op == "output").args[0]
    if not isinstance(answer, fx.Node):
        raise TraceError(f"{answer} is answered; a classifier must answer one (batch, classes) tensor")
    return answer
