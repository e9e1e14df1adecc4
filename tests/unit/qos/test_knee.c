/* SPDX-License-Identifier: Apache-2.0 */
/* Goal: from pairs of what was seen at two windows, k is found within a few pairs from anywhere, a
 * window that is wrong comes back whatever made it so, and noise does not take it away.
 * Method: a made-up storage, x(n) = min(n, k) / S with noise as of so many answers; a part of its
 * load may be reserved, which no look lowers unless it holds all. */
#include <math.h>

#include "qos_test.h"

#include "qos/knee.h"

#define EACH(i, a) (size_t i = 0; i < sizeof(a) / sizeof((a)[0]); i++)

struct storage {
    double k, service_s;
    double reserved; /* I/Os a second that are promised */
    double noise;    /* of each rate, beside that of its answers: a busy machine */
    double rate;     /* answered by the last pair's higher side, without noise */
    struct rng rng;
};

static double bell(struct storage *d)
{
    double sum = -6;
    for (int i = 0; i < 12; i++)
        sum += rng_unit(&d->rng);
    return sum;
}

/* What a window of @n shows in @seconds: what is reserved goes beside it, or is held too (@all). */
static struct knee_seen seen(struct storage *d, double n, bool all, double seconds)
{
    double own = d->reserved * d->service_s; /* in flight, by what is reserved */
    own = all && own > n ? n : own;
    own = own > n * 1.25 && !all ? fmax(n * 1.25, own) : own;
    double weighed = fmax(n - own, 0.05), total = own + weighed;
    double x = fmin(total, d->k) / d->service_s, by_weight = x * weighed / total;
    d->rate = x;
    double factor = fmax(1 + d->noise * bell(d), 0.05);
    double ios = fmax(x * seconds + 0.5 * sqrt(x * seconds) * bell(d), 0) * factor;
    double part = by_weight / x;
    return (struct knee_seen){.inflight = total,
                              .rate = ios / seconds,
                              .weighed_inflight = weighed,
                              .weighed_rate = part * ios / seconds,
                              .ios = ios,
                              .weighed_ios = part * ios};
}

static void one_pair(struct storage *d, struct knee *k)
{
    double low = (double)knee_low_milli(k) / 1000, high = (double)k->slots_milli / 1000;
    assert_true(low < high);
    double seconds = (double)knee_ios_wanted(k) * d->service_s / fmin(low, d->k);
    seconds = fmin(fmax(seconds, 0.075), 0.45);
    struct knee_seen l = seen(d, low, k->all, seconds), h = seen(d, high, k->all, 0.7);
    knee_pair(k, &h, &l);
}

static double mean_of(struct storage *d, struct knee *k, int pairs)
{
    double sum = 0;
    for (int i = 0; i < pairs; i++) {
        one_pair(d, k);
        sum += k->k;
    }
    return sum / pairs;
}

static struct storage storage_of(double k)
{
    struct storage d = {.k = k, .service_s = 0.001};
    rng_seed(&d.rng, test_seed());
    return d;
}

static const double ks[] = {1, 2, 3, 4, 8, 16, 64, 256, 1000};

static void k_is_found_from_anywhere(void **state)
{
    (void)state;
    for
        EACH(i, ks)
        {
            static const uint64_t begins[] = {0, 800, 16000, 1000000};
            for
                EACH(b, begins)
                {
                    struct storage d = storage_of(ks[i]);
                    struct knee k;
                    knee_init(&k, begins[b]);
                    int pairs = 0;
                    for (; k.far || k.calm < 2; pairs++) {
                        if (pairs == 16)
                            fail_msg("k %.0f from %.1f: still looked for", ks[i],
                                     (double)begins[b] / 1000);
                        one_pair(&d, &k);
                    }
                    if (fabs(k.k - d.k) > 0.25 * d.k + 1.1)
                        fail_msg("k %.0f from %.1f: %.2f after %d pairs", d.k,
                                 (double)begins[b] / 1000, k.k, pairs);
                }
        }
}

