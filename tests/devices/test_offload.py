"""Rules whose memory lies on the host between turns, on the device of `fake_device` and on the processor."""

from __future__ import annotations

import copy
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitwise import differing
from device_runs import device_trainer
from fake_device import KIND, FakeDevice, fake_device
from host import Host
from rules_under_test import is_iterative, label, rules_under_test
from tiny import tiny_gan, tiny_points, tiny_trainer
from torch.utils.data import DataLoader

from lightning_lead import ConfigurationError, GameStrategy, LEADStrategy
from lightning_lead._sharding import map_tensors
from lightning_lead.engine import _rule_memory
from lightning_lead.engine._rule_memory import lend, settled, take_back
from lightning_lead.engine.named_rules import find_game, name_game
from lightning_lead.rules import LEAD, AbstractGameRule, GradientPlay, OptimisticGradient

RULES = rules_under_test()
DOCS = Path(__file__).parents[2] / "docs" / "speed.md"
STEPS = 5  # of the table: in the last one LookaheadMinmax() goes back
SIZE = 4  # parameters of each of two players


@pytest.fixture
def pinned() -> Callable[..., None]:
    """Let copies of the device's tensors go through pinned memory, as those of CUDA's do."""

    def pin(device: FakeDevice, patch: Any) -> None:
        cuda = device.cuda
        patch.setattr(_rule_memory, "_cuda", lambda where: cuda if where.type == KIND else None)

    return pin


class Watch:
    """Counts what is brought to the device and what is copied to the host, and knows what is still there."""

    def __init__(self, patch: Any = None) -> None:
        self.copies: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self.at_losses = 0
        """Most bytes of the rule's that lay on the device while losses were evaluated."""
        self._lent: list[Any] = []
        brought, of = _rule_memory._Kept.brought, _rule_memory._Kept.of

        def watched(kept: Any) -> torch.Tensor:
            tensor = brought(kept)
            tensor = tensor.clone() if tensor is kept.host else tensor  # of the processor, where it stands for a device
            self._lent.append(weakref.ref(tensor))
            self.copies["brought"] += 1
            self.bytes["brought"] += tensor.numel() * tensor.element_size()
            return tensor

        def counted(tensor: torch.Tensor, events: Any) -> Any:
            self.copies["taken back"] += 1
            self.bytes["taken back"] += tensor.numel() * tensor.element_size()
            return of(tensor, events)

        if patch is not None:
            patch.setattr(_rule_memory._Kept, "brought", watched)
            patch.setattr(_rule_memory._Kept, "of", counted)

    def bytes_there(self) -> int:
        """Bytes of what has been brought and is still on the device."""
        there = [tensor for tensor in (each() for each in self._lent) if tensor is not None]
        return sum(tensor.numel() * tensor.element_size() for tensor in there)

    def saddle(self, values: Any) -> Any:
        """Smooth, curved, and zero-sum."""
        self.at_losses = max(self.at_losses, self.bytes_there())
        x, y = values["x"], values["y"]
        loss = x @ y + 0.1 * x.sin().square().sum() - 0.2 * y.square().sum()
        return {"x": loss, "y": -loss}


def played(rule: AbstractGameRule, watch: Watch, kind: str, *, offload: bool) -> Host:
    draw = torch.Generator().manual_seed(5)
    start = {name: torch.randn(SIZE, generator=draw) for name in "xy"}
    host = Host(copy.deepcopy(rule), watch.saddle, {k: v.to(kind) for k, v in start.items()}, lr=0.05)
    host.game = GameStrategy(host.game.rule, skip_limit=None, offload=offload)
    host.game.start({name: tuple(params) for name, params in host.live.items()})
    return host


