"""What is quick on a CPU: products are those of float64, work on a thread each is the caller's."""

from contextlib import suppress
from functools import partial
from threading import Thread

import pytest
import torch
from torch import nn

from padim_lit.model import cpu
from padim_lit.model.cpu import on_one_thread_each, pointwise, product


@pytest.fixture(params=[True, False], ids=["wide", "narrow"])
def wide(request, monkeypatch):
    """Registers that oneDNN alone would use, whatever this processor has; or none."""
    if request.param and not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch was built without oneDNN")
    monkeypatch.setattr(cpu, "_WIDE", request.param)


@pytest.mark.parametrize("rows", [0, 1, 5, 300])
@pytest.mark.parametrize("dims", [(1, 1), (1, 3), (7, 1), (64, 32), (100, 256)])
@pytest.mark.parametrize("threads", [1, 2])
def test_products_are_those_of_float64(wide, rows, dims, threads, request):
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(*shape, generator=generator)
        for shape in ((rows, dims[0]), dims[::-1], dims[1:])
    )
    expected = x.double() @ weight.double().T
    for found, wanted in (
        (product(x, weight), expected),
        (product(x, weight, bias), expected + bias),
        (product(x, weight, bias.repeat_interleave(2)[::2]), expected + bias),
        (product(x, weight, bias[:1].expand(len(bias))), expected + bias[:1]),
        (product(x.T.contiguous().T, weight), expected),
    ):
        assert found.shape == wanted.shape
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_are_left_to_pytorch(wide, dtype):
    x, weight = torch.rand(3, 4, dtype=dtype), torch.rand(2, 4, dtype=dtype)
    assert product(x, weight).dtype == dtype
    torch.testing.assert_close(product(x, weight), x @ weight.T)


def test_what_pytorch_refuses_or_takes_besides_stays(wide):
    image, kernel = torch.rand(4, 2, 2), torch.rand(3, 4, 1, 1)
    assert pointwise(image, kernel).shape == (3, 2, 2)
    with pytest.raises(RuntimeError):
        pointwise(image[None], kernel.bfloat16())


def test_autocast_rounds_as_it_does_elsewhere(wide):
    x, weight = torch.rand(1, 4, 2, 2), torch.rand(3, 4, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert pointwise(x, weight).dtype == torch.bfloat16
    assert pointwise(x, weight).dtype == torch.float32


@pytest.mark.filterwarnings("ignore:.*is deprecated")
def test_a_graph_holds_a_plain_convolution(wide):
    class Layer(nn.Module):
        def forward(self, x, weight):
            return pointwise(x, weight)

    given = torch.rand(1, 4, 2, 2), torch.rand(3, 4, 1, 1)
    exported = str(torch.export.export(Layer(), given))
    traced = str(torch.jit.trace(Layer(), given, check_trace=False).graph)
    for graph in (exported, traced):
        assert "conv" in graph and "mkldnn" not in graph


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
