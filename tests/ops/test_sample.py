"""sample: the distribution, the tokens against float64, truncation, log-probs and contract."""

import pytest
import torch

import rlhf_kernels as rk
from rlhf_kernels.reference.sample import kept_probs, uniforms
from rlhf_kernels.reference.sample import sample as reference
from tests.ops.logits import DTYPES, VOCABS, isa, make_logits, poison, with_threads
from tests.tolerances import FLOOR_DOUBLE, FLOOR_NATS, assert_near_truth

__all__ = ["isa"]

#: A draw so near a step of the distribution function may fall on either side of it.
BOUNDARY = 1e-5
TRUNCATIONS = ({}, {"top_k": 5}, {"top_p": 0.7}, {"top_k": 20, "top_p": 0.9}, {"top_p": 0.999})


def places(n):
    """Row ids and positions, no two rows alike and some beyond 32 bits."""
    row_ids = torch.arange(n) * 3 - 1
    return row_ids, torch.arange(n) + (torch.arange(n) % 2) * 2**33


def assert_tokens_match(ours, logits, seed, row_ids, positions, **options):
    """The tokens are the truth's, or the draw lies at a boundary of theirs."""
    p = kept_probs(logits, **options)
    cdf = p.cumsum(-1)
    u = uniforms(seed, row_ids, positions) * cdf[:, -1]
    taken = ours.tokens[:, None]
    high = cdf.gather(1, taken)[:, 0]
    mass = p.gather(1, taken)[:, 0]
    assert (mass > 0).all()
    assert (u < high + BOUNDARY).all()
    assert (u >= high - mass - BOUNDARY).all()


def assert_values_match(ours, logits, **options):
    """The log-probs and the entropy of the drawn tokens, against float64."""
    floor = FLOOR_DOUBLE * 1e2 if logits.dtype == torch.float64 else FLOOR_NATS
    temperature = options.get("temperature", 1.0)
    same = rk.gather_logprobs(logits, ours.tokens, temperature=temperature)
    assert torch.equal(ours.logprobs, same.logprobs)
    assert torch.equal(ours.entropy, same.entropy)
    truth = kept_probs(logits, **options).gather(1, ours.tokens[:, None])[:, 0].log()
    assert_near_truth(ours.truncated_logprobs, truth, floor=floor)
    if not options.keys() & {"top_k", "top_p"}:
        assert torch.equal(ours.truncated_logprobs, ours.logprobs)


