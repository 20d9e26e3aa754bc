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
from .graphs import argument, name_of, replace_with_layer
from .lowering import lower
from .meta import BATCHES, apply, batch_of, meta_copy
from .proxies import SizedTracer

DROPOUTS: dict[Any, type[nn.Module]] = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
    torch.dropout: nn.Dropout,
}


@dataclass(slots=True)
class Traced:
    """A network as a graph.

    `module`: the layers that the graph calls; a `GraphModule` of its own, or layers of another width.
    `example`: (2, …) an input on the meta device.
    `shapes`: node name → shape of its tensor for the example, for nodes that give one tensor.
    `scalars`: node name → value for the example, for nodes that give a number: the batch size and what follows from it.
    `batch_sizes`: names of nodes whose value is the batch size; they can be computed anew from any tensor.
    `batched`: names of nodes whose tensor has the batch, and nothing else of its size, on axis 0.
    `notes`: what evaluation leaves out, such as branches that only training takes.
    """

    module: nn.Module
    graph: fx.Graph
    example: torch.Tensor
    shapes: dict[str, tuple[int, ...]]
    scalars: dict[str, Any]
    batch_sizes: set[str]
    batched: set[str]
    notes: list[str]

    def layer(self, node: fx.Node) -> Any:
        """The layer that a `call_module` node calls."""
        return self.module.get_submodule(str(node.target))

    @property
    def answers(self) -> tuple[fx.Node, ...]:
        """The nodes of every exit's logits, the network's own last."""
        given: Any = next(node for node in reversed(self.graph.nodes) if node.op == "output").args[0]
        return tuple(given) if isinstance(given, (tuple, list)) else (given,)


class NodeError(TraceError):
    """A node of a traced graph failed on the shapes it was given."""

    def __init__(self, node: fx.Node, error: Exception) -> None:
        super().__init__(f"{node.format_node()} fails: {error}")
        self.node, self.reason = node.name, (str(error).splitlines() or [type(error).__name__])[0]


def trace(model: nn.Module, example: torch.Tensor) -> Traced:
    """Trace a classifier as it runs in evaluation; `example`: (batch, …), any batch size.

    Raises:
        TraceError: control flow depends on a tensor's values or on the batch size, several inputs are needed, a write
            in place can't be undone, or the answer isn't one (batch, classes) tensor.
    """
    model = copy.deepcopy(model).eval()
    module, notes = _graph_module(model, example)
    notes += _follow_mode(module, model, example)
    module = lower(module).eval()
    meta = meta_copy(module)
    two, three = (propagate(meta, module.graph, batch_of(example, size)) for size in BATCHES)
    _check_answer(model, module.graph, two, example)
    for node in module.graph.nodes:
        node.meta = {}
    tensors = {name: value for name, value in two.items() if isinstance(value, torch.Tensor)}
    return Traced(
        module,
        module.graph,
        batch_of(example, BATCHES[0]),
        {name: tuple(value.shape) for name, value in tensors.items()},
        {name: value for name, value in two.items() if name not in tensors},
        {name for name, value in two.items() if isinstance(value, int) and (value, three[name]) == BATCHES},
        {name for name, value in tensors.items() if value.dim() and _batched(value, three[name])},
        notes,
    )


def _batched(two: torch.Tensor, three: torch.Tensor) -> bool:
    return (two.shape[0], three.shape[0]) == BATCHES and two.shape[1:] == three.shape[1:]


def propagate(module: nn.Module, graph: fx.Graph, example: torch.Tensor) -> dict[str, Any]:
    """Every node's value, by name, with layers and example on the meta device: shapes without arithmetic.

    Raises:
        NodeError: a node fails; names it.
    """
    values: dict[str, Any] = {}
    with torch.no_grad():
        for node in graph.nodes:
            if node.op == "placeholder":
                values[node.name] = example
            elif node.op == "get_attr":
                owner, _, name = str(node.target).rpartition(".")
                values[node.name] = getattr(module.get_submodule(owner), name)
            elif node.op != "output":
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: values[n.name])
                try:
                    values[node.name] = apply(module, node, args, kwargs)
                except Exception as error:
                    raise NodeError(node, error) from error
    return values


