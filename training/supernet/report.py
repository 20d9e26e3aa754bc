"""What would become of a network, as plain data: what `stretto trace` prints and writes."""

from collections.abc import Sequence
from typing import Any

from torch import fx

from .cuts import macs
from .skeleton import ancestors
from .supernet import Plan, Supernet


def trace_report(plan: Plan, widths: Sequence[float]) -> dict[str, Any]:
    """Channel groups, cost of every point, what stays at full width and why, and where exits can go.

    `narrowed_share`: share of the MACs, at full width and with every exit, in layers that some width narrows on both
    sides. `kept` of a group: its channels at every width, in the order of `widths`. `cuts`: the places for exits, with
    the share of the MACs done there.
    """
    widths = sorted(widths)
    net = Supernet(plan, widths)
    return {
        "widths": widths,
        "groups": [
            {
                "name": group.name,
                "layers": list(group.layers),
                "channels": group.size,
                "atoms": group.atoms,
                "kept": [group.kept_atoms(width) * group.per_atom for width in widths],
            }
            for group in plan.channels.groups
        ],
        "points": [
            {"width": w, "depth": d, "macs": net.macs(w, d), "params": net.parameters_at(w, d)}
            for w in widths
            for d in range(1, net.depths + 1)
        ],
        "narrowed_share": narrowed_share(plan, min(widths)),
        "full": [{"name": kept.name, "reason": kept.reason} for kept in plan.channels.kept],
        "stem": plan.stem.name,
        "exits": [cut.name for cut in plan.exits],
        "cuts": [{"name": cut.name, "node": cut.node, "share": cut.share} for cut in plan.cuts],
        "notes": list(plan.traced.notes),
    }


def narrowed_share(plan: Plan, width: float) -> float:
    """Share of the MACs in layers whose input and output channels this width both narrows; the stem's don't count."""
    cost, nodes = macs(plan.traced), {node.name: node for node in plan.traced.graph.nodes}
    stem = {node.name for node in ancestors(nodes[plan.stem.node])}
    narrow = [name for name in cost if name not in stem and _both_sides(plan, nodes[name], width)]
    return sum(cost[name] for name in narrow) / (sum(cost.values()) or 1)


def _both_sides(plan: Plan, node: fx.Node, width: float) -> bool:
    channels = plan.channels
    sides = (channels.layouts.get(node.all_input_nodes[0].name), channels.layouts.get(node.name))
    return all(side is not None and channels.indices(side.ids, width) is not None for side in sides)
