"""Work on one thread each: the caller's modes, the order, and nothing left behind."""

from contextlib import suppress
from threading import Thread

import pytest
import torch

from padim_lit.model.threads import on_one_thread_each


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_work_is_done_as_the_caller_would(threads, mode):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            here = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
            found = on_one_thread_each(
                lambda part: (
                    part,
                    torch.get_num_threads(),
                    (torch.is_inference_mode_enabled(), torch.is_grad_enabled()),
                    torch.is_autocast_enabled("cpu"),
                ),
                range(5),
            )
            assert found == [(part, 1, here, False) for part in range(5)]
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_nothing_to_do_is_done(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert on_one_thread_each(lambda part: part, []) == []


def test_an_error_is_the_callers(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(ZeroDivisionError):
        on_one_thread_each(lambda part: 1 / part, [1, 0])


@pytest.mark.parametrize("parts", [[1, 2], [1, 0]])
def test_a_thread_that_is_started_later_has_all_threads(parts):
    before, found = torch.get_num_threads(), []
    torch.set_num_threads(3)
    try:
        with suppress(ZeroDivisionError):
            on_one_thread_each(lambda part: 1 / part, parts)
        later = Thread(target=lambda: found.append(torch.get_num_threads()))
        later.start()
        later.join()
        assert found == [3]
    finally:
        torch.set_num_threads(before)
