"""The autoencoder, the posterior of its latent, and the images it is trained on."""

import gzip
import http.server
import math
import re
import threading
import warnings

import pytest
import torch

import gfnlite as gl
from gfnlite import mnist as digits
from gfnlite.mnist import mnist
from gfnlite.vae import VAE, VAEPosterior, log_likelihood, pretrained, vae_energy

PIXELS, LATENT = 30, 3


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def small():
    """A model of few pixels with weights large enough that its pixels are not all grey."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VAE(PIXELS, 16, LATENT)
        for parameter in model.decoder.parameters():
            parameter.data *= 4
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def images():
    """Four kinds, and noise."""
    generator = torch.Generator().manual_seed(1)
    kinds = torch.rand(4, PIXELS, generator=generator).round().repeat(10, 1)
    return 0.8 * kinds + 0.2 * torch.rand(40, PIXELS, generator=generator)


def by_hand(z, x, model):
    """log p(z) + log p(x | z), from PyTorch's own distributions."""
    p = model.decoder(z).double().sigmoid().clamp(1e-5, 1 - 1e-5)
    log_p = (x * p.log() + (1 - x) * (-p).log1p()).sum(-1)
    return (torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1) + log_p).float()


@pytest.mark.equation("eq-vae-energy")
def test_log_reward_is_prior_times_likelihood(small, images, generator):
    z = torch.randn(40, LATENT, generator=generator)
    target = VAEPosterior(small, images)
    torch.testing.assert_close(target.log_reward(z, images), by_hand(z, images, small))
    black = torch.ones(1, PIXELS)  # a pixel that the model is sure of, wrongly: the clamp counts
    far = 50 * torch.ones(1, LATENT)
    assert (small.decoder(far).abs() > 12).any()
    torch.testing.assert_close(target.log_reward(far, black), by_hand(far, black, small))


def test_images_are_encoded_once_for_all_steps_and_anew_if_they_change(small, images, monkeypatch):
    target, calls, encode = VAEPosterior(small, images, whitened=True), [], small.encode
    monkeypatch.setattr(small, "encode", lambda x: calls.append(len(x)) or encode(x))
    x, c = torch.zeros(3, target.dim), images[:3].clone()
    first = target.log_reward(x, c)
    assert torch.equal(target.log_reward(x + 0, c), first) and len(calls) == 1
    c[0] = images[5]  # written to in place
    second = target.log_reward(x, c)
    assert len(calls) == 2 and second[0] != first[0] and torch.equal(second[1:], first[1:])
    fresh = VAEPosterior(small, images, whitened=True).log_reward(x, c.clone())
    torch.testing.assert_close(second, fresh)
    with torch.inference_mode():
        torch.testing.assert_close(target.log_reward(x, c.clone()), fresh)
    assert target.score(x, c).isfinite().all()


