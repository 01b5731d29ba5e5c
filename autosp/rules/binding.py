"""A written rule and one call: which dim of which tensor is which factor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import attrs

from ..sharding import Size, as_size, divide
from .call import Call, Mismatch, all_hold, positions, value_of
from .model import Clause, Dims, FactorDim, Item, Pack, Rule, Selector, Signature
from .projection import Projection
from .strategies import product

Key: TypeAlias = "str | int"  # a factor by name, or a position of the pack
Slot: TypeAlias = "tuple[Key, ...]"  # one dim of a tensor


@attrs.frozen
class Shaped:
    """A tensor of the call: per dim its size and the keys that make it up."""

    slots: tuple[Slot, ...]
    sizes: tuple[Size, ...]


@attrs.frozen
class Bound:
    """Every tensor of the call in keys. `fresh` keys stand for dims that only one result has."""

    operands: tuple[Shaped, ...]
    results: tuple[Shaped, ...]
    pack: int
    strict: bool

    @property
    def tensors(self) -> tuple[Shaped, ...]:
        return self.operands + self.results


def bind_signature(rule: Rule, form: Signature, call: Call) -> Projection:
    """The projection of a call under a written rule. Raises Mismatch where the rule does not fit."""
    bound = bind_dims(form, call)
    kinds = bind_kinds(rule, bound, call)
    sizes = key_sizes(bound, kinds)
    factors = Factors(sizes, kinds)
    operands = tuple(factors.dims(t) for t in bound.operands)
    results = tuple(factors.dims(t) for t in bound.results)
    check_results(factors, operands, results)
    random = bool(clauses_for(rule, "random", call))
    return Projection(
        operands,
        results,
        tuple(factors.sizes),
        tuple(factors.kinds),
        tuple(factors.names),
        once=frozenset(i for c in clauses_for(rule, "once", call) for (n,) in c.names for i in call.places.get(n, ())),
        linear=() if random else tuple(linear_sets(rule, call)),  # ranks that draw differently make no sum
        movement=bool(rule.clauses_of("movement")),
        saves=tuple(saved(rule, call)),
        random=random,
    )


def clauses_for(rule: Rule, word: str, call: Call) -> list[Clause]:
    """The clauses of a word whose condition is true of the call."""
    return [c for c in rule.clauses_of(word) if all_hold(c.tests, call)]


def bind_dims(form: Signature, call: Call) -> Bound:
    """Align every tensor of the call with its pattern."""
    patterns: dict[int, Dims] = {}
    for operand in form.operands:
        indices = call.places.get(operand.name, [])
        if not indices and not operand.maybe and call.named.get(operand.name) is None:
            raise Mismatch(f"operand '{operand.name}' is missing")
        patterns |= {i: operand.dims for i in indices}
    unnamed = [n for n, places in call.places.items() if any(i not in patterns for i in places)]
    if unnamed:
        raise Mismatch(f"operand '{unnamed[0]}' is not in the rule")
    fitted = [fit(patterns[i], len(shape), set()) for i, shape in enumerate(call.operands)]
    packs = [
        (len(shape) - len(items) + 1) for items, shape in zip(fitted, call.operands, strict=True) if has_pack(items)
    ]
    pack = max(packs, default=0)
    strict = any(token(d) == "..." for d in [*patterns.values(), *form.results])
    if strict and any(n != pack for n in packs):
        raise Mismatch("its tensors should have equally many dims")
    operands = [shaped(items, shape, pack, call) for items, shape in zip(fitted, call.operands, strict=True)]
    keys = {k for t in operands for slot in t.slots for k in slot}
    results = []
    for dims, shape in zip(result_patterns(form, call), call.results, strict=True):
        if not packs and has_pack(dims):
            pack = max(pack, len(shape) - len(dims) + 1)
        absent = {n for item in dims if isinstance(item, FactorDim) and item.maybe for n in item.names if n not in keys}
        results.append(shaped(fit(dims, len(shape), absent), shape, pack, call))
    return Bound(tuple(operands), tuple(results), pack, strict)


def result_patterns(form: Signature, call: Call) -> list[Dims]:
    """A pattern for each result."""
    if form.each:
        return [form.results[0]] * len(call.results)
    if len(form.results) != len(call.results):
        raise Mismatch(f"it gives {len(call.results)} tensors, not {len(form.results)}")
    return list(form.results)


def has_pack(items: tuple[Item, ...]) -> bool:
    """Whether a pattern has a pack."""
    return any(isinstance(i, Pack) for i in items)


def token(items: tuple[Item, ...]) -> str:
    """The pack that a pattern has, or ''."""
    return next((i.token for i in items if isinstance(i, Pack)), "")


def fit(items: Dims, rank: int, absent: set[str]) -> Dims:
    """The pattern without the optional dims that a tensor of this rank lacks (first those in `absent`)."""
    items = tuple(i for i in items if not (isinstance(i, FactorDim) and i.maybe and set(i.names) <= absent))
    while len(items) - has_pack(items) > rank:
        spare = next((i for i in items if isinstance(i, FactorDim) and i.maybe), None)
        if spare is None:
            raise Mismatch(f"a tensor has {rank} dims, fewer than the rule names")
        items = tuple(i for i in items if i is not spare)
    if not has_pack(items) and len(items) != rank:
        raise Mismatch(f"a tensor has {rank} dims, the rule names {len(items)}")
    return items


def shaped(items: Dims, shape: tuple[Size, ...], pack: int, call: Call) -> Shaped:
    """The slots of one tensor; a shorter pack is aligned right. Only a dim of size 1 may be in no factor."""
    taken = len(shape) - (len(items) - has_pack(items))
    slots: list[Slot] = []
    for item in items:
        if isinstance(item, FactorDim):
            slots.append(item.names)
        else:
            slots += pack_slots(item, taken, pack, call)
    if len(slots) != len(shape) or any(not slot and n != 1 for slot, n in zip(slots, shape, strict=True)):
        raise Mismatch(f"a tensor of {len(shape)} dims does not fit '{', '.join(map(str, items))}'")
    return Shaped(tuple(slots), shape)


def pack_slots(item: Pack, taken: int, pack: int, call: Call) -> Iterator[Slot]:
    """One slot for each of the `taken` dims that a pack stands for."""
    if item.change == "without":
        gone = positions(value_of(call, item.arg), pack)
        kept = [i for i in range(pack) if i not in gone]
        yield from ([() if i in gone else (i,) for i in range(pack)] if taken == pack else [(i,) for i in kept])
    elif item.change == "with":
        new = positions(value_of(call, item.arg), taken)
        old = iter(range(pack))
        yield from (("new",) if i in new else (next(old),) for i in range(taken))
    else:
        yield from ((i,) for i in range(pack - taken, pack))


def bind_kinds(rule: Rule, bound: Bound, call: Call) -> dict[Key, str]:
    """The kind of every key; `whole` wins over `reduce`."""
    kinds: dict[Key, str] = {k: "pass" for t in bound.tensors for slot in t.slots for k in slot}
    if "new" in kinds:
        kinds["new"] = "whole"
    for word in ("reduce", "whole"):
        for clause in clauses_for(rule, word, call):
            for selector in clause.selectors:
                kinds |= {k: word for k in select(selector, bound, call) if k in kinds}
    return kinds


def select(selector: Selector, bound: Bound, call: Call) -> list[Key]:
    """The keys that a selector names."""
    pack, arg = bound.pack, selector.arg
    if selector.kind == "name":
        return [str(arg)]
    if selector.kind == "pack":
        return list(range(pack))
    if selector.kind == "resized":
        return resized(bound)
    if selector.kind == "padded":
        amounts = value_of(call, str(arg))
        return [pack - 1 - i // 2 for i, n in enumerate(amounts) if as_size(n) != 0]
    value = arg if isinstance(arg, int) else value_of(call, arg)
    if selector.kind == "last":
        n = len(value) if isinstance(value, (list, tuple)) else int(value)
        return list(range(max(pack - n, 0), pack))
    return positions(value, pack)


def resized(bound: Bound) -> list[Key]:
    """The positions of the pack that have more than one size."""
    return [k for k in range(bound.pack) if len(set(sizes_of(bound, k))) > 1]


def sizes_of(bound: Bound, key: Key) -> list[Size]:
    """The sizes of the dims that consist of one key alone."""
    return [n for t in bound.tensors for slot, n in zip(t.slots, t.sizes, strict=True) if slot == (key,)]


def key_sizes(bound: Bound, kinds: dict[Key, str]) -> dict[Key, Size]:
    """The size of every key, from the dims it stands in alone or from what it is composed with."""
    known: dict[Key, Size] = {}
    for key, kind in kinds.items():
        seen = sizes_of(bound, key)
        exact = bound.strict and isinstance(key, int)
        wide = list(dict.fromkeys(n for n in seen if exact or n != 1))
        if len(wide) > 1 and kind != "whole":
            raise Mismatch(f"dim '{key_name(key)}' has sizes {wide[0]} and {wide[1]}")
        if seen:
            known[key] = next((n for n in wide if n != 1), 1)
    composed = [(s, n) for t in bound.tensors for s, n in zip(t.slots, t.sizes, strict=True) if len(s) > 1 and n != 1]
    for slot, size in composed:
        missing = [k for k in slot if k not in known]
        if len(missing) > 1:
            raise Mismatch(f"the sizes of '{' '.join(map(str, slot))}' cannot be told apart")
        rest = divide(size, product(known[k] for k in slot if k in known))
        if rest is None or (not missing and rest != 1):
            raise Mismatch(f"({' '.join(map(str, slot))}) does not make up {size}")
        known |= dict.fromkeys(missing, rest)
    return {k: known.get(k, 1) for k in kinds}


def key_name(key: Key) -> str:
    """How a key is shown: its name, or its position in the pack."""
    return f"*{key}" if isinstance(key, int) else key


@attrs.define
class Factors:
    """Numbers the keys that are longer than one, in the order in which they are met."""

    known: dict[Key, Size]
    kinds_of: dict[Key, str]
    ids: dict[tuple[Key, Size], int] = attrs.field(factory=dict)
    names: list[str] = attrs.field(factory=list)
    sizes: list[Size] = attrs.field(factory=list)
    kinds: list[str] = attrs.field(factory=list)

    def dims(self, tensor: Shaped) -> tuple[tuple[int, ...], ...]:
        """The tensor's dims in factors; a dim of size 1 has none."""
        return tuple(
            () if size == 1 else tuple(self.number(k, self.size(k, slot, size)) for k in slot if self.known[k] != 1)
            for slot, size in zip(tensor.slots, tensor.sizes, strict=True)
        )

    def size(self, key: Key, slot: Slot, size: Size) -> Size:
        """The size of a key in one dim: a whole dim may be longer in one tensor than in another."""
        return size if len(slot) == 1 else self.known[key]

    def number(self, key: Key, size: Size) -> int:
        if (key, size) not in self.ids:
            self.ids[key, size] = len(self.names)
            self.names.append(key_name(key))
            self.sizes.append(size)
            self.kinds.append(self.kinds_of[key])
        return self.ids[key, size]


