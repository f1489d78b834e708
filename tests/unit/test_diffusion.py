"""Noise schedules, losses and samplers against the definitions they come from, and what a batch of diffusion holds."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F  # noqa: N812

from scalebench.data.draws import Draws
from scalebench.data.samples import TensorSamples
from scalebench.workloads import ddpm, flow
from scalebench.workloads.diffusion import NoisySamples, grid_sinusoids, guided, sinusoids, to_images, to_patches
from scalebench.workloads.dit_config import TIMESTEPS

CPU = torch.device("cpu")


def kept():
    """Shares of the signal, one factor at a time, in fp64."""
    betas = [1e-4 + (0.02 - 1e-4) * step / 999 for step in range(1000)]
    shares = [1.0]
    for beta in betas:
        shares.append(shares[-1] * (1 - beta))
    return betas, shares[1:], shares[:-1]


def step_back(clean, noisy, step):
    """Mean and variance of q(x_{t-1} | x_t, x_0), DDPM's equations 6 and 7."""
    betas, now, before = kept()
    to_clean = math.sqrt(before[step]) * betas[step] / (1 - now[step])
    to_noisy = math.sqrt(1 - betas[step]) * (1 - before[step]) / (1 - now[step])
    return to_clean * clean + to_noisy * noisy, (1 - before[step]) / (1 - now[step]) * betas[step]


def bound(predicted, between, clean, noise, step):
    """One term of the bound in bits per value, by torch's distributions in fp64."""
    betas, now, _ = kept()
    noisy = math.sqrt(now[step]) * clean + math.sqrt(1 - now[step]) * noise
    found = (noisy - math.sqrt(1 - now[step]) * predicted) / math.sqrt(now[step])
    mean, variance = step_back(clean, noisy, step)
    smallest = variance if step else step_back(clean, noisy, 1)[1]
    share = (between + 1) / 2
    deviation = torch.exp(0.5 * (share * math.log(betas[step]) + (1 - share) * math.log(smallest)))
    model = Normal(step_back(found, noisy, step)[0], deviation)
    if step:
        return kl_divergence(Normal(mean, math.sqrt(variance)), model).mean() / math.log(2)
    high = torch.where(clean > 0.999, torch.ones_like(clean), model.cdf(clean + 1 / 255))
    low = torch.where(clean < -0.999, torch.zeros_like(clean), model.cdf(clean - 1 / 255))
    return -(high - low).log().mean() / math.log(2)


@pytest.mark.parametrize("step", [0, 1, 2, 50, 500, 999])
def test_the_loss_is_squared_error_and_one_term_of_the_bound(step):
    torch.manual_seed(step)
    clean, noise = torch.randn(3, 2, 4, 4).clamp(-1, 1), torch.randn(3, 2, 4, 4)
    error = 1e-3 if step == 0 else 0.3  # far off, the likelihood of a bin is below the least that counts
    output = torch.cat([noise + error * torch.randn_like(noise), torch.rand_like(noise) * 2 - 1], dim=1)
    found = ddpm.losses(output, clean, noise, torch.full((3,), step))
    for sample in range(3):
        predicted, between = output[sample].double().chunk(2)
        squared = (predicted - noise[sample]).square().mean()
        exact = squared + bound(predicted, between, clean[sample].double(), noise[sample].double(), step)
        assert found[sample].item() == pytest.approx(exact.item(), rel=1e-3)


def test_without_variance_the_loss_is_the_squared_error():
    noise, predicted = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    found = ddpm.losses(predicted, torch.zeros_like(noise), noise, torch.tensor([3, 700]))
    torch.testing.assert_close(found.mean(), F.mse_loss(predicted, noise))


def test_no_gradient_of_the_bound_reaches_the_predicted_noise():
    output = torch.randn(2, 4, 4, 4, requires_grad=True)
    noise = torch.randn(2, 2, 4, 4)
    ddpm.losses(output, torch.zeros_like(noise), noise, torch.tensor([0, 300])).sum().backward()
    torch.testing.assert_close(output.grad[:, :2], 2 * (output[:, :2] - noise).detach() / 32)
    assert output.grad[:, 2:].abs().min() > 0


def test_the_schedule_keeps_variance_and_ends_in_noise():
    schedule = ddpm.schedule_at(torch.arange(TIMESTEPS))
    torch.testing.assert_close(schedule.signal**2 + schedule.noise**2, torch.ones(TIMESTEPS, 1, 1, 1))
    assert schedule.signal.flatten().diff().max() < 0
    _, now, _ = kept()
    assert schedule.signal[-1].item() == pytest.approx(math.sqrt(now[-1]))
    assert schedule.signal[-1] < 0.01