static void lost_servers_show_at_once_and_slower_ones_do_not(void **state)
{
    (void)state;
    for
        EACH(i, ks)
        {
            if (ks[i] < 8)
                continue;
            struct storage d = storage_of(ks[i]);
            struct knee k;
            knee_init(&k, (uint64_t)(d.k * 1000));
            (void)mean_of(&d, &k, 5);
            d.service_s *= 2;
            double v = mean_of(&d, &k, 20);
            if (fabs(v - d.k) > 0.3 * d.k)
                fail_msg("k %.0f, servers slower: %.2f", d.k, v);
            for (int half = 1; half >= 0; half--) {
                d.k = half ? ks[i] / 2 : ks[i];
                (void)mean_of(&d, &k, 6);
                v = mean_of(&d, &k, 20);
                if (fabs(v - d.k) > 0.3 * d.k + 0.4)
                    fail_msg("k is %.0f now: %.2f", d.k, v);
            }
        }
}

/* The window is forced down to almost nothing, as if all pairs before had been wrong and believed;
 * beside what is reserved next to nothing is left to compare. */
static void a_window_too_low_recovers_beside_what_is_reserved(void **state)
{
    (void)state;
    static const double parts[] = {0, 0.1, 0.3, 0.7};
    for
        EACH(i, ks)
        {
            for
                EACH(r, parts)
                {
                    struct storage d = storage_of(ks[i]);
                    d.reserved = parts[r] * d.k / d.service_s;
                    struct knee k;
                    knee_init(&k, (uint64_t)(d.k * 1000));
                    k.k = 0.8;
                    k.slots_milli = 1880;
                    k.far = false;
                    k.calm = 9;
                    int pairs = 0;
                    for (; k.k < 0.75 * d.k && pairs < 20; pairs++)
                        one_pair(&d, &k);
                    /* By three a pair, and two pairs until one holds what is reserved too. */
                    int most = 7 + (int)ceil(log(d.k / 0.8) / log(2.5));
                    if (pairs > most)
                        fail_msg("k %.0f, %.1f of it reserved: %.2f after %d pairs", d.k, parts[r],
                                 k.k, pairs);
                }
        }
}

/* A busy machine: rates that are off by a fifth, both ways, each time. No window may stay wrong:
 * whenever k is believed to be a third or less, it is back within 20 pairs. */
static void noise_keeps_no_window_too_low(void **state)
{
    (void)state;
    for
        EACH(i, ks)
        {
            struct storage d = storage_of(ks[i]);
            d.noise = 0.2;
            d.reserved = 0.2 * d.k / d.service_s;
            struct knee k;
            knee_init(&k, 0);
            (void)mean_of(&d, &k, 10);
            int low = 0, most = 0;
            double most_rate = d.k / d.service_s, sum = 0;
            for (int n = 0; n < 1000; n++) {
                one_pair(&d, &k);
                low = k.k < d.k / 3 ? low + 1 : 0;
                most = low > most ? low : most;
                sum += d.rate;
            }
            if (most > 20)
                fail_msg("k %.0f was below a third for %d pairs", d.k, most);
            if (sum / 1000 < 0.7 * most_rate)
                fail_msg("k %.0f: %.2f of what it can", d.k, sum / 1000 / most_rate);
        }
}

/* As two gateways saw it when their server was back, one of them with a reservation that takes all
 * of its part of the lower window. */
static void little_beside_what_is_reserved_does_not_say_how_far_up(void **state)
{
    (void)state;
    const struct knee_seen high = {.inflight = 10.29, .rate = 11033, .weighed_inflight = 6.01,
                                   .weighed_rate = 7734, .ios = 7000, .weighed_ios = 4080};
    const struct knee_seen low = {.inflight = 3.78, .rate = 3903, .weighed_inflight = 0.5,
                                  .weighed_rate = 660, .ios = 170, .weighed_ios = 90};
    struct knee k;
    knee_init(&k, 8000);
    knee_pair(&k, &high, &low);
    assert_true(k.far);
    assert_true(k.k > 10.29);
    assert_true(k.k < 16);
    struct knee_seen all = low; /* the same, with nothing reserved */
    all.inflight = all.weighed_inflight;
    knee_init(&k, 8000);
    knee_pair(&k, &high, &all);
    assert_true(k.k > 25);
}

static void a_pair_that_lowered_nothing_teaches_nothing_low(void **state)
{
    (void)state;
    struct knee k;
    knee_init(&k, 2000);
    struct knee_seen same = {.inflight = 3, .rate = 100, .weighed_inflight = 2, .weighed_rate = 70,
                             .ios = 100, .weighed_ios = 70};
    double before = k.k;
    knee_pair(&k, &same, &same);
    assert_true(k.k == before);
    assert_true(k.all); /* look again, and hold everything */
    knee_pair(&k, &same, &same);
    assert_true(k.k > before); /* that did not help either: only up can tell */
}