def kept_bytes(state: Any) -> dict[str, int]:
    """Device -> bytes of the tensors in a state."""
    found: Counter[str] = Counter()
    seen = set()

    def add(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in seen:
            found[tensor.device.type] += tensor.numel() * tensor.element_size()
            seen.add(id(tensor))
        return tensor

    map_tensors(add, state)
    return dict(found)


def after_steps(host: Host, rule: AbstractGameRule) -> dict[str, torch.Tensor]:
    for _ in range(2 if is_iterative(rule) else max(3, rule.period)):  # LookaheadMinmax goes back after a period
        host.step()
    return host.values()


def remembers(rule: AbstractGameRule) -> bool:
    host = played(rule, Watch(), "cpu", offload=True)
    host.step()
    return bool(kept_bytes(host.game.state))


MEMORY = [rule for rule in RULES if remembers(rule)]
FIRSTS = {label(rule) for rule in {type(rule): rule for rule in reversed(MEMORY)}.values()}
WAITING = ("LEAD", "LookaheadMinmax", "OptimisticGradient")  # also where memory is not pinned


@pytest.mark.parametrize("rule", MEMORY, ids=label)
def test_an_offloaded_rule_plays_the_same_bits_and_leaves_nothing_on_the_device(rule, pinned, monkeypatch):
    """Through pinned memory nobody waits for a copy; elsewhere each is waited for."""
    here = after_steps(played(rule, Watch(), "cpu", offload=False), rule)
    for through_pinned in (True, False) if rule.name in WAITING else (True,):
        with fake_device() as device, monkeypatch.context() as patch:
            if through_pinned:
                pinned(device, patch)
            watch = Watch(patch)
            host = played(rule, watch, KIND, offload=True)
            copies = watch.copies.total()
            with device.counted() as waits:
                there = after_steps(host, rule)
            copies = watch.copies.total() - copies
            assert copies
            assert watch.bytes_there() == 0
            assert not kept_bytes(host.game._memory)
            assert kept_bytes(host.game.state).keys() == {"cpu"}
            if not is_iterative(rule) and getattr(rule, "cross", "") != "auto":  # whose own reads come besides
                assert waits.total() == (0 if through_pinned else copies), waits
            assert all(torch.equal(there[name].cpu(), here[name]) for name in here)


def trio(values: Any) -> Any:
    x, y, z = values["x"], values["y"], values["z"]
    return {"x": x @ y + z @ x, "y": y @ z - x @ y, "z": z @ z - z @ x}


@pytest.mark.parametrize("rule", [LEAD(1.0, cross="extrapolated"), OptimisticGradient()], ids=label)
def test_three_players_of_which_one_is_forgotten_play_the_same_bits(rule, pinned, monkeypatch):
    ends = []
    with fake_device() as device:
        pinned(device, monkeypatch)
        for offload in (False, True):
            start = {name: torch.linspace(k, 1.0, SIZE).to(KIND) for k, name in enumerate("xyz")}
            host = Host(rule, trio, start, lr=0.05, play="alternating")
            host.game = GameStrategy(rule, play="alternating", offload=offload)
            host.game.start({name: tuple(params) for name, params in host.live.items()})
            for step in range(4):
                host.step()
                if step == 1:
                    with torch.no_grad():
                        host.live["y"][0].copy_(start["z"])
                    host.game.forget("y", {name: tuple(params) for name, params in host.live.items()})
            ends.append([value.cpu() for value in host.values().values()])
        assert not kept_bytes(host.game._memory)
    assert not differing(*ends)


# ---- what it saves --------------------------------------------------------------------------------------------------


def bytes_of(rule: AbstractGameRule, patch: Any) -> tuple[float, ...]:
    """Bytes as the table has them, over those of all parameters; the processor stands for the device."""
    watch, plain = Watch(patch), played(rule, Watch(), "cpu", offload=False)
    patch.setattr(_rule_memory, "_stays", lambda tensor: False)
    host, most = played(rule, watch, "cpu", offload=True), 0
    for step in range(2 * STEPS):
        if step == STEPS:  # under way
            watch.bytes.clear()
        plain.step()
        most = max(most, kept_bytes(plain.game.state).get("cpu", 0))
        host.step()
        assert watch.bytes_there() == 0
    numbers = (most, watch.at_losses, watch.bytes["brought"] / STEPS, watch.bytes["taken back"] / STEPS)
    return tuple(number / (2 * SIZE * 4) for number in numbers)


def test_the_table_in_the_docs_is_this_one(monkeypatch):
    rows: dict[tuple[float, ...], list[str]] = {}
    for rule in [rule for rule in MEMORY if label(rule) in FIRSTS]:
        with monkeypatch.context() as patch:
            rows.setdefault(bytes_of(rule, patch), []).append(f"`{type(rule).__name__}`")
    none = [f"`{type(rule).__name__}`" for rule in RULES if type(rule) not in {type(each) for each in MEMORY}]
    lines = [
        "| rule | kept on the device | with `offload` | while losses are evaluated | copied each way per game step |",
        "|---|---|---|---|---|",
        *(
            f"| {', '.join(names)} | {kept:.1f} | 0 | {there:.1f} | {brought:.1f} |"
            for (kept, there, brought, back), names in sorted(rows.items())
            if brought == back
        ),
        f"| {', '.join(dict.fromkeys(none))} | 0 | 0 | 0 | 0 |",
    ]
    assert len(lines) == len(rows) + 3
    table = "\n".join(lines)
    assert table in DOCS.read_text(encoding="utf-8"), f"docs/speed.md is to have\n\n{table}"


# ---- checkpoints ----------------------------------------------------------------------------------------------------


def test_checkpoints_with_and_without_offload_are_the_same_also_in_the_middle_of_a_game_step(
    tmp_path, pinned, monkeypatch
):
    data = DataLoader(tiny_points(24).repeat(4, 1), 24)  # every batch the same, wherever it resumes
    files = {offload: {where: tmp_path / f"{offload}{where}.ckpt" for where in "ab"} for offload in (True, False)}

    def fit(trainer_of: Any, offload: bool, **resumed: Any) -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        gan = tiny_gan(game=LEADStrategy(1.0, offload=offload), discriminator_steps=2)
        trainer = trainer_of(4, enable_checkpointing=True)

        def save(player: str) -> None:
            if trainer.global_step == 2 and player == "generator":
                trainer.save_checkpoint(files[offload]["a"])

        if not resumed:
            gan.on_before_player_step = save
            gan.on_game_step_end = lambda _: (
                trainer.save_checkpoint(files[offload]["b"]) if trainer.global_step == 2 else None
            )
        trainer.fit(gan, data, **resumed)
        return {name: tensor.cpu() for name, tensor in gan.state_dict().items()}

    def on_device(*arguments: Any, **resumed: Any) -> dict[str, torch.Tensor]:
        with fake_device() as device, monkeypatch.context() as patch:
            pinned(device, patch)
            return fit(device_trainer, *arguments, **resumed)

    straight = fit(tiny_trainer, False)
    assert not differing(on_device(True), straight)
    for where in "ab":
        offloaded, plain = (torch.load(files[each][where], weights_only=True) for each in (True, False))
        assert offloaded["lightning_lead"].get("turns_made", 0) == (2 if where == "a" else 0)
        assert not differing(offloaded["lightning_lead"]["game"], plain["lightning_lead"]["game"])
        assert not differing(fit(tiny_trainer, False, ckpt_path=files[True][where]), straight)
    assert not differing(on_device(True, ckpt_path=files[False]["a"]), straight)


# ---- memory that is lent --------------------------------------------------------------------------------------------


def test_who_reads_a_copy_before_it_has_ended_reads_no_numbers(pinned, monkeypatch):
    """The control of the test above, and of every rule's: neither the device nor the host reads too early."""
    with fake_device() as device:
        pinned(device, monkeypatch)
        values = torch.arange(3.0)
        memory = take_back({"x": (values.to(KIND),)})
        kept = memory["x"][0]
        assert kept.host.isnan().all()
        assert kept.host.to(KIND, non_blocking=True).cpu().isnan().all()
        assert torch.equal(lend(memory)["x"][0].cpu(), values)
        assert kept.host.isnan().all()  # the device's stream has waited, and not the host
        assert torch.equal(settled(memory)["x"][0], values)
        again = take_back({"x": (values.to(KIND),)})
        assert torch.equal(settled(copy.deepcopy(again))["x"][0], values)


def lent_on_the_device() -> Any:
    tensors = {name: (torch.full((2,), float(k)).to(KIND),) for k, name in enumerate("xyz")}
    memory = take_back({"anchor": tensors, "count": 3, "shared": tensors["x"][0], "list": [tensors["y"][0]]})
    return memory, lend(memory)


WAYS: dict[str, Callable[[Any], Any]] = {
    "[]": lambda lent: lent["anchor"]["x"],
    "get": lambda lent: lent.get("anchor").get("x"),
    "items": lambda lent: dict(lent.items())["anchor"]["x"],
    "values": lambda lent: next(iter(next(iter(lent.values())).values())),
    "dict": lambda lent: dict(dict(lent)["anchor"])["x"],
    "**": lambda lent: {**lent["anchor"]}["x"],
    "|": lambda lent: (lent | {"count": 4})["anchor"]["x"],
    "| behind": lambda lent: ({"count": 4} | lent)["anchor"]["x"],
    "|=": lambda lent: lent.__ior__({"count": 4})["anchor"]["x"],
    "update": lambda lent: updated({}, lent)["anchor"]["x"],
    "copy": lambda lent: copy.copy(lent.copy())["anchor"]["x"],
    "deepcopy": lambda lent: copy.deepcopy(lent)["anchor"]["x"],
    "pop": lambda lent: lent.pop("anchor").pop("x"),
    "popitem": lambda lent: [lent["anchor"].popitem() for _ in "zyx"][-1][1],
    "setdefault": lambda lent: lent.setdefault("anchor", {}).setdefault("x", ()),
    "a loop": lambda lent: next(lent["anchor"][name] for name in lent["anchor"]),
}


def updated(values: dict[str, Any], more: Any) -> dict[str, Any]:
    values.update(more)
    return values


@pytest.mark.parametrize("way", WAYS)
def test_whichever_way_a_rule_looks_memory_up_it_is_on_the_device(way):
    with fake_device():
        _, lent = lent_on_the_device()
        (found,) = WAYS[way](lent)
        assert found.device.type == KIND
        assert found.tolist() == [0.0, 0.0]
    assert lent.keys() <= {"anchor", "count", "shared", "list"}


def test_what_is_still_there_is_not_copied_again_and_what_was_written_into_is(monkeypatch):
    watch = Watch(monkeypatch)
    with fake_device():
        memory, lent = lent_on_the_device()
        assert (len(lent), lent["count"], "list" in lent) == (4, 3, True)
        watch.copies.clear()
        again = take_back({**lent, "more": lent["anchor"]["x"]} | {"anchor": lent["anchor"] | {}}, lent)
        assert watch.copies == {"brought": 2}  # x under three names, and y; z was not looked up
        assert again["more"][0] is again["shared"] is memory["shared"]
        lent = lend(memory)
        lent["anchor"]["x"][0].add_(1)  # which rules are not to do
        lent["list"].append(5)
        after = settled(take_back(lent, lent))
        assert after["anchor"]["x"][0].tolist() == after["shared"].tolist() == [1.0, 1.0]
        assert after["anchor"]["y"][0].tolist() == [1.0, 1.0]
        assert after["list"][1] == 5
        assert settled(memory)["shared"].tolist() == [0.0, 0.0]  # as it was, for a turn that is skipped


# ---- arguments ------------------------------------------------------------------------------------------------------


def test_offload_is_a_setting_of_every_game_by_name():
    for text in ("LEAD(offload=True)", "GradientDescent(offload=True)", "OptimisticAdam(offload=True)"):
        game = find_game(text)
        assert game.offload
        assert "offload=True" in repr(game)
        again = find_game(name_game(game))
        assert (again.offload, again.description) == (True, find_game(text.partition("(")[0]).description)
    assert "offload" not in name_game(LEADStrategy())
    assert not find_game("LEAD(offload=False)").offload


@pytest.mark.parametrize("wrong", ["yes", 1, None])
def test_another_value_than_true_or_false_is_refused(wrong):
    for make in (LEADStrategy, lambda **settings: GameStrategy(OptimisticGradient(), **settings)):
        with pytest.raises(ConfigurationError, match="because offload must be True or False"):
            make(offload=wrong)


def test_a_rule_that_remembers_nothing_has_nothing_to_bring(monkeypatch):
    watch = Watch(monkeypatch)
    with fake_device():
        played(GradientPlay(), watch, KIND, offload=True).step()
    assert not watch.copies