@pytest.mark.parametrize("whitened", [False, True])
def test_the_score_is_the_gradient(small, images, generator, whitened):
    target = VAEPosterior(small, images, whitened)
    x = 3 * torch.randn(40, LATENT, generator=generator)
    wanted = gl.Target.log_reward_and_score(target, x, images)
    for got, want in zip(target.log_reward_and_score(x, images), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    gl.targets.check_target(target, x, images)


def test_whitening_changes_the_variable_and_nothing_else(small, images, generator):
    plain, white = VAEPosterior(small, images), VAEPosterior(small, images, whitened=True)
    e = torch.randn(40, LATENT, generator=generator)
    mean, std = small.encode(images)
    z = white.latent(e, images)
    torch.testing.assert_close(z, mean + std * e)
    volume = std.log().sum(-1)
    torch.testing.assert_close(white.log_reward(e, images), plain.log_reward(z, images) + volume)
    assert torch.equal(plain.latent(z, images), z) and plain.state(z, images) is z
    torch.testing.assert_close(white.state(z, images), e)


def test_an_untrained_sampler_in_the_encoders_coordinates_is_as_good_as_the_encoder(small, images):
    """Its ELBO is the encoder's at every image; the twin starts from the prior."""
    n = 4000
    generator = torch.Generator().manual_seed(0)
    for whitened in (True, False):
        sampler = gl.GFNDiffusion(
            VAEPosterior(small, images, whitened), device="cpu", sigma2=1.0, steps=5,
            exploration=0.0, objective="vargrad", repeats=2,
        )  # fmt: skip
        log_w = sampler.log_weight(n, condition=images[0])
        encoder = small.elbo(images[:1].expand(n, -1), generator)
        error = 5 * ((log_w.var() + encoder.var()) / n).sqrt()
        assert (abs(log_w.mean() - encoder.mean()) < error) == whitened


@pytest.mark.equation("eq-vae-energy")
def test_vae_energy_takes_samples_of_several_images(small, images, generator):
    z = torch.randn(7, 40, LATENT, generator=generator)
    energy = vae_energy(z, images, small.decode)
    assert energy.shape == (7, 40)
    # float32 knows 1 - p only to 0.6% where p is 1 - 1e-5
    torch.testing.assert_close(energy, -by_hand(z, images, small), rtol=1e-3, atol=1e-2)
    normal = torch.distributions.MultivariateNormal(torch.zeros(LATENT), torch.eye(LATENT))
    torch.testing.assert_close(vae_energy(z, images, small.decode, normal), energy)
    wide = torch.distributions.Normal(0.0, 2.0)
    assert not torch.allclose(vae_energy(z, images, small.decode, wide), energy)


def test_the_elbo_is_below_log_p_and_its_kl_is_exact(small, images, generator):
    """log p(x) by importance sampling from the encoder; KL against a Monte Carlo estimate."""
    n = 20_000
    x = images[:1].expand(n, -1)
    mean, std = small.encode(x)
    q = torch.distributions.Normal(mean, std)
    z = q.sample()
    log_w = by_hand(z, x, small) - q.log_prob(z).sum(-1)
    elbo = small.elbo(x, generator)
    assert abs(elbo.mean() - log_w.mean()) < 5 * ((elbo.var() + log_w.var()) / n).sqrt()
    assert elbo.mean() < gl.log_z_is(log_w)


def test_training_raises_the_elbo_and_goes_on_where_it_was_killed(images, tmp_path):
    def trained(epochs, folder=None):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = VAE(PIXELS, 16, LATENT, binary=True)
        options = {"batch_size": 16, "lr": 1e-2, "folder": folder, "progress": False}
        return model.fit(images, epochs, **options)

    whole = trained(12)
    before = trained(1).elbo(images.round()).mean()
    assert whole.elbo(images.round()).mean() > before + 1
    trained(5, tmp_path)
    resumed = trained(12, tmp_path)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="not {'pixels': 30, 'hidden': 8"):
        VAE(PIXELS, 8, LATENT).fit(images, 2, folder=tmp_path, progress=False)


def test_binary_pixels_are_drawn_with_their_grey_values(generator):
    x = torch.tensor([[0.0, 0.3, 1.0]]).expand(20_000, -1)
    drawn = VAE(3, 4, 2, binary=True).as_seen(x, generator)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(drawn.mean(0), x[0], rtol=0, atol=5 * 0.46 / 20_000**0.5)
    assert VAE(3, 4, 2).as_seen(x) is x


def test_weights_are_saved_and_refused(small, tmp_path):
    path = tmp_path / "vae.safetensors"
    small.save(path)
    again = VAE.load(path)
    z = torch.ones(1, LATENT)
    assert torch.equal(again.decode(z), small.decode(z)) and again.sizes == small.sizes
    small.save(path, half=True)
    torch.testing.assert_close(VAE.load(path).decode(z), small.decode(z), rtol=0, atol=5e-3)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="no whole file of safetensors"):
        VAE.load(path)
    from safetensors.torch import save_file

    save_file({"weight": torch.ones(3)}, path)
    with pytest.raises(ValueError, match="no weights of a VAE with sizes None"):
        VAE.load(path)
    other = VAE(PIXELS, 16, LATENT)
    other.sizes = other.sizes | {"hidden": 9}  # of another architecture
    other.save(path)
    with pytest.raises(ValueError, match="size mismatch"):
        VAE.load(path)
    with pytest.raises(FileNotFoundError, match="no weights at"):
        VAE.load(tmp_path / "none")