def check_results(factors: Factors, operands: tuple, results: tuple) -> None:
    """A `pass` factor is in every result, a `reduce` factor in none, each once in a tensor."""
    for f, kind in enumerate(factors.kinds):
        inside = [sum(f in dim for dim in dims) for dims in results]
        if kind == "pass" and not all(inside):
            raise Mismatch(f"dim '{factors.names[f]}' may be split but is missing from a result")
        if kind == "reduce" and any(inside):
            raise Mismatch(f"dim '{factors.names[f]}' is summed but stands in a result")
        if kind != "whole" and any(sum(f in dim for dim in dims) > 1 for dims in operands + results):
            raise Mismatch(f"dim '{factors.names[f]}' stands twice in a tensor")


def linear_sets(rule: Rule, call: Call) -> Iterator[frozenset[int]]:
    """Sets of operands in which the call is jointly linear; a number that is not 0 voids its set."""
    if not call.floating_results:
        return
    for names in (n for c in clauses_for(rule, "linear", call) for n in c.names):
        if all(neutral(call, n) for n in names):
            operands = frozenset(i for n in names for i in call.places.get(n, ()))
            if operands and all(call.floating[i] for i in operands):
                yield operands


def neutral(call: Call, name: str) -> bool:
    """Whether an argument is tensors, absent, or the number 0."""
    value = call.named.get(name)
    return bool(call.places.get(name)) or value is None or (isinstance(value, (int, float)) and value == 0)


def saved(rule: Rule, call: Call) -> Iterator[int]:
    """The operands, or the result (-1), whose values the backward needs."""
    for (name,) in (n for c in clauses_for(rule, "saves", call) for n in c.names):
        yield from [-1] if name == "result" else call.places.get(name, ())
