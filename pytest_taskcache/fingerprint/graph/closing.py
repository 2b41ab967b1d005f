"""What can be reached over any number of edges, as one mask for each node."""

from __future__ import annotations

from collections.abc import Sequence


def reachable(edges: Sequence[Sequence[int]], own: Sequence[int]) -> list[int]:
    """For each node the union of the masks ``own`` of all that can be reached from it, itself
    included; in time proportional to nodes and edges, times the masks' length.

    Strongly connected components by Tarjan's algorithm, without recursion; components come
    out in an order in which those they lead to are done.
    """
    count = len(edges)
    masks = [0] * count
    order = [-1] * count
    low = [0] * count
    done = [False] * count
    stack: list[int] = []
    clock = 0
    for start in range(count):
        if order[start] >= 0:
            continue
        work = [(start, iter(edges[start]))]
        order[start] = low[start] = clock
        clock += 1
        stack.append(start)
        while work:
            node, targets = work[-1]
            for target in targets:
                if order[target] < 0:
                    order[target] = low[target] = clock
                    clock += 1
                    stack.append(target)
                    work.append((target, iter(edges[target])))
                    break
                if not done[target] and order[target] < low[node]:
                    low[node] = order[target]
            else:
                work.pop()
                if work and low[node] < low[work[-1][0]]:
                    low[work[-1][0]] = low[node]
                if low[node] == order[node]:
                    component = _pop_down_to(node, stack)
                    mask = _mask_of(component, edges, own, masks, done)
                    for member in component:
                        masks[member] = mask
                        done[member] = True
    return masks


def _pop_down_to(root: int, stack: list[int]) -> list[int]:
    """Takes the component whose first node is ``root`` off the stack."""
    position = len(stack) - 1
    while stack[position] != root:
        position -= 1
    component = stack[position:]
    del stack[position:]
    return component


def _mask_of(
    component: list[int],
    edges: Sequence[Sequence[int]],
    own: Sequence[int],
    masks: Sequence[int],
    done: Sequence[bool],
) -> int:
    """All that a component reaches, given the masks of the components that it leads to."""
    mask = 0
    for node in component:
        mask |= own[node]
        for target in edges[node]:
            if done[target]:
                mask |= masks[target]
    return mask