@pytest.mark.parametrize("binary", [False, True])
def test_the_shipped_autoencoder_knows_digits(binary, generator):
    """On images that its training has seen, where MNIST cannot be had: a floor well below."""
    model = pretrained(binary)
    images = model.as_seen(mnist("test", "small").images, generator)
    assert -112 < model.elbo(images, generator).mean() < -85
    noise = torch.rand(100, 784, generator=generator)
    assert model.elbo(model.as_seen(noise, generator), generator).mean() < -400


@pytest.mark.parametrize("make, message", [
    (lambda m, x: VAEPosterior(m, x[:, :5]), r"must have shape \(N, 30\), got \(40, 5\)"),
    (lambda m, x: VAEPosterior(m, x[:0]), r"must have shape \(N, 30\), got \(0, 30\)"),
    (lambda m, x: VAEPosterior(m, 255 * x), r"values in \[0, 1\], got from .* to 25"),
    (lambda m, x: VAEPosterior(m, x).log_reward(x[:, :3], x + 0.5), r"values in \[0, 1\], got"),
    (lambda m, x: VAEPosterior(m, x).log_reward(x[:, :3], x * math.nan), r"got from nan to nan"),
    (lambda m, x: VAEPosterior(m, x).log_reward(x[:, :3], x[:9]), r"\(40, 30\), got \(9, 30\)"),
    (lambda m, x: VAEPosterior(m, x).log_reward(x[:, :3]), r"\(40, 30\), got None"),
    (lambda m, x: VAEPosterior(m, x).log_reward(x[:, :4], x), r"\(B, d\) = \(B, 3\), got"),
    (lambda m, x: m.fit(-x), "values in"), (lambda m, x: m.fit(x, epochs=0), "epochs=0 must"),
    (lambda m, x: m.fit(x, lr=-1.0), "lr=-1.0 must be positive"),
])  # fmt: skip
def test_bad_input_is_one_clear_error(make, message, small, images):
    with pytest.raises(ValueError, match=message):
        make(small, images)


def test_more_conditions_than_samples_and_the_reverse_are_one_clear_error(small, images):
    sampler = gl.GFNDiffusion(VAEPosterior(small, images), device="cpu", steps=3)
    assert sampler.sample(condition=images[0], batch_size=5).shape == (5, LATENT)
    assert sampler.sample(condition=images[:5], batch_size=5).shape == (5, LATENT)
    for few, many in ((5, 7), (7, 5)):
        with pytest.raises(ValueError, match=rf"\(B, c\) = \({few}, 30\), got \({many}, 30\)"):
            sampler.sample(condition=images[:many], batch_size=few)


# the images


def test_the_small_set_holds_a_hundred_out():
    train, test = mnist("train", "small"), mnist("evaluation", "small")
    assert (len(train), len(test)) == (4900, 100)
    assert test.labels.bincount().tolist() == [10] * 10
    assert 0 <= train.images.min() and train.images.max() == 1
    held = {tuple(image.tolist()) for image in test.images}
    assert not any(tuple(image.tolist()) in held for image in train.images)
    names = {train.name, test.name, "mnist-train", "mnist-evaluation"}
    assert len(names) == 4  # what comes from different sets is never called the same


