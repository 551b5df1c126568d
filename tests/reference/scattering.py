"""Slow transcription of the wavelet scattering transform: one image and one path at a time, NumPy only.

Mallat 2012, "Group invariant scattering"; Bruna and Mallat 2013, "Invariant scattering convolution networks".
Filters are sampled in space and made periodic copy by copy; each convolution is a product of full transforms, each
subsampling takes every 2^j-th pixel. Filters at a lower resolution keep the frequencies that exist there.
"""

from __future__ import annotations

import math

import numpy as np

PI = 3.1415  # as in the customary norm of the filters


def gabor(n1, n2, sigma, theta, xi, slant, copies=5):
    x, y = np.meshgrid(*(np.arange(-copies * n, (copies + 1) * n) for n in (n1, n2)), indexing="ij")
    along, across = x * math.cos(theta) + y * math.sin(theta), y * math.cos(theta) - x * math.sin(theta)
    values = np.exp(-(along**2) / (2 * sigma**2) - across**2 * slant**2 / (2 * sigma**2) + 1j * xi * along)
    out = np.zeros((n1, n2), complex)
    for top in range(0, len(values), n1):
        for left in range(0, values.shape[1], n2):
            out += values[top : top + n1, left : left + n2]
    return out / (2 * PI * sigma**2 / slant)


def morlet(n1, n2, j, t, L):
    theta = (L - L // 2 - 1 - t) * math.pi / L
    wave = gabor(n1, n2, 0.8 * 2**j, theta, 3 * math.pi / 4 / 2**j, 4 / L)
    bump = gabor(n1, n2, 0.8 * 2**j, theta, 0, 4 / L)
    return np.fft.fft2(wave - bump * wave.sum() / bump.sum())


def at_resolution(spectrum, j):
    """The frequencies -n / 2^(j+1) ... n / 2^(j+1) - 1 of both axes."""
    keep = [[k % n for k in (*range(n // 2**j // 2), *range(-(n // 2**j // 2), 0))] for n in spectrum.shape]
    return spectrum[np.ix_(*keep)]


def convolve(u, spectrum, step):
    return np.fft.ifft2(np.fft.fft2(u) * spectrum)[::step, ::step]


def filters(n1, n2, J, L):
    psi = {(j, t): morlet(n1, n2, j, t, L) for j in range(J) for t in range(L)}
    return psi, *(np.fft.fft2(gabor(n1, n2, 0.8 * 2 ** (scale - 1), 0, 0, 1)) for scale in (J, J - 1))


def margins(side, J):
    padded = (side // 2**J + 2) * 2**J
    return (padded - side) // 2, padded - side - (padded - side) // 2


def pad(image, J):
    return np.pad(image, [margins(side, J) for side in image.shape], mode="reflect")


def finer_scattering(image, J, L, bank):
    """The maps that scale J has, of the wavelets of scale J - 1, averaged at scale J - 1 and read at its places."""
    u0 = pad(np.asarray(image, float), J)
    psi, _, phi = bank

    def smooth(u, j):
        everywhere = convolve(u, at_resolution(phi, j), 1).real
        rows, columns = (
            [(2 ** (J - 1) * (i + 1) - margins(side, J - 1)[0] + margins(side, J)[0]) / 2**j for i in range(count)]
            for side, count in zip(image.shape, (side // 2 ** (J - 1) for side in image.shape), strict=True)
        )
        assert all(place == int(place) for place in rows + columns)
        return everywhere[np.ix_(np.array(rows, int), np.array(columns, int))]

    zero, one, two = [smooth(u0, 0)], [], []
    fine = {key: wave for key, wave in psi.items() if key[0] < J - 1}
    for (j1, _), wave1 in fine.items():
        u1 = abs(convolve(u0, wave1, 2**j1))
        one.append(smooth(u1, j1))
        for (j2, _), wave2 in fine.items():
            if j2 > j1:
                two.append(smooth(abs(convolve(u1, at_resolution(wave2, j1), 2 ** (j2 - j1))), j2))
    return np.array(zero + one + two)


def scattering(image, J, L, bank=None):
    """(h, w) -> (channels, h // 2^J, w // 2^J)."""
    u0 = pad(np.asarray(image, float), J)
    psi, phi, _ = bank or filters(*u0.shape, J, L)

    def smooth(u, j):
        return convolve(u, at_resolution(phi, j), 2 ** (J - j)).real[1:-1, 1:-1]

    zero, one, two = [smooth(u0, 0)], [], []
    for (j1, _), wave1 in psi.items():
        u1 = abs(convolve(u0, wave1, 2**j1))
        one.append(smooth(u1, j1))
        for (j2, _), wave2 in psi.items():
            if j2 > j1:
                u2 = abs(convolve(u1, at_resolution(wave2, j1), 2 ** (j2 - j1)))
                two.append(smooth(u2, j2))
    return np.array(zero + one + two)
