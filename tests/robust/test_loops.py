"""Plain play is the loop that the papers write down, statistics of batch norms included."""

from __future__ import annotations

import copy

import pytest
import robust_kit as kit
import torch
from robust_loops import LOOPS, loop, project, sgd
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_lead.calculus import mix_seed, private_rng
from lightning_lead.robust import FreeAttack, PGDAttack, UniversalPerturbation


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", LOOPS)
def test_training_against_an_attack_of_each_batch_is_the_loop(name, mode):
    make, loss, attack_loss, network_loss = LOOPS[name]
    attack, net = make(), kit.network(smooth=False)
    start = copy.deepcopy(net)
    made = kit.module(attack, net=net, loss=loss, attack_mode=mode)
    kit.fit(made)
    steps = getattr(attack, "steps", 1)
    expected = loop(
        copy.deepcopy(start), attack, loss, attack_loss, network_loss, made._noise_seed, mode=mode, steps=steps
    )
    assert kit.furthest(made.network, expected) < 1e-12
    assert kit.furthest(made.network, start) > 1e-2
    other = "train" if mode == "eval" else "eval"  # the control: the mode is seen
    wrong = loop(
        copy.deepcopy(start), attack, loss, attack_loss, network_loss, made._noise_seed, mode=other, steps=steps
    )
    assert kit.furthest(wrong, expected) > 1e-6


@pytest.mark.parametrize("accumulate", [2, 4])
@pytest.mark.parametrize("name", ["pgd", "pgd l2"])
def test_micro_batches_have_their_own_rows_of_the_perturbation(name, accumulate):
    whole, parts = (kit.module(name, net=kit.network(batch_norm=False), accumulate=k) for k in (1, accumulate))
    kit.fit(whole)
    kit.fit(parts)
    assert kit.furthest(whole.network, parts.network) < 1e-12


def free_loop(net, attack, *, mode):
    """Algorithm 1 of the paper, but for δ that begins anew; one forward gives both gradients in train mode."""
    optimizer = sgd(net.parameters())
    for x, y in kit.loader():
        delta = torch.zeros_like(x)
        for _ in range(attack.replays):
            delta.requires_grad_()
            at_rest = copy.deepcopy(net).train(mode == "train")
            (slope,) = torch.autograd.grad(cross_entropy(at_rest(x + delta), y), delta)
            optimizer.zero_grad()
            cross_entropy(net(x + delta.detach()), y).backward()
            optimizer.step()
            delta = project(delta.detach() + attack.step_size * slope.sign(), x, attack.epsilon)
    return net


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_free_training_is_its_loop(mode):
    attack, net = FreeAttack(0.2, replays=3), kit.network(smooth=False)
    start = copy.deepcopy(net)
    made = kit.module(attack, net=net, attack_mode=mode)
    trainer = kit.fit(made)
    assert kit.furthest(made.network, free_loop(copy.deepcopy(start), attack, mode=mode)) < 1e-12
    assert made._turns_played == {"attack": 15, "network": 15}
    assert trainer.global_step == 5  # batches, however many turns


def test_free_training_takes_one_forward_for_both_where_one_serves():
    counts = []
    for mode in ("eval", "train"):
        net, forwards = kit.network(), []
        net.register_forward_hook(lambda *_, forwards=forwards: forwards.append(1))
        kit.fit(kit.module("free", net=net, attack_mode=mode), steps=1)
        counts.append(len(forwards))
    assert counts == [6, 3]


def test_a_universal_perturbation_and_its_network_move_in_turns():
    attack, net = UniversalPerturbation((1, 4, 4), 0.2, step_size=0.03), kit.network(smooth=False)
    loop_net = copy.deepcopy(net)
    made = kit.module(attack, net=net)
    kit.fit(made)
    optimizer, delta = sgd(loop_net.parameters()), torch.zeros(1, 4, 4, dtype=torch.float64)
    for x, y in kit.loader():
        delta.requires_grad_()
        (slope,) = torch.autograd.grad(cross_entropy(copy.deepcopy(loop_net).eval()((x + delta).clamp(0, 1)), y), delta)
        delta = (delta.detach() + 0.03 * slope.sign()).clamp(-0.2, 0.2)
        optimizer.zero_grad()
        cross_entropy(loop_net((x + delta).clamp(0, 1)), y).backward()
        optimizer.step()
    assert kit.furthest(made.network, loop_net) < 1e-12
    assert (made.attack.delta - delta).abs().max() < 1e-12
    assert delta.abs().max() > 0.05


def test_a_perturbation_network_and_a_patch_are_their_loops():
    for name in ("network", "patch"):
        made = kit.module(name, net=kit.network(smooth=False))
        twin = copy.deepcopy(made)
        kit.fit(made)
        attacker = torch.optim.Adam(twin.attack.parameters(), 1e-3) if name == "network" else None
        optimizer = sgd(twin.network.parameters())
        for step, (x, y) in enumerate(kit.loader()):
            seed = mix_seed(made._noise_seed, 0, step)

            def attacked(turn, x=x, seed=seed, twin=twin):  # the places are those of the turn
                with private_rng(mix_seed(mix_seed(seed, turn), 0)):
                    return twin.attack(x, None, kit.RANGE)

            before = copy.deepcopy(twin.network.state_dict())
            twin.network.eval()
            loss = -cross_entropy(twin.network(attacked(0)), y)
            grads = torch.autograd.grad(loss, list(twin.attack.parameters()))
            twin.network.train().load_state_dict(before)
            if attacker is None:
                pixels = twin.attack.pixels
                pixels.data = (pixels - 0.05 * grads[0].sign()).clamp(0, 1).detach()
            else:
                for p, g in zip(twin.attack.parameters(), grads, strict=True):
                    p.grad = g
                attacker.step()
            kept = copy.deepcopy(dict(twin.attack.named_buffers()))
            images = attacked(1).detach()
            for buffer, old in zip(twin.attack.buffers(), kept.values(), strict=True):
                buffer.copy_(old)  # the generator's statistics move in its own turns alone
            optimizer.zero_grad()
            cross_entropy(twin.network(images), y).backward()
            optimizer.step()
        assert kit.furthest(made, twin) < 1e-12, name


def test_batch_norm_statistics_move_once_per_turn_of_the_network():
    net = kit.network()
    made = kit.module(PGDAttack(0.2, steps=4), net=net)
    kit.fit(made, steps=3)
    assert int(net[1].num_batches_tracked) == 3
    moved = kit.network()
    kit.fit(kit.module("pgd", net=moved, loss="trades"), steps=3)
    assert int(moved[1].num_batches_tracked) == 6  # two forwards in its own loss, as in the authors' code
    assert all(layer.training for layer in moved.modules())


def test_layers_that_are_in_eval_mode_stay_so():
    net = kit.network()
    net[1].eval()
    before = net[1].running_mean.clone()
    made = kit.module("pgd", net=net)
    kit.loader()
    images, labels = next(iter(kit.loader()))
    made.attack.renew(images, kit.RANGE, None)
    made.player_loss("attack", (images, labels))
    assert [layer.training for layer in net] == [True, False, True, True, True]
    assert torch.equal(net[1].running_mean, before)


def test_dropout_is_off_in_eval_mode_and_a_loss_is_evaluated_once():
    seen = []

    class Watch(nn.Module):
        def forward(self, x):
            seen.append(self.training)
            return x

    net = nn.Sequential(Watch(), kit.network())
    kit.fit(kit.module("pgd", net=net), steps=2)
    assert seen == [False, False, False, True] * 2
