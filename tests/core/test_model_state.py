"""Contexts that change a model for a while, from one thread or several."""

from __future__ import annotations

import threading

import torch
from torch import nn

import kdiga
from kdiga.model_state import evaluating


def test_modes_return_when_the_last_thread_has_left():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2).eval()).train()
    model[1].eval()
    first, second = evaluating(model), evaluating(model)
    with first:
        second.__enter__()
    assert not any(module.training for module in model.modules())
    second.__exit__(None, None, None)
    assert [module.training for module in model.modules()] == [True, True, False]


def test_align_from_two_threads_leaves_a_teacher_in_train_mode_as_it_was():
    torch.manual_seed(0)
    images, labels = torch.rand(16, 1, 4, 4), torch.arange(16) % 3
    convolution = nn.Conv2d(1, 4, 3, padding=1)
    teacher = nn.Sequential(convolution, nn.BatchNorm2d(4), nn.SiLU(), nn.Flatten(), nn.Linear(64, 3)).train()
    students = [nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.SiLU(), nn.Linear(8, 3)) for _ in range(2)]
    wanted = [kdiga.align(student, teacher, images, labels).item() for student in students]
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    wrong = [0, 0]

    def work(place):
        for _ in range(60):
            found = kdiga.align(students[place], teacher, images, labels).item()
            wrong[place] += abs(found - wanted[place]) > 1e-6

    threads = [threading.Thread(target=work, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [0, 0]
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(module.training for module in teacher.modules())