/* As it was seen after a device had become slower: what is reserved took most of the window. */
static void the_little_beside_what_is_reserved_is_not_compared(void **state)
{
    (void)state;
    struct knee k;
    knee_init(&k, 7000);
    double was = k.k;
    const struct knee_seen high = {.inflight = 3.7, .rate = 1834, .weighed_inflight = 0.8,
                                   .weighed_rate = 206, .ios = 2569, .weighed_ios = 280};
    const struct knee_seen low = {.inflight = 3.0, .rate = 1685, .weighed_inflight = 0.1,
                                  .weighed_rate = 14, .ios = 900, .weighed_ios = 8};
    knee_pair(&k, &high, &low);
    assert_true(k.k == was);
    assert_true(k.all);
    /* All of it is: up it went, and so does k. */
    const struct knee_seen less = {.inflight = 1.9, .rate = 950, .weighed_inflight = 0.1,
                                   .weighed_rate = 14, .ios = 500, .weighed_ios = 8};
    knee_pair(&k, &high, &less);
    assert_true(k.k > was);
    assert_true(k.all);
}

static void less_is_believed_when_two_pairs_say_so(void **state)
{
    (void)state;
    struct storage d = storage_of(16);
    struct knee k;
    knee_init(&k, 16000);
    (void)mean_of(&d, &k, 10);
    double before = k.k;
    assert_false(k.far);
    struct knee_seen high = {.inflight = 18, .rate = 1000, .weighed_inflight = 18,
                             .weighed_rate = 1000, .ios = 700, .weighed_ios = 700};
    struct knee_seen low = high;
    low.inflight = low.weighed_inflight = 12;
    knee_pair(&k, &high, &low);
    assert_true(k.k == before);
    assert_int_equal(k.calm, 0); /* asked again at once */
    knee_pair(&k, &high, &low);
    assert_true(k.k < 0.75 * before);
}

static void a_window_too_wide_to_hold_anything_comes_back(void **state)
{
    (void)state;
    struct storage d = storage_of(4);
    struct knee k;
    knee_init(&k, 1000000);
    uint64_t before = k.slots_milli;
    knee_too_wide(&k, 2000, 0); /* more than it lets go: it is not what holds */
    assert_int_equal(k.slots_milli, before);
    for (int i = 0; i < 10; i++)
        knee_too_wide(&k, 144, 0);
    assert_true(k.slots_milli < 144000);
    (void)mean_of(&d, &k, 8);
    double v = mean_of(&d, &k, 20);
    if (fabs(v - d.k) > 0.2 * d.k + 0.6)
        fail_msg("k 4: %.2f", v);
}

/* Four in flight, all of them reserved, and a promise that no window keeps. */
static void a_window_leaves_what_is_reserved_its_place(void **state)
{
    (void)state;
    struct knee k;
    knee_init(&k, 32000);
    for (int i = 0; i < 30; i++)
        knee_too_wide(&k, 4, 4);
    assert_true(k.k >= 4);
    for (int i = 0; i < 30; i++)
        knee_too_wide(&k, 4, 1);
    assert_true(k.k < 4);
}

static void the_wait_is_kept_below_its_bound_and_given_back(void **state)
{
    (void)state;
    struct knee k;
    knee_init(&k, 64000);
    uint64_t whole = k.slots_milli;
    for (int i = 0; i < 20; i++)
        knee_wait(&k, 1000000, 3000000);
    assert_in_range(k.slots_milli, 63900, whole - 1000); /* never below k */
    knee_wait(&k, 0, 3000000);
    assert_int_equal(k.slots_milli, whole);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(k_is_found_from_anywhere),
        cmocka_unit_test(lost_servers_show_at_once_and_slower_ones_do_not),
        cmocka_unit_test(a_window_too_low_recovers_beside_what_is_reserved),
        cmocka_unit_test(noise_keeps_no_window_too_low),
        cmocka_unit_test(little_beside_what_is_reserved_does_not_say_how_far_up),
        cmocka_unit_test(a_pair_that_lowered_nothing_teaches_nothing_low),
        cmocka_unit_test(the_little_beside_what_is_reserved_is_not_compared),
        cmocka_unit_test(less_is_believed_when_two_pairs_say_so),
        cmocka_unit_test(a_window_too_wide_to_hold_anything_comes_back),
        cmocka_unit_test(a_window_leaves_what_is_reserved_its_place),
        cmocka_unit_test(the_wait_is_kept_below_its_bound_and_given_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