SHIPPED = {name: getattr(digits, name) for name in ("SCHEME", "MIRRORS", "FILES")}


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Four files that stand for MNIST's, on a mirror at home; what it serves can be spoiled."""
    import hashlib

    held = tmp_path / "served"
    held.mkdir()
    generator = torch.Generator().manual_seed(0)
    sums = {}
    for name in digits.FILES:
        n, header, each = (120, 16, 784) if "images" in name else (120, 8, 1)
        body = torch.randint(0, 10, (header + n * each,), generator=generator, dtype=torch.uint8)
        raw = body.numpy().tobytes()
        sums[name] = hashlib.sha256(raw).hexdigest()
        (held / f"{name}.gz").write_bytes(gzip.compress(raw))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        requests = 0

        def __init__(self, *args):
            super().__init__(*args, directory=held)

        def do_GET(self):
            Quiet.requests += 1
            super().do_GET()

        def log_message(self, *args):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    monkeypatch.setattr(digits, "FILES", sums)
    monkeypatch.setattr(digits, "MIRRORS", (f"http://127.0.0.1:{running.server_port}/",))
    monkeypatch.setattr(digits, "SCHEME", "http://127.0.0.1:")
    monkeypatch.setattr(digits.shutil, "which", lambda name: None)  # no npm
    monkeypatch.setenv("GFNLITE_DATA", str(tmp_path / "cache"))
    yield held, Quiet
    running.shutdown()


def test_images_are_fetched_once_and_fetched_again_when_damaged(server, tmp_path):
    served, handler = server
    first = mnist("evaluation", "full")
    assert first.name == "mnist-evaluation" and first.images.shape == (100, 784)
    assert len(mnist("train", "full")) == 120 and handler.requests == 4
    cache = tmp_path / "cache" / "mnist"
    assert sorted(path.name for path in cache.iterdir()) == sorted(digits.FILES)
    for damage in (lambda data: data[:-7], lambda data: data[:50] + b"?" + data[51:]):
        path = cache / "t10k-images-idx3-ubyte"
        path.write_bytes(damage(path.read_bytes()))
        with pytest.warns(UserWarning, match="damaged or incomplete: it is fetched again"):
            again = mnist("evaluation", "full")
        assert torch.equal(again.images, first.images)
    assert handler.requests == 6


def test_a_wrong_file_from_a_mirror_is_refused(server, tmp_path):
    served, _ = server
    path = served / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(b"not the labels"))
    with pytest.raises(FileNotFoundError, match="wrong checksum of t10k-labels"):
        mnist("test", "full")
    assert not (tmp_path / "cache" / "mnist" / "t10k-labels-idx1-ubyte").exists()
    path.write_bytes(path.read_bytes()[:20])  # cut off
    with pytest.raises(FileNotFoundError, match="could not be fetched .*put t10k-labels"):
        mnist("test", "full")


def test_only_https_is_asked_and_of_anything_else_nothing_stays(server, tmp_path, monkeypatch):
    _, handler = server
    monkeypatch.setattr(digits, "SCHEME", SHIPPED["SCHEME"])
    with pytest.raises(FileNotFoundError, match="could not be fetched .127.0.0.1:.*: ValueError"):
        mnist("test", "full")
    assert handler.requests == 0 and not (tmp_path / "cache").exists()
    assert SHIPPED["SCHEME"] == "https://" and len(SHIPPED["MIRRORS"]) > 1
    assert all(mirror.startswith("https://") for mirror in SHIPPED["MIRRORS"])
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in SHIPPED["FILES"].values())


def test_without_network_the_small_set_says_so(server, monkeypatch):
    monkeypatch.setattr(digits, "MIRRORS", ("http://127.0.0.1:9/",))
    with pytest.warns(UserWarning, match="using the small set mnist5k-train, not all of MNIST"):
        assert mnist("train").name == "mnist5k-train"
    with pytest.raises(FileNotFoundError, match="GFNLITE_DATA"):
        mnist("train", "full")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mnist("train", "small").name == "mnist5k-train"


@pytest.mark.parametrize("arguments, message", [
    (("valid",), "split='valid' is unknown; allowed: train, test, evaluation"),
    (("train", "half"), "source='half' is unknown; allowed: full, small, None"),
])  # fmt: skip
def test_unknown_sets_are_one_clear_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        mnist(*arguments)


def test_the_likelihood_needs_no_probabilities(generator):
    logits, x = torch.randn(5, 9, generator=generator), torch.rand(5, 9, generator=generator)
    wanted = -torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none")
    torch.testing.assert_close(log_likelihood(logits, x), wanted.sum(-1))