@pytest.mark.parametrize("options", TRUNCATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", VOCABS)
def test_tokens_and_log_probs_match_float64(isa, dtype, vocab, options):
    n = 4 if vocab > 10_000 else 16
    logits, at = make_logits(n, vocab, dtype), (11, *places(n))
    ours = rk.sample(logits, *at, **options)
    assert ours.tokens.dtype == torch.int64
    assert_tokens_match(ours, logits, *at, **options)
    assert_values_match(ours, logits, **options)


@pytest.mark.parametrize("options", TRUNCATIONS)
def test_temperature_per_row(isa, options):
    logits, at = make_logits(64, 3000), (5, *places(64))
    options = options | {"temperature": torch.linspace(0.2, 2.5, 64)}
    ours = rk.sample(logits, *at, **options)
    assert_tokens_match(ours, logits, *at, **options)
    assert_values_match(ours, logits, **options)
    one = rk.sample(logits, *at, **options | {"temperature": 0.7})
    assert_tokens_match(one, logits, *at, **options | {"temperature": 0.7})


def test_a_wrong_temperature_is_seen():
    logits, at = make_logits(256, 3000), (5, *places(256))
    with pytest.raises(AssertionError):
        assert_tokens_match(rk.sample(logits, *at, temperature=1.01), logits, *at)


def chi_square(tokens, p):
    """Return the statistic and its degrees of freedom; rare entries are counted together."""
    expected = p * len(tokens)
    counts = torch.bincount(tokens, minlength=len(p)).double()
    rare = expected < 10
    assert (counts[p == 0] == 0).all()
    expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
    counts = torch.cat([counts[~rare], counts[rare].sum()[None]])
    used = expected > 0
    return ((counts - expected)[used] ** 2 / expected[used]).sum(), int(used.sum()) - 1


@pytest.mark.parametrize("options", [*TRUNCATIONS, {"temperature": 1.7}])
@pytest.mark.parametrize("vary", ["row", "position"])
def test_draws_follow_the_distribution(options, vary):
    n = 20_000
    row = 0.3 * make_logits(1, 61)
    counted, fixed = torch.arange(n), torch.full((n,), 9)
    at = (counted, fixed) if vary == "row" else (fixed, counted)
    tokens = rk.sample(row.expand(n, 61), 2**64 - 3, *at, **options).tokens
    p = kept_probs(row, **options)[0]
    statistic, freedom = chi_square(tokens, p)
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5
    statistic, freedom = chi_square(tokens, p**0.9 / (p**0.9).sum())
    assert statistic > freedom + 5 * (2 * freedom) ** 0.5


def test_reference_tokens_are_the_same():
    logits, at = make_logits(200, 500), (3, *places(200))
    for options in TRUNCATIONS:
        ours, truth = rk.sample(logits, *at, **options), reference(logits, *at, **options)
        assert torch.equal(ours.tokens, truth[0])
        for mine, right in zip(ours[1:], truth[1:], strict=True):
            assert_near_truth(mine, right)


@pytest.mark.parametrize("options", TRUNCATIONS)
def test_a_row_does_not_depend_on_its_batch_or_on_the_threads(isa, options):
    logits, (row_ids, positions) = make_logits(70, 2500), places(70)
    full = rk.sample(logits, 1, row_ids, positions, **options)
    for part in (slice(0, 1), slice(63, 70), slice(5, 6)):
        some = rk.sample(logits[part], 1, row_ids[part], positions[part], **options)
        assert all(torch.equal(a, b[part]) for a, b in zip(some, full, strict=True))
    single = with_threads(1, lambda: rk.sample(logits, 1, row_ids, positions, **options))
    assert all(torch.equal(a, b) for a, b in zip(single, full, strict=True))


def test_seed_row_and_position_each_change_the_draw():
    logits = torch.zeros(1, 10_000)

    def token(seed, row, position):
        return int(rk.sample(logits, seed, torch.tensor([row]), torch.tensor([position])).tokens)

    places = [(0, 0, 0), (1, 0, 0), (2**32, 0, 0), (0, 1, 0), (0, 2**32, 0), (0, 0, 1)]
    places += [(0, 0, 2**32), (-1, 0, 0), (0, -1, 0), (0, 0, -1)]
    assert len({token(*place) for place in places}) == len(places)
    assert token(2**64 - 1, 0, 0) == token(-1, 0, 0)


def tokens_of(row, n=400, **options):
    """The set of tokens in many draws of one row."""
    rows = torch.tensor(row).expand(n, len(row))
    return set(
        rk.sample(rows, 1, torch.arange(n), torch.zeros(n).long(), **options).tokens.tolist()
    )


def test_top_k_keeps_ties(isa):
    assert tokens_of([1.0, 2.0, 1.0, 0.0, 2.0], top_k=1) == {1, 4}
    assert tokens_of([1.0, 2.0, 1.0, 0.0, 2.0], top_k=3) == {0, 1, 2, 4}
    assert tokens_of([0.0, -0.0, -1.0], top_k=1) == {0, 1}


def test_top_p_keeps_the_smallest_set_and_its_ties(isa):
    thirds = torch.tensor([0.5, 0.25, 0.125, 0.125]).log().tolist()
    assert tokens_of(thirds, top_p=1e-9) == {0}
    assert tokens_of(thirds, top_p=0.49) == {0}
    assert tokens_of(thirds, top_p=0.51) == {0, 1}
    assert tokens_of(thirds, top_p=0.76) == {0, 1, 2, 3}
    assert tokens_of(thirds, top_k=2, top_p=0.66) == {0}
    assert tokens_of(thirds, top_k=2, top_p=0.67) == {0, 1}
    assert tokens_of([3.0, 0.0, 3.0], top_p=1e-300) == {0, 2}
    assert tokens_of([3.0, 3.0, 3.0, 3.0], top_p=0.5) == {0, 1, 2, 3}


@pytest.mark.parametrize("top_k", [1, 3, 400, 2048, 4999])
def test_ties_across_blocks_and_any_k(isa, top_k):
    logits, at = make_logits(8, 5000).round(), (2, *places(8))
    ours = rk.sample(logits, *at, top_k=top_k)
    assert_tokens_match(ours, logits, *at, top_k=top_k)
    assert_values_match(ours, logits, top_k=top_k)


@pytest.mark.parametrize("top_p", [1e-6, 0.01, 0.5, 0.99999, 1 - 1e-12])
def test_any_top_p_on_flat_and_peaked_rows(isa, top_p):
    at = (2, *places(8))
    for logits in (0.01 * make_logits(8, 5000), make_logits(8, 5000), 5 * make_logits(8, 5000)):
        ours = rk.sample(logits, *at, top_p=top_p)
        if top_p < 0.9999:  # beyond, fp32 masses may end the set one entry earlier or later
            assert_tokens_match(ours, logits, *at, top_p=top_p)
        assert (ours.truncated_logprobs >= ours.logprobs - FLOOR_NATS).all()
        assert (ours.truncated_logprobs <= 0).all()


@pytest.mark.parametrize(
    "options", [{"top_k": 5000}, {"top_k": 9999}, {"top_p": 1.0}, {"top_k": 7}]
)
def test_nothing_truncated_has_the_bits_of_the_whole(isa, options):
    logits = torch.full((8, 5000), 0.3) if options == {"top_k": 7} else make_logits(8, 5000)
    ours, plain = (rk.sample(logits, 4, *places(8), **o) for o in (options, {}))
    assert torch.equal(ours.truncated_logprobs, ours.logprobs)
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))


