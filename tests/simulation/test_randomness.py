"""Seeds: distinct where torch looks at them, the same again, and nothing global."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdeadapt.simulation.randomness import Purpose, SeedTree, _mix

WORD = 1 << 32


def unmix(x):
    """Invert `_mix`: multiplication by an odd number and xor with a right shift by 13 or 16 are bijections."""
    x ^= x >> 16
    x = x * pow(0xC2B2AE35, -1, WORD) % WORD
    x ^= x >> 13 ^ x >> 26
    x = x * pow(0x85EBCA6B, -1, WORD) % WORD
    return x ^ x >> 16


@given(st.integers(0, WORD - 1))
def test_the_low_word_is_a_bijection(x):
    assert unmix(_mix(x)) == x
    assert _mix(unmix(x)) == x


def words(tree, purposes=Purpose, levels=range(32), chunks=(*range(8), *range((1 << 23) - 4, 1 << 23))):
    return [tree.seed(*key) % WORD for key in itertools.product(purposes, levels, chunks)]


@pytest.mark.parametrize("rng", [0, 2**64, np.random.SeedSequence(5)])
def test_all_streams_of_a_tree_differ_in_their_low_words(rng):
    found = words(SeedTree.of(rng))
    assert len(set(found)) == len(found) == 12 * 32 * 12
    many = words(SeedTree.of(rng), [Purpose.CHAIN], [3], range(10_000))
    assert len(set(many)) == len(many)


def test_control_hashed_seeds_collide():
    """Of 2^17 random words of 32 bits no two coincide with probability exp(-2); in 5 draws, with exp(-10)."""
    counts = [len(np.unique(np.random.default_rng(i).integers(0, WORD, 1 << 17))) for i in range(5)]
    assert min(counts) < 1 << 17


def test_torch_reads_the_low_word_alone():
    """The reason for all this; if it ever fails, torch has changed and the bits of every result with it."""
    low, high = (torch.randn(4, generator=torch.Generator().manual_seed(s)) for s in (7, 7 + (5 << 32)))
    assert torch.equal(low, high)


def draws(tree, purpose=Purpose.CHAIN, level=0, chunk=0):
    return torch.randn(64, generator=tree.generator(purpose, level, chunk))


def test_same_key_same_bits():
    tree = SeedTree.of(3)
    assert torch.equal(draws(tree), draws(SeedTree.of(3)))
    assert torch.equal(draws(tree), draws(SeedTree.of(np.random.SeedSequence(3))))
    others = [draws(tree, Purpose.SDE), draws(tree, level=1), draws(tree, chunk=1), draws(SeedTree.of(4))]
    for a, b in itertools.combinations([draws(tree), *others], 2):
        assert float((a - b).abs().min()) > 0


def test_neighbouring_streams_are_uncorrelated():
    """The largest of 2016 correlations of 4096 draws stays below 4.8/64: two in a thousand times it would not."""
    tree = SeedTree.of(0)
    x = torch.stack([torch.randn(4096, generator=tree.generator(Purpose.SDE, 0, c)) for c in range(64)])
    assert float((torch.corrcoef(x) - torch.eye(64)).abs().max()) < 4.8 / 64


def test_nothing_global_is_read_or_set():
    torch.manual_seed(1)
    before, a = torch.random.get_rng_state(), draws(SeedTree.of(0))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    assert torch.equal(draws(SeedTree.of(0)), a)


@pytest.mark.parametrize("rng", [-1, True])
def test_rng_must_be_a_seed(rng):
    with pytest.raises(ValueError, match="`rng` must be a whole number >= 0 or a numpy SeedSequence; got"):
        SeedTree.of(rng)


@pytest.mark.parametrize(("level", "chunk"), [(32, 0), (0, 1 << 23), (-1, 0), (0, -1)])
def test_a_tree_has_an_end(level, chunk):
    with pytest.raises(ValueError, match=rf"at most 32 levels of 2\^23 chunks; got level {level}, chunk {chunk}"):
        SeedTree.of(0).seed(Purpose.CHAIN, level, chunk)
