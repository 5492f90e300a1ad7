"""One full training step of each method against a straight-line re-derivation from its formula, in float64."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from kdiga.gradients import Exact
from kdiga.methods import method_by_name
from kdiga.methods.kdiga import KDIGA
from kdiga.methods.pgd_at import PGDAT
from kdiga.methods.tangent import Tangent
from kdiga.modes import seeded
from kdiga.step import Step
from kdiga.teachers import OnlineTeacher
from kdiga.types import Batch, ThreatModel
from tests.conftest import five_layers


def per_example_ce(logits, y):
    return torch.logsumexp(logits, 1) - logits[torch.arange(len(y)), y]


def per_example_kl(p_logits, q_logits, tau):
    p = torch.softmax(p_logits / tau, 1)
    return tau**2 * (p * (torch.log_softmax(p_logits / tau, 1) - torch.log_softmax(q_logits / tau, 1))).sum(1)


def gradient(model, x, y, **graph):
    x = x.clone().requires_grad_()
    logits = model(x)
    return torch.autograd.grad(per_example_ce(logits, y).sum(), x, **graph)[0], logits


def ce(S, T, x, y):
    return per_example_ce(S(x), y).mean()


def kd(S, T, x, y):
    logits = S(x)
    return 0.5 * per_example_ce(logits, y).mean() + 0.5 * per_example_kl(T(x).detach(), logits, 1.0).mean()


def kdiga(S, T, x, y):
    g_t, t_logits = gradient(T, x, y)
    g_s, s_logits = gradient(S, x, y, create_graph=True)
    gap = ((g_s - g_t) ** 2).flatten(1).sum(1).sqrt()
    kl = per_example_kl(t_logits.detach(), s_logits, 3.0)
    return 0.3 * per_example_ce(s_logits, y).mean() + 0.7 * kl.mean() + 2.0 * gap.mean()


def tangent(S, T, x, y):
    g_t, t_logits = gradient(T, x, y)
    xx = x.clone().requires_grad_()
    s_logits = S(xx)
    clean = per_example_ce(s_logits, y)
    g_s = torch.autograd.grad(clean.sum(), xx, retain_graph=True)[0]
    delta = (x + 0.1 * torch.sign(g_s - g_t)).clamp(0, 1) - x
    gap = per_example_ce(S(x + delta), y) - clean - (g_t * delta).flatten(1).sum(1)
    kl = per_example_kl(t_logits.detach(), s_logits, 1.0)
    return 0.5 * clean.mean() + 0.5 * kl.mean() + 1.5 * gap.mean()


def pgd_at(S, T, x, y):
    S.eval()
    adv = (x + torch.empty_like(x).uniform_(-0.1, 0.1)).clamp(0, 1)
    for _ in range(4):
        g, _ = gradient(S, adv, y)
        adv = adv.detach() + 0.025 * g.sign()
        adv = torch.minimum(torch.maximum(adv, x - 0.1), x + 0.1).clamp(0, 1)
    S.train()
    return per_example_ce(S(adv.detach()), y).mean()


CASES = {
    "ce": (method_by_name("ce"), ce),
    "kd": (method_by_name("kd"), kd),
    "kdiga": (KDIGA(label_weight=0.3, teacher_weight=0.7, temperature=3.0, gradient_weight=2.0), kdiga),
    "tangent": (Tangent(gap_weight=1.5), tangent),
    "pgd-at": (PGDAT(steps=4), pgd_at),
}


@pytest.mark.parametrize("name", CASES)
def test_total_and_updated_weights_equal_the_formula(name):
    method, formula = CASES[name]
    with seeded(8):
        images, labels = torch.rand(9, 1, 8, 8, dtype=torch.float64), torch.randint(0, 10, (9,))
    teacher = five_layers(2).double().eval()
    ours, theirs = five_layers(1).double().train(), five_layers(1).double().train()
    info = method.info
    step = Step(
        Batch(images, labels, torch.arange(9)), ours, OnlineTeacher(teacher, info.teacher_gradient),
        ThreatModel("linf", 0.1), Exact(), info.student_gradient,
    )  # fmt: skip
    with seeded(6):
        total = method(step).total()
    with seeded(6):
        expected = formula(theirs, copy.deepcopy(teacher), images, labels)
    assert total.item() == pytest.approx(expected.item(), abs=1e-10)
    for model, loss in ((ours, total), (theirs, expected)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loss.backward()
        optimizer.step()
    for key, value in ours.state_dict().items():
        assert torch.allclose(value, theirs.state_dict()[key], atol=1e-10), key


def test_references_are_not_the_library(batch):
    """The re-derivations share no code with it: they agree with PyTorch's own losses."""
    logits, labels = torch.randn(5, 7), torch.tensor([0, 3, 6, 2, 1])
    assert torch.allclose(per_example_ce(logits, labels), F.cross_entropy(logits, labels, reduction="none"), atol=1e-6)