@pytest.mark.parametrize("steps", [1, 2, 50])
def test_whoever_knows_the_noise_samples_the_image(steps):
    clean, noise = torch.rand(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    _, now, _ = kept()
    start = math.sqrt(now[-1]) * clean + math.sqrt(1 - now[-1]) * noise
    torch.testing.assert_close(ddpm.sample(lambda images, step: noise, start, steps), clean, atol=2e-3, rtol=0)


def test_a_timestep_is_visited_once_and_in_order():
    seen = []
    ddpm.sample(lambda images, step: seen.append(step.item()) or images, torch.randn(1, 1, 2, 2), 5)
    assert seen == [999, 749, 500, 250, 0]


def test_flow_goes_straight_and_whoever_knows_the_image_arrives():
    clean, noise = torch.rand(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    times = torch.tensor([0.0, 1.0])
    assert torch.equal(flow.between(clean, noise, times), torch.stack([noise[0], clean[1]]))
    for steps in (1, 2, 20):
        torch.testing.assert_close(flow.sample(lambda images, time: clean, noise, steps), clean, atol=1e-5, rtol=0)


def test_it_steps_by_heun_and_last_by_euler():
    """Images that grow as fast as they are large: each method multiplies them by its polynomial in the length."""
    steps, length = 8, 1 / 8
    grown = flow.sample(lambda images, time: images * (1 + (1 - time).clamp(min=0.05)), torch.ones(1, 1, 1, 1), steps)
    assert grown.item() == pytest.approx((1 + length + length**2 / 2) ** (steps - 1) * (1 + length))


def test_the_loss_of_the_velocity_is_that_of_the_two_velocities():
    clean, noise, predicted = (torch.randn(3, 2, 4, 4) for _ in range(3))
    times = torch.tensor([0.0, 0.5, 0.99])
    noisy = flow.between(clean, noise, times)
    left = (1 - times).clamp(min=0.05)[:, None, None, None]
    exact = F.mse_loss((predicted - noisy) / left, (clean - noisy) / left, reduction="none").mean((1, 2, 3))
    torch.testing.assert_close(flow.losses(predicted, clean, times), exact)


def test_times_are_written_finely_enough():
    times = torch.rand(1000, dtype=torch.float64)
    units = flow.written(times)
    assert units.dtype == torch.int64
    assert (flow.time_of(units).double() - times).abs().max() < 1e-6


def test_guidance_goes_through_the_labelled_prediction():
    def predict(images, labels):
        return images + labels[:, None]

    images, labels = torch.zeros(2, 3), torch.tensor([1.0, 2.0])
    for scale in (0.0, 1.0, 3.0):
        found = guided(predict, images, labels, none=10, scale=scale)
        torch.testing.assert_close(found, (10 + scale * (labels - 10))[:, None].expand(2, 3))


def test_patches_are_what_a_convolution_sees_and_can_be_put_back():
    images, kernel = torch.randn(2, 3, 8, 8), torch.randn(5, 3, 2, 2)
    patches = to_patches(images, 2)
    assert patches.shape == (2, 16, 12)
    by_convolution = F.conv2d(images, kernel, stride=2).flatten(2).transpose(1, 2)
    torch.testing.assert_close(patches @ kernel.permute(2, 3, 1, 0).flatten(0, 2), by_convolution)
    assert torch.equal(to_images(patches, 2), images)


def test_positions_are_sines_and_cosines_of_row_and_column():
    side, width = 3, 8
    positions = grid_sinusoids(side, width, CPU)
    for row in range(side):
        for column in range(side):
            angles = [place / 10_000 ** (index / 2) for place in (column, row) for index in range(2)]
            wanted = [wave(a) for pair in (angles[:2], angles[2:]) for wave in (math.cos, math.sin) for a in pair]
            torch.testing.assert_close(positions[side * row + column], torch.tensor(wanted))
    assert sinusoids(torch.tensor([[5]]), 6).shape == (1, 1, 6)


def noisy(label_dropout=0.3):
    columns = {"latents": torch.arange(10.0).reshape(10, 1), "labels": torch.arange(10)}
    images = TensorSamples(
        name="ten", sha256=None, columns=columns, dtypes={"latents": torch.float32, "labels": torch.int64}
    )
    times = Draws(seed=1, purpose="times")
    return NoisySamples(
        source=images,
        label_dropout=label_dropout,
        times=lambda draws: times.integers(draws, 1000),
        seed=1,
    )


def test_a_batch_is_the_images_and_what_is_drawn_for_each():
    source = noisy()
    assert (source.name, source.sha256, len(source)) == ("ten", None, 10)
    batch = source.__getitems__([13, 3, 7])
    assert batch["latents"].flatten().tolist() == [3, 3, 7]
    assert batch["labels"].tolist() == [3, 3, 7]
    assert batch["noise_keys"].unique().numel() == 3
    assert {value.shape for name, value in batch.items() if name != "latents"} == {(3,)}
    alone = source.__getitems__([3])
    assert all(torch.equal(alone[name][0], batch[name][1]) for name in batch)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_labels_are_dropped_as_often_as_asked(share):
    dropped = noisy(share).__getitems__(range(2000))["unlabelled"]
    assert dropped.dtype == torch.bool
    assert dropped.double().mean().item() == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / 2000))