@pytest.mark.parametrize("options", TRUNCATIONS)
def test_minus_infinity_is_never_drawn(isa, options):
    logits, at = make_logits(6, 9000), (2, *places(6))
    logits[0, :6000] = -torch.inf  # whole leading blocks
    logits[1, 100:] = -torch.inf  # trailing blocks
    logits[2, 1:] = -torch.inf  # all but one
    logits[3, :-1] = -torch.inf
    logits[4, ::2] = -torch.inf
    logits[5, :3000] -= 300.0  # a first block that ends below what fp32 can tell from 0
    ours = rk.sample(logits, *at, **options)
    assert_tokens_match(ours, logits, *at, **options)
    assert_values_match(ours, logits, **options)
    assert ours.tokens[2:4].tolist() == [0, 8999]
    assert (ours.truncated_logprobs[2:4] == 0).all()


@pytest.mark.parametrize("options", TRUNCATIONS)
def test_rows_without_a_distribution_give_minus_one_and_nan(isa, options):
    logits = make_logits(5, 5000)
    logits[0, 4999], logits[1, 0], logits[2, 2048] = torch.nan, torch.inf, torch.nan
    logits[3] = -torch.inf
    ours = rk.sample(logits, 3, *places(5), **options)
    assert ours.tokens[:4].tolist() == [-1] * 4
    assert ours.tokens[4] >= 0
    for values in ours[1:]:
        assert values.isnan().tolist() == [True] * 4 + [False]


@pytest.mark.parametrize("options", TRUNCATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_padding_columns_are_not_read(isa, dtype, options):
    logits, at = make_logits(3, 2049, dtype), (3, *places(3))
    ours, plain = (rk.sample(x, *at, **options) for x in (poison(logits), logits))
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))


def test_no_rows_no_gradient_and_a_large_vocabulary():
    none = torch.zeros(0, dtype=torch.int64)
    assert [t.shape for t in rk.sample(torch.zeros(0, 50257), 1, none, none)] == [(0,)] * 4
    logits, at = make_logits(2, 262144, torch.bfloat16).requires_grad_(), (1, *places(2))
    ours = rk.sample(logits, *at, top_p=0.95)
    assert not any(t.requires_grad for t in ours)
    assert_tokens_match(ours, logits.detach(), *at, top_p=0.95)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top_k": -1}, "'top_k' must be 0"),
        ({"top_p": 0.0}, r"'top_p' must lie in \(0, 1\]"),
        ({"top_p": 1.5}, "'top_p'"),
        ({"top_p": float("nan")}, "'top_p'"),
        ({"temperature": 0.0}, "'temperature'"),
        ({"temperature": torch.tensor([1.0, -1.0])}, "'temperature'"),
        ({"seed": 2**64}, "'seed' must lie in"),
        ({"row_ids": torch.zeros(3, dtype=torch.int64)}, r"'row_ids' must have shape \[2\]"),
        ({"positions": torch.zeros(2, dtype=torch.int32)}, "'positions' must be int64"),
        ({"logits": torch.zeros(2, 5, dtype=torch.int64)}, "'logits' must be float32"),
        ({"logits": torch.zeros(5, 2).t()}, "'logits' must have its vocabulary consecutive"),
    ],
)
def test_a_wrong_argument_is_named(change, message):
    zeros = torch.zeros(2, dtype=torch.int64)
    arguments = {"logits": torch.zeros(2, 5), "seed": 0, "row_ids": zeros, "positions": zeros}
    with pytest.raises(ValueError, match=message):
        rk.sample(**arguments | change)


def test_opcheck_and_compile():
    logits, (row_ids, positions) = make_logits(4, 60), places(4)
    temperatures = torch.linspace(0.5, 2, 4)
    op = torch.ops.rlhf_kernels.sample.default
    torch.library.opcheck(op, (logits, row_ids, positions, None, 0.8, 3, 0, 1.0))
    torch.library.opcheck(op, (logits, row_ids, positions, temperatures, 1.0, -3, 5, 0.9))
    compiled = torch.compile(rk.sample, fullgraph=True, backend="aot_eager")
    for seed in (3, 4, 2**63 - 1):
        for options in TRUNCATIONS[:2]:
            ours = compiled(logits, seed, row_ids, positions, **options)
            plain = rk.sample(logits, seed, row_ids, positions, **options)
            assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))
