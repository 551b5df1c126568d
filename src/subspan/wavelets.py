"""Morlet wavelets, and their fast application to batches of maps (layer 1): what the scattering transform is made of.

Everything but the product with a wavelet in Fourier space is linear and separable, and images are short: the Fourier
transforms are matrix products. Maps have their batch on the last axis: (rows, columns, batch). Spectra hold real and
imaginary parts apart, (rows, 2, columns, batch), and start at frequency -n / 2: a band around zero is a slice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

SIGMA = 0.8  # spatial width of phi_0 and psi_0 along the wave, in pixels; doubles with every scale
XI = 3 * math.pi / 4  # centre frequency of psi_0
PI = 3.1415  # in the norm of the Gaussians: the customary filters carry this rounding, and so must equal ones
CUTOFF = 1e-6  # relative size below which a filter counts as zero
SPLIT_SIDE = 20  # sides from here on are transformed as two interleaved halves, which halves the multiplications


def padding(side: int, padded: int) -> np.ndarray:
    """Reflection (edges not repeated) as a matrix (padded, side); an odd excess goes to the end."""
    period = 2 * side - 2
    index = np.abs(np.arange(padded) - (padded - side) // 2) % period
    return np.eye(side)[np.minimum(index, period - index)]


def fourier(n: int, frequencies: Iterable[int]) -> np.ndarray:
    """Rows of the n-point discrete Fourier transform: (frequencies, n), complex."""
    return np.exp(-2j * np.pi * np.outer(list(frequencies), np.arange(n)) / n)


# A complex vector of length m is held as 2 m reals, (m, 2) on the axis transformed first, (2, m) on the second.


def real_in(matrix: np.ndarray) -> np.ndarray:
    return np.stack([matrix.real, matrix.imag], 1).reshape(-1, matrix.shape[1])


def complex_a(matrix: np.ndarray) -> np.ndarray:
    return np.kron(matrix.real, np.eye(2)) + np.kron(matrix.imag, [[0, -1], [1, 0]])


def complex_b(matrix: np.ndarray) -> np.ndarray:
    return np.block([[matrix.real, -matrix.imag], [matrix.imag, matrix.real]])


def morlet(sides: Sequence[int], j: int, t: int, L: int) -> np.ndarray:
    """Spectrum (real) of psi_{j,t}: a Gabor wave less the Gaussian that makes its mean zero, made periodic."""
    sigma, xi, slant, theta = SIGMA * 2**j, XI / 2**j, 4 / L, (L - L // 2 - 1 - t) * math.pi / L
    cosine, sine = math.cos(theta), math.sin(theta)
    reach = [math.ceil(8 * sigma / slant / n) for n in sides]  # the tails beyond are below 1e-14
    u, v = (np.arange(-r * n, (r + 1) * n) for r, n in zip(reach, sides, strict=True))
    along, across = cosine * u[:, None] + sine * v, slant * (cosine * v - sine * u[:, None])
    envelope = np.exp((along**2 + across**2) / (-2 * sigma**2)) * slant / (2 * PI * sigma**2)
    wave = envelope * np.exp(1j * xi * cosine * u)[:, None] * np.exp(1j * xi * sine * v)
    copies = 2 * reach[0] + 1, sides[0], 2 * reach[1] + 1, sides[1]
    wave, envelope = (values.reshape(copies).sum((0, 2)) for values in (wave, envelope))
    wave -= envelope * (wave.sum() / envelope.sum())
    return np.fft.fftshift(np.fft.fft2(wave).real)


def lowpass(side: int, J: int, j: int, at: np.ndarray) -> np.ndarray:
    """phi_J on one axis: from a map of resolution 2^-j to the pixels ``at`` of the padded image: (len(at), n).

    The two-dimensional Gaussian is the product of two of these.
    """
    n, sigma = side >> j, SIGMA * 2 ** (J - 1)
    reach = math.ceil(8 * sigma / side)
    u = np.arange(-reach * side, (reach + 1) * side)
    gauss = np.exp(-(u**2) / (2 * sigma**2)).reshape(-1, side).sum(0) / (math.sqrt(2 * PI) * sigma)
    band = np.fft.fftshift(np.fft.fft(gauss).real)[side // 2 - n // 2 : side // 2 - n // 2 + n]
    frequencies = range(-n // 2, n // 2)
    back = np.exp(2j * np.pi * np.outer(at / 2**j, frequencies) / n)
    return (back @ (band[:, None] * fourier(n, frequencies))).real / n


def support(big: np.ndarray, at_least: int) -> slice:
    """Shortest slice with every True of ``big``, extended to a length of at least ``at_least``."""
    (found,) = np.nonzero(big)
    start, stop = int(found[0]), int(found[-1]) + 1
    if stop - start < at_least:
        start = min(start, len(big) - at_least)
        stop = start + at_least
    return slice(start, stop)


class Level(nn.Module):
    """Maps of resolution 2^-j and their Fourier transforms.

    A map of n1 x n2 pixels is held as (p2, n1, n2 / p2, batch): its p2 (1 or 2) interleaved column sets one after the
    other, and its rows in p1 interleaved sets as well.
    """

    forward_a: Tensor
    forward_b: Tensor
    inverse_a: Tensor
    inverse_b: Tensor
    mirror: Tensor

    def __init__(self, sides: Sequence[int], j: int) -> None:
        super().__init__()
        n1, n2 = self.size = sides[0] >> j, sides[1] >> j
        self.phases = _phases(n1), _phases(n2)
        p2 = self.phases[1]
        self.shape = (p2, n1, n2 // p2)
        half = fourier(n1, range(-n1 // 2, 1))[:, _order(n1)]  # the other rows follow from conjugate symmetry
        columns = fourier(n2, range(-n2 // 2, -n2 // 2 + n2 // p2))
        register(self, forward_a=real_in(half), forward_b=np.stack([complex_b(columns[:, p::p2]) for p in range(p2)]))
        spot = np.arange((n1 // 2 + 1) * 2 * n2).reshape(-1, 2, n2)[n1 // 2 - 1 : 0 : -1]  # of minus a frequency
        self.register_buffer("mirror", torch.tensor(np.roll(spot[..., ::-1], 1, 2).ravel()), persistent=False)
        back1, back2 = (_interleaved(np.conj(fourier(n, range(n // _phases(n)))).T) for n in (n1, n2))
        register(self, inverse_a=np.stack([complex_a(matrix) for matrix in back1 * p2]))
        register(self, inverse_b=np.stack([complex_b(matrix) for matrix in back2]))

    def modulus(self, spectrum: Tensor, scratch: Scratch, out: Tensor | None = None) -> Tensor:
        """|inverse transform| of (n1, 2, n2, batch), frequencies from any origin (a shift only turns the phase)."""
        (n1, n2), (p1, p2), b = self.size, self.phases, spectrum.shape[-1]
        h1, h2 = n1 // p1, n2 // p2
        x = _butterfly(spectrum, 0, p1, scratch("a", p1, h1, 2, n2, b))
        x = _butterfly(x, 3, p2, scratch("b", p2, p1, h1, 2, h2, b))
        y = scratch("c", p2 * p1, 2 * h1, h2 * b)
        y = torch.bmm(self.inverse_a, x.reshape(p2 * p1, 2 * h1, h2 * b), out=y).view(p2, n1, 2 * h2, b)
        z = scratch("a", p2, n1, 2 * h2, b)
        for p, matrix in enumerate(self.inverse_b):
            torch.bmm(matrix.expand(n1, -1, -1), y[p], out=z[p])
        real, imaginary = z[:, :, :h2], z[:, :, h2:]
        out = scratch("modulus", *self.shape, b) if out is None else out
        return torch.mul(real, real, out=out).addcmul_(imaginary, imaginary).sqrt_()

    def spectrum(self, maps: Tensor, scratch: Scratch) -> Tensor:
        """(p2, n1, n2 / p2, batch) -> (n1, 2, n2, batch), frequencies from -n / 2 on."""
        (n1, n2), p2, b = self.size, self.phases[1], maps.shape[-1]
        rows, h2 = n1 // 2 + 1, n2 // p2
        y = scratch("c", p2, 2 * rows, h2 * b)
        torch.bmm(self.forward_a.expand(p2, -1, -1), maps.reshape(p2, n1, h2 * b), out=y)
        z = scratch("a", p2, rows, 2 * h2, b)
        for p, matrix in enumerate(self.forward_b):
            torch.bmm(matrix.expand(rows, -1, -1), y[p].view(rows, 2 * h2, b), out=z[p])
        z = z.view(p2, rows, 2, h2, b)
        x = scratch("spectrum", n1, 2, n2, b)
        if p2 == 1:
            x[:rows] = z[0]
        else:
            torch.add(z[0], z[1], out=x[:rows, :, :h2])
            torch.sub(z[0], z[1], out=x[:rows, :, h2:])
        torch.index_select(x[:rows].view(-1, b), 0, self.mirror, out=x[rows:].view(-1, b))
        x[rows:, 1].neg_()
        return x


class Lowpass(nn.Module):
    """phi_J of maps of resolution 2^-j, held as :class:`Level` holds them, at the pixels ``at`` of either axis."""

    low_a: Tensor
    low_b: Tensor

    def __init__(self, sides: Sequence[int], J: int, j: int, at: Sequence[np.ndarray]) -> None:
        super().__init__()
        low1, low2 = (lowpass(side, J, j, p)[:, _order(side >> j)] for side, p in zip(sides, at, strict=True))
        register(self, low_a=low1, low_b=low2)

    def forward(self, maps: Tensor) -> Tensor:
        """(k, p2, n1, n2 / p2, batch) -> (k, h', w', batch)."""
        k, p2, n1, h2, b = maps.shape
        x = torch.matmul(self.low_a, maps.view(k * p2, n1, h2 * b)).view(k, p2, -1, h2, b)
        return torch.matmul(self.low_b, x.transpose(1, 2).reshape(k, -1, p2 * h2, b))


class Wavelet(nn.Module):
    """Product with psi_j in Fourier space at resolution 2^-j_in, and subsampling to 2^-j by adding up aliases.

    Only the box of frequencies outside which psi_j is negligible is read.
    """

    values: Tensor

    def __init__(self, wave: np.ndarray, sides: Sequence[int], j_in: int, j: int) -> None:
        super().__init__()
        sizes = [side >> j_in for side in sides]
        (top, h), (left, w) = ((side // 2 - n // 2, n) for side, n in zip(sides, sizes, strict=True))
        wave = wave[top : top + h, left : left + w]  # the band that exists at this resolution
        self.size = [side >> j for side in sides]
        big = np.abs(wave) > CUTOFF * np.abs(wave).max()
        self.box = [support(big.any(1), self.size[0]), support(big.any(0), self.size[1])]
        register(self, values=wave[self.box[0], self.box[1]][:, None, :, None] / (h * w))

    def forward(self, spectrum: Tensor, scratch: Scratch) -> Tensor:
        """(n1, 2, n2, batch) -> (n1', 2, n2', batch)."""
        box = spectrum[self.box[0], :, self.box[1]]
        y = torch.mul(box, self.values, out=scratch("product", *box.shape))
        for dim, size in zip((0, 2), self.size, strict=True):
            length = y.shape[dim]
            for start in range(size, length, size):
                alias = y.narrow(dim, start, min(size, length - start))
                y.narrow(dim, 0, alias.shape[dim]).add_(alias)
            y = y.narrow(dim, 0, size)
        return y


class Scratch:
    """Named work space of one call: large tensors are neither asked for nor cleared again for every filter."""

    def __init__(self, like: Tensor) -> None:
        self.like, self.buffers = like, dict[str, Tensor]()

    def __call__(self, name: str, *shape: int) -> Tensor:
        size = math.prod(shape)
        if name not in self.buffers or self.buffers[name].numel() < size:
            self.buffers[name] = self.like.new_empty(size)
        return self.buffers[name][:size].view(shape)


def separable(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(rows, columns, batch) -> a x b^T for every item of the batch; a may turn a row into several."""
    y = a @ x.reshape(a.shape[1], -1)
    return torch.matmul(b, y.view(-1, b.shape[1], x.shape[-1]))


def register(module: nn.Module, **arrays: np.ndarray) -> None:
    for name, array in arrays.items():
        tensor = torch.tensor(np.ascontiguousarray(array), dtype=torch.float32)
        module.register_buffer(name, tensor, persistent=False)  # rebuilt from J, L and the shape


def _phases(n: int) -> int:
    return 2 if n >= SPLIT_SIDE else 1


def _interleaved(rows: np.ndarray) -> list[np.ndarray]:
    """Even and odd rows, where there are enough of them to transform them apart."""
    phases = _phases(len(rows))
    return [rows[p::phases] for p in range(phases)]


def _order(n: int) -> np.ndarray:
    """Pixels of an axis in the order in which a level holds them."""
    return np.concatenate(_interleaved(np.arange(n)))


def _butterfly(x: Tensor, dim: int, phases: int, out: Tensor) -> Tensor:
    """Sum and difference of the halves of axis ``dim``, stacked in front; with one phase, x itself."""
    if phases == 1:
        return x[None]
    half = x.shape[dim] // 2
    low, high = x.narrow(dim, 0, half), x.narrow(dim, half, half)
    torch.add(low, high, out=out[0])
    torch.sub(low, high, out=out[1])
    return out