def _graph_module(model: nn.Module, example: torch.Tensor) -> tuple[fx.GraphModule, list[str]]:
    """The symbolic trace, further arguments at their defaults; and what it leaves out."""
    parameters = list(inspect.signature(model.forward).parameters.values())
    optional = {p.name: p.default for p in parameters[1:] if p.default is not p.empty}
    needed = [p.name for p in parameters[1:] if p.default is p.empty and p.kind == p.POSITIONAL_OR_KEYWORD]
    if needed:
        raise TraceError(
            f"{type(model).__name__}.forward also needs {', '.join(needed)}; a classifier takes one tensor"
        )
    tracer = SizedTracer(model, example)
    try:
        graph = tracer.trace(model, concrete_args=optional)
    except Exception as error:
        raise _explained(model, error) from error
    for node in [node for node in graph.nodes if node.op == "placeholder"][1:]:
        for user in list(node.users):  # an assertion that the argument is None
            graph.erase_node(user)
        graph.erase_node(node)
    return fx.GraphModule(tracer.root, graph), tracer.notes


def _explained(model: nn.Module, error: Exception) -> TraceError:
    """The error with the network's own line that caused it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _is_machinery(frame.filename.replace("\\", "/"))]
    where = own[-1] if own else frames[-1]
    line = linecache.getline(where.filename, where.lineno or 0).strip()
    return TraceError(
        f"{type(model).__name__} can't be traced: {where.filename}:{where.lineno}: `{line}`: {error}. "
        "Which operations run must not depend on a tensor's values or on the batch size: decide it in __init__, "
        "or move the part into a subclass of the torch layer it replaces"
    )


def _is_machinery(path: str) -> bool:
    here = __file__.replace("\\", "/").rpartition("/")[0]
    return "/torch/" in path or path.startswith((here, "<eval_with_key>"))


def _follow_mode(module: fx.GraphModule, model: nn.Module, example: torch.Tensor) -> list[str]:
    """Give functional dropout a layer that follows the module's mode; name what only training does."""
    try:
        training, _ = _graph_module(copy.deepcopy(model).train(), example)
    except TraceError as error:
        return [f"training takes a way that can't be traced and is left out: {error}"]
    ours, theirs = list(module.graph.nodes), list(training.graph.nodes)
    drops = [[node for node in nodes if node.target in DROPOUTS] for nodes in (ours, theirs)]
    if len(drops[0]) == len(drops[1]):
        for node, twin in zip(*drops, strict=True):
            if argument(node, 2, "training", True) != argument(twin, 2, "training", True):
                layer = DROPOUTS[node.target](argument(node, 1, "p", 0.5))
                replace_with_layer(module, node, layer, node.args[0] if node.args else node.kwargs["input"])
    if [n.target for n in ours] == [n.target for n in theirs]:
        return []
    known = {name_of(n) for n in ours}
    extra = list(dict.fromkeys(name_of(n) for n in theirs if name_of(n) not in known))
    what = ", ".join(extra[:6]) or "other operations"
    return [f"only training takes a branch with {what}; the supernet is what runs in evaluation"]


def _check_answer(model: nn.Module, graph: fx.Graph, values: dict[str, Any], example: torch.Tensor) -> None:
    answer: Any = next(node for node in reversed(graph.nodes) if node.op == "output").args[0]
    value = values[answer.name] if isinstance(answer, fx.Node) else answer
    if not isinstance(value, torch.Tensor) or value.dim() != 2 or len(value) != BATCHES[0]:
        found = tuple(value.shape) if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
        raise TraceError(
            f"{type(model).__name__} answers {found} for {BATCHES[0]} inputs of {tuple(example.shape[1:])}; "
            "a classifier must answer one (batch, classes) tensor: return only the logits"
        )
